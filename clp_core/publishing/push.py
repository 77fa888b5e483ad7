"""Push a model to the Hub: first what would be pushed, with the whole card; then the files, and one commit.

Large files go up one after the other and count for nothing until the commit, which comes last: a push that is
interrupted changes no file of the repository, and the next one sends only what the Hub has not yet.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from clp_core.checkpoints.checkpoint import INDEX_FILE
from clp_core.checkpoints.safetensors_reader import read_header
from clp_core.errors import ClpError, InputError
from clp_core.files.artifacts import CURVE_FILE, REPORT_FILE, TRAINING_FILE
from clp_core.files.json_files import read_json
from clp_core.files.model_files import checkpoint_files, chosen_weights
from clp_core.hub.access_tokens import refuse_access_tokens
from clp_core.hub.errors import explained, has_token, is_unreachable, patiently, status_of
from clp_core.jobs.training_checkpoints import OPTIMISER_FILES, is_complete
from clp_core.model_cards.card import Card, CardFields, kept_card
from clp_core.progress import report_progress
from clp_core.publishing.export import COMPANIONS
from clp_core.publishing.push_options import PushOptions
from clp_core.publishing.push_result import FileSize, LeftOut, PushResult
from clp_core.publishing.training_facts import curve_csv, run_of_checkpoint, runs_behind
from clp_core.reports.licence import Licence, bare, replaced
from clp_core.reports.training_facts import training_json
from clp_core.reports.transfer_report import TransferReport, read_transfer_report
from clp_core.tokenization.tokenizer_reading import TOKENIZER_FILES
from clp_core.workspace import Workspace

CARD_FILE = "README.md"
ALSO_PUSHED = ("*.safetensors", "*.tiktoken", "LICENSE*", "LICENCE*", "NOTICE*")
MODEL_FILES = ("*.safetensors", INDEX_FILE, "pytorch_model*.bin", "pytorch_model.bin.index.json", "*.tiktoken",
               "config.json", *COMPANIONS, TRAINING_FILE, CURVE_FILE)  # fmt: skip
"""Files of a repository that go when a model is pushed that has none of that name: with them it would load wrongly."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
RUN_STATE = (*OPTIMISER_FILES, "training_args.bin", "trainer_state.json", "clp_run.json", "manifest.json")
CLEANED = ("config.json", "tokenizer_config.json")
BEAT_S = 10.0


