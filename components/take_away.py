"""Take a run's checkpoint away: its path, an exported folder, one file to download, a push to the Hub."""

from __future__ import annotations

import io
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import streamlit as st

from clp_core.files.hashing import fingerprint
from clp_core.files.slug import slug_of
from clp_core.jobs import Job, JobStore
from clp_core.jobs.training_checkpoints import best_of, read_manifest, step_of
from clp_core.options import command_of, help_of
from clp_core.publishing.export_options import SOURCE, ExportOptions
from clp_core.publishing.push_options import PushOptions
from clp_core.publishing.push_result import PushResult
from clp_core.submission import submit_export, submit_push
from components.jobs import follow, result_or_error
from components.messages import command, errors_as_messages, number, offer_file, plain, size
from components.models import workspace
from components.path_confinement import confined

DOWNLOAD_LIMIT = 256 << 20
"""Bytes of a model that the browser may fetch: the server holds a download in memory whole."""
DTYPES = (SOURCE, "float32", "bfloat16", "float16")


def section(run: Job) -> None:
    """Show all ways to take a checkpoint of a run away."""
    checkpoints = run.checkpoints()
    if not checkpoints:
        return
    st.subheader("Take it away")
    with errors_as_messages():
        left, right = st.columns(2, gap="large")
        with left:
            chosen = choose_checkpoint(run, checkpoints)
            offer_export(run, chosen)
        with right:
            exported = exported_folders(run)
            if not exported:
                st.info(
                    "Export a checkpoint first: a plain model folder without optimiser and run state, to be "
                    "downloaded or pushed to the Hub.",
                    icon=":material/info:",
                )
                return
            by_name = {folder.name: folder for folder in exported}
            name = st.selectbox("Exported model", list(by_name), key=f"exported_{run.id}_{len(exported)}")
            folder = by_name[str(name)]
            offer_download(folder)
            with st.expander("Push to the Hub", expanded=newest("push", {"model": str(folder)}) is not None):
                offer_push(folder)


def choose_checkpoint(run: Job, checkpoints: list[Path]) -> Path:
    """Let the user choose a checkpoint, the best one first, and show where it lies."""
    best, last = best_of(checkpoints), checkpoints[-1]
    by_step = {step_of(path): path for path in checkpoints[::-1]}

    def told(step: int) -> str:
        path = by_step[step]
        bits = read_manifest(path).get("bits_per_byte")
        marks = [word for word, marked in (("best", best), ("last", last)) if path == marked]
        score = f"{number(bits, 3)} bits per byte" if bits is not None else ""
        return " · ".join(filter(None, (f"step {number(step)}", score, ", ".join(marks))))

    step = st.selectbox(
        "Checkpoint",
        list(by_step),
        index=list(by_step.values()).index(best or last),
        format_func=told,
        key=f"take_{run.id}_{last.name}",
        help="each is a model of the workspace: choose it on the pages Tokens and Projection, or train it on",
    )
    chosen = by_step[int(step or 0)]
    st.code(str(chosen), language="text", wrap_lines=True)
    return chosen


def offer_export(run: Job, checkpoint: Path) -> None:
    """Show what would be exported and the button, or how the export goes."""
    space, step = workspace(), step_of(checkpoint)
    suggested = f"{slug_of(run.name)}-{step}"
    row = st.columns([3, 2])
    name = row[0].text_input("Name of the exported model", suggested, key=f"export_name_{run.id}_{suggested}").strip()
    dtype = str(
        row[1].selectbox("Data type", DTYPES, help=help_of(ExportOptions, "dtype"), key=f"export_dtype_{run.id}")
    )
    if not is_plain_name(name):
        st.error("Give the model a plain name without slashes.", icon=":material/error:")
        return
    options = ExportOptions(run.id, str(space.models / name), checkpoint=str(step), dtype=dtype)
    job = newest("export", {"output": options.output})
    if job is not None and not job.status().is_over:
        follow(job)
        return
    if job is not None and job.status().state == "failed":
        st.error(plain(f"The last try failed: {job.status().reason}"), icon=":material/error:")
    command(command_of(options))
    exists = Path(options.output).exists()
    if exists:
        made = job is not None and job.status().state == "finished" and job.result().get("output") == options.output
        done = f"Exported as {plain(name)}." if made else f"{plain(name)} exists and is kept."
        st.caption(f"{done} Another name makes another export.")
    if st.button("Export", icon=":material/output:", key=f"export_{run.id}", disabled=exists):
        submit_export(space, options)
        st.rerun()


def is_plain_name(name: str) -> bool:
    """Say whether a name is that of a folder directly in another one."""
    return bool(name) and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\")


def exported_folders(run: Job) -> list[Path]:
    """Return the models that were exported from a run and are still there, the newest first."""
    space, found = workspace(), []
    for job in JobStore(space.jobs).jobs():
        told = job.spec.get("arguments", {})
        if job.kind == "export" and told.get("job") == run.id and job.status().state == "finished":
            folder = Path(str(told.get("output")))
            if folder.is_dir() and folder not in found:
                found.append(confined(folder, space))
    return found


def newest(kind: str, wanted: dict[str, object]) -> Job | None:
    """Return the newest job of a kind with these arguments among its own."""
    for job in JobStore(workspace().jobs).jobs():
        told = job.spec.get("arguments", {})
        if job.kind == kind and all(told.get(key) == value for key, value in wanted.items()):
            return job
    return None


