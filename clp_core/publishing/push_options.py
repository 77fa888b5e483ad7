"""Options of ``clp push``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from clp_core.errors import InputError
from clp_core.hub.access_tokens import refuse_access_tokens
from clp_core.hub.repo_id import HubName
from clp_core.options import Options, option

LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{1,60}")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")


@dataclass(frozen=True)
class PushOptions(Options):
    """What is pushed to the Hub, and its card's facts."""

    COMMAND: ClassVar[tuple[str, ...]] = ("push",)
    PLACED: ClassVar[tuple[str, ...]] = ("model", "repo")

    model: str = option(help="folder of the model: one that was exported, a checkpoint, or a target")
    repo: str = option(help="repository on the Hub: owner/name")
    public: bool = option(False, help="make a new repository public, or push to one that is")
    license: str = option(
        "",
        help="licence the model is given on under, such as apache-2.0; else the source's",
        pattern=LICENCE_ID,
        cure="use the name of a licence on the Hub, such as apache-2.0 or mit",
    )
    language: tuple[str, ...] = option(
        (),
        help="code of a language of the model, such as de; may be given again",
        pattern=LANGUAGE,
        cure="use the code of a language, such as de or en",
    )
    dataset: tuple[str, ...] = option((), help="name of a training text, for the card; may be given again")
    dataset_license: str = option("", help="licence of the training texts, for the card")
    message: str = option("", help="message of the commit")
    dry_run: bool = option(False, help="push nothing: say what would be pushed, with the whole card")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the repository's name, and access tokens in texts that are published."""
        try:
            refuse_access_tokens([self.model, self.repo, self.message, self.dataset_license, *self.dataset])
        except InputError as error:
            yield "", str(error)
            return
        name = HubName.parse(self.repo)
        if name is None or "/" not in name.repo_id or name.revision:
            wrong = f"{self.repo!r} is not the name of a repository"
            yield "repo", f"{wrong}; give owner/name, such as my-account/german-model"