@dataclass(frozen=True)
class Remote:
    """How a repository stands on the Hub.

    Attributes:
        exists: whether it is there; ``None`` where that cannot be seen.
        private: whether it is private.
        files: its files at the top.
        user: who is logged in here, empty if nobody.
        problems: why a push would fail.
    """

    exists: bool | None
    private: bool = True
    files: tuple[str, ...] = ()
    user: str = ""
    problems: tuple[str, ...] = ()

    @classmethod
    def ask(cls, repo: str) -> Remote:
        """Ask the Hub who is logged in, and what it holds under a name; nothing is changed."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        api, problems, user = HfApi(), [], ""
        try:
            if has_token():
                who = patiently(api.whoami)
                user = str(who.get("name", ""))
                owner, mine = repo.partition("/")[0], {user, *(str(org.get("name")) for org in who.get("orgs", []))}
                if owner not in mine:
                    problems.append(f"{user}, who is logged in, cannot push to {owner}; choose {user}/...")
            else:
                problems.append("nobody is logged in on the Hub here; run `hf auth login` in a terminal")
            info = patiently(lambda: api.model_info(repo))
        except RepositoryNotFoundError:
            return cls(False if user else None, user=user, problems=tuple(problems))
        except Exception as error:
            if status_of(error) == 401 or type(error).__name__ == "LocalTokenNotFoundError":
                problems.append("the Hub does not know the token that is used here; run `hf auth login` again")
            elif is_unreachable(error):
                problems.append("the Hub could not be reached")
            else:
                with explained(repo, "pushed"):
                    raise
            return cls(None, user=user, problems=tuple(problems))
        files = tuple(file.rfilename for file in info.siblings or [] if "/" not in file.rfilename)
        return cls(True, bool(info.private), files, user, tuple(problems))


@dataclass(frozen=True)
class PushPlan:
    """What a push will do.

    Attributes:
        options: what was asked for.
        folder: the model.
        contents: what is pushed, by its name: a file as it is, or bytes made for it.
        left_out: files of the folder that are not pushed, with the reason.
        licence: under which it is given on.
        remote: how the repository stands.
    """

    options: PushOptions
    folder: Path
    contents: Mapping[str, Path | bytes]
    left_out: Mapping[str, str]
    licence: Licence | None
    remote: Remote
    card: str = field(repr=False)

    @classmethod
    def make(cls, options: PushOptions, workspace: Workspace) -> PushPlan:
        """Look at the folder and at the repository.

        Raises:
            InputError: the folder is no whole model, or holds pickles.
        """
        folder = Path(options.model).expanduser()
        refuse_no_model(folder)
        report, runs = read_transfer_report(folder, for_card=True), runs_behind(folder)
        told = replaced(read_json(folder / REPORT_FILE), report.names_of_paths(workspace)) if report else {}
        public = TransferReport.of_json(told) if report else None
        name = options.repo.partition("/")[2]
        card = Card(name, public, runs)
        source = card.origins.get("source")
        licence = Licence(options.license) if options.license else (source.licence if source else None)
        fields = CardFields(licence, options.language, options.dataset, options.repo, options.dataset_license)
        own = Card(folder.name, report, runs)
        text = kept_card(folder / CARD_FILE, own, Card(name, public, runs, fields))
        made: dict[str, bytes] = {CARD_FILE: text.encode()}
        if report:
            made[REPORT_FILE] = as_json(told)
        if runs:
            made |= {TRAINING_FILE: as_json(training_json(runs)), CURVE_FILE: curve_csv(runs).encode()}
        refuse_access_tokens([data.decode() for data in made.values()])
        contents: dict[str, Path | bytes] = {}
        left_out = {}
        for path in sorted(path for path in folder.iterdir() if path.name not in made):
            why = reason_left_out(path, folder)
            if why:
                left_out[path.name] = why
            else:
                contents[path.name] = cleaned(path) if path.name in CLEANED else path
        return cls(options, folder, contents | made, left_out, licence, Remote.ask(options.repo), text)

    @property
    def removed(self) -> list[str]:
        """Files of the repository that go: of a model that was there before, where this one has none of that name."""
        return [
            name
            for name in self.remote.files
            if name not in self.contents and any(fnmatch(name, pattern) for pattern in MODEL_FILES)
        ]

    @property
    def problems(self) -> list[str]:
        """Why it cannot be pushed as it is; empty where it can."""
        found = list(self.remote.problems)
        if self.licence is None:
            found.append(
                "no licence is stated: the source's card names none, and others may not use a model without one; "
                "give --license, which the source's, the helper's and the text's must allow"
            )
        if self.remote.exists and not self.remote.private and not self.options.public:
            found.append(f"{self.options.repo} is public; add --public to push to it")
        return found

    @property
    def notes(self) -> list[str]:
        """What a user should know beside the list of files."""
        found = []
        if self.remote.exists and self.remote.private and self.options.public:
            found.append("the repository is private and stays so; its own page on the Hub changes that")
        replaced = sorted(set(self.remote.files) & set(self.contents))
        if replaced:
            found.append(f"replaced in the repository: {', '.join(replaced)}")
        if self.removed:
            found.append(f"removed from the repository, where they belong to another model: {', '.join(self.removed)}")
        return found

    def size_of(self, name: str) -> int:
        """Return the bytes of a file that is pushed."""
        content = self.contents[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    @property
    def result(self) -> PushResult:
        """What would be pushed."""
        private = self.remote.private if self.remote.exists else not self.options.public
        files = tuple(FileSize(name, self.size_of(name)) for name in sorted(self.contents))
        return PushResult(
            repo=self.options.repo,
            visibility="private" if private else "public",
            exists=self.remote.exists,
            user=self.remote.user,
            licence=str(self.licence) if self.licence else None,
            files=files,
            bytes=sum(file.bytes for file in files),
            left_out=tuple(LeftOut(name, reason) for name, reason in self.left_out.items()),
            removed=tuple(self.removed),
            problems=tuple(self.problems),
            notes=tuple(self.notes),
            card=self.card,
            dry_run=self.options.dry_run,
        )


def push(options: PushOptions, workspace: Workspace) -> PushResult:
    """Push a model, or say what would be pushed.

    Raises:
        InputError: the folder is no whole model, or something stands against the push.
        ClpError: the Hub or the network failed.
    """
    report_progress("looking at the model and the repository")
    plan = PushPlan.make(options, workspace)
    if options.dry_run:
        return plan.result
    if plan.problems:
        raise InputError("; ".join(plan.problems))
    with explained(options.repo, "pushed"):
        return send(plan)


def send(plan: PushPlan) -> PushResult:
    """Make the repository if need be, send the files, and commit them at once."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, repo, result = HfApi(), plan.options.repo, plan.result
    if not plan.remote.exists:
        patiently(lambda: api.create_repo(repo, private=not plan.options.public, exist_ok=True))
    names = sorted(plan.contents, key=plan.size_of)
    total, done, additions = sum(map(plan.size_of, names)), 0, []
    for name in names:
        content = plan.contents[name]
        addition = CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        with beating(f"uploading {name}", done, total):
            patiently(lambda one=addition: api.preupload_lfs_files(repo, [one]))  # type: ignore[misc]
        additions.append(addition)
        done += plan.size_of(name)
    report_progress("committing", 1.0, bytes_done=done, bytes_total=total)
    deletions = [CommitOperationDelete(name) for name in plan.removed]
    message = plan.options.message or f"Push {plan.folder.name} by CLP Workbench"
    made = patiently(lambda: api.create_commit(repo, [*additions, *deletions], commit_message=message))
    held = patiently(lambda: api.model_info(repo, revision=made.oid, files_metadata=True)).siblings or []
    sizes = {file.rfilename: file.size for file in held}
    wrong = [name for name in names if sizes.get(name) != plan.size_of(name)]
    if wrong:
        raise ClpError(f"{repo} does not hold {', '.join(wrong)} as pushed; run it again")
    return replace(result, url=f"{api.endpoint}/{repo}", commit=made.oid, exists=True)