def offer_download(folder: Path) -> None:
    """Show where a model lies, and offer it as one file if it is small enough for that."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    st.code(str(folder), language="text", wrap_lines=True)
    if total <= DOWNLOAD_LIMIT:
        offer_file(
            f"Download as one file ({size(total)})",
            lambda: tar_of(folder),
            f"{folder.name}.tar",
            "application/x-tar",
        )
        return
    st.caption(
        f"{size(total)} is more than the {size(DOWNLOAD_LIMIT)} that are offered in the browser, as the server would "
        "hold it all in memory. From your own machine:"
    )
    st.code(f"rsync -av --partial {socket.gethostname()}:'{folder}' .", language="bash", wrap_lines=True)


def tar_of(folder: Path) -> bytes:
    """Return the files of a model as one archive, not compressed: weights do not get smaller."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                archive.add(path, f"{folder.name}/{path.name}")
    return written.getvalue()


def offer_push(folder: Path) -> None:
    """Ask for what only the user can say, show the dry run, and offer the push once nothing stands against it."""
    space = workspace()
    asked = push_form(folder)
    if asked is None:
        return
    job = newest("push", arguments(asked))
    if job is not None and not job.status().is_over:
        follow(job)
        return
    dry = newest("push", arguments(replace(asked, dry_run=True)))
    if dry is not None and not dry.status().is_over:
        follow(dry)
        return
    is_pushed = job is not None and (dry is None or job.created > dry.created)
    if is_pushed and job is not None:
        show_pushed(job)
    if dry is None or dry.status().state != "finished" or not is_of_now(dry, folder):
        if dry is not None and dry.status().state != "finished":
            st.error(plain(f"The dry run {dry.status().state}: {dry.status().reason}"), icon=":material/error:")
        command(command_of(replace(asked, dry_run=True)))
        label = "Dry run"
    else:
        if not is_pushed and show_dry_run(dry):
            command(command_of(asked))
            if st.button(
                f"Push to {plain(asked.repo)}", type="primary", icon=":material/upload:", key=f"push_{folder.name}"
            ):
                submit_push(space, asked)
                st.rerun()
        label = "Dry run again"
    if st.button(label, icon=":material/preview:", key=f"dry_{folder.name}", help="reads only, pushes nothing"):
        submit_push(space, replace(asked, dry_run=True))
        st.rerun()


def push_form(folder: Path) -> PushOptions | None:
    """Return what the form asks for; ``None`` until a repository is named."""
    before = newest("push", {"model": str(folder)})
    told = before.spec["arguments"] if before is not None else {}
    key = folder.name
    repo = st.text_input(
        "Repository",
        told.get("repo", ""),
        placeholder="owner/name",
        help=help_of(PushOptions, "repo"),
        key=f"repo_{key}",
    ).strip()
    row = st.columns(2)
    licence = row[0].text_input(
        "Licence", told.get("license", ""), placeholder="the source's", help=help_of(PushOptions, "license"),
        key=f"licence_{key}",
    ).strip()  # fmt: skip
    languages = row[1].text_input(
        "Languages", ", ".join(told.get("language", [])), placeholder="de", help="codes, with commas between them",
        key=f"languages_{key}",
    )  # fmt: skip
    row = st.columns(2)
    datasets = row[0].text_input(
        "Training texts",
        ", ".join(told.get("dataset", [])),
        help="names for the card, with commas between them: ids of the Hub, or words",
        key=f"datasets_{key}",
    )
    texts_licence = (
        row[1]
        .text_input(
            "Licence of the texts",
            told.get("dataset_license", ""),
            help=help_of(PushOptions, "dataset_license"),
            key=f"texts_licence_{key}",
        )
        .strip()
    )
    public = st.toggle("Public", bool(told.get("public")), help=help_of(PushOptions, "public"), key=f"public_{key}")
    if not repo:
        st.caption("Name a repository. You need a login: run `hf auth login` in a terminal on this machine.")
        return None
    return PushOptions(str(folder), repo, public, licence, parts(languages), parts(datasets), texts_licence)


def parts(text: str) -> tuple[str, ...]:
    """Return what stands between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def arguments(options: PushOptions) -> dict[str, object]:
    """Return options as a job's spec holds them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(options).items()}


def is_of_now(dry: Job, folder: Path) -> bool:
    """Say whether a dry run saw the folder as it is now."""
    return dry.spec.get("fingerprints", {}).get(str(folder)) == fingerprint(folder)


def show_dry_run(dry: Job) -> bool:
    """Show what a push would do; return whether nothing stands against it."""
    found = result_or_error(dry, PushResult.of_json)
    if found is None:
        return False
    state = {True: "exists", False: "will be made", None: "cannot be seen from here"}[found.exists]
    st.markdown(
        f"**{plain(found.repo)}** ({plain(found.visibility)}) {state}. {number(len(found.files))} files, "
        f"{size(found.bytes)}; licence {plain(found.licence or 'not stated')}."
    )
    for note in found.notes:
        st.info(plain(note), icon=":material/info:")
    for problem in found.problems:
        st.warning(plain(problem), icon=":material/warning:")
    files = pd.DataFrame([(file.name, file.bytes) for file in found.files], columns=["name", "bytes"])
    st.dataframe(files, hide_index=True, height=210, alt="Files that would be pushed")
    if found.left_out:
        left_out = ", ".join(f"{file.name} ({file.reason})" for file in found.left_out)
        st.caption(plain(f"Left out: {left_out}."))
    with st.popover("The model card", icon=":material/description:"):
        st.code(found.card, language="markdown", wrap_lines=True)
    return not found.problems


def show_pushed(job: Job) -> None:
    """Show how a push ended."""
    status = job.status()
    if status.state == "finished":
        found = result_or_error(job, PushResult.of_json)
        if found is None:
            return
        st.success(f"Pushed to [{plain(found.repo)}]({found.url}), {plain(found.visibility)}.", icon=":material/check:")
    else:
        st.error(plain(f"The push {status.state}: {status.reason}"), icon=":material/error:")