@contextlib.contextmanager
def beating(phase: str, done: int, total: int) -> Iterator[None]:
    """Say again and again what is being done: the client tells nothing of a file until all of it is there."""
    over = threading.Event()

    def beat() -> None:
        while True:
            report_progress(phase, done / max(total, 1), bytes_done=done, bytes_total=total)
            if over.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def refuse_no_model(folder: Path) -> None:
    """Refuse a folder that is no whole model, or whose weights are pickles.

    Raises:
        InputError: it is.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; name the model's folder")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json, so it is no model folder")
    if run_of_checkpoint(folder.absolute()) and not is_complete(folder):
        raise InputError(f"{folder.name} is no complete checkpoint; push another, or export one")
    pickles = [
        path.name
        for path in sorted(folder.iterdir())
        if any(fnmatch(path.name, pattern) for pattern in PICKLES) and not is_run_state(path.name)
    ]
    if pickles:
        raise InputError(
            f"{folder} holds pickles, which can run code on who opens them: {', '.join(pickles)}; "
            "keep safetensors only, as `clp transfer` and `clp jobs export` write them"
        )
    files = checkpoint_files(folder)
    if not files:
        raise InputError(f"{folder} holds no weights (model.safetensors)")
    held = {name for path in files for name in read_header(path)[0]}
    index = weights_index(folder)
    absent = set(read_json(index)["weight_map"]) - held if index is not None else set()
    if absent:
        raise InputError(f"{folder} lacks the tensor {min(absent)}, which its index names; fetch or export it again")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES) and not any(folder.glob("*.tiktoken")):
        raise InputError(f"{folder} holds no tokenizer, without which nobody can use the model")


def weights_index(folder: Path) -> Path | None:
    """Return the index that transformers loads the weights by; ``None`` for a single file."""
    weights = chosen_weights(folder)
    return weights.index if weights is not None else None


def is_run_state(name: str) -> bool:
    """Say whether a file is what a run needs to go on, not what a model is."""
    return any(fnmatch(name, pattern) for pattern in RUN_STATE)


def reason_left_out(path: Path, folder: Path) -> str:
    """Return why a file of the folder is not pushed; empty where it is."""
    name = path.name
    if is_run_state(name):
        return "optimiser or run state"
    if not path.is_file():
        return "no file"
    if name.endswith(".safetensors") and path not in checkpoint_files(folder):
        return "not among the weights that are loaded"
    if name == INDEX_FILE and path != weights_index(folder):
        return "not the index of the weights that are loaded"
    if name in ("config.json", INDEX_FILE, *COMPANIONS) or any(fnmatch(name, pattern) for pattern in ALSO_PUSHED):
        return ""
    return "no part of a model"


def cleaned(path: Path) -> Path | bytes:
    """Return a configuration without a folder of this machine that it was once read from."""
    content = read_json(path)
    found = {key: bare(content[key]) for key in ("_name_or_path", "name_or_path") if key in content}
    if all(content[key] == value for key, value in found.items()):
        return path
    return as_json(content | found)


def as_json(content: Any) -> bytes:
    """Return what a JSON file holds."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
