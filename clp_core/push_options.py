"""Options of ``clp push``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from clp_core.errors import InputError
from clp_core.hub import HubName
from clp_core.jobs.job import refuse_access_tokens
from clp_core.options import option

LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{1,60}")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")


@dataclass(frozen=True)
class PushOptions:
    """What a push is asked to do."""

    model: str = option(help="folder of the model: one that was exported, a checkpoint, or a target")
    repo: str = option(help="repository on the Hub: owner/name")
    public: bool = option(False, help="make a new repository public, or push to one that is")
    license: str = option("", help="licence the model is given on under, such as apache-2.0; else the source's")
    language: tuple[str, ...] = option((), help="code of a language of the model, such as de; may be given again")
    dataset: tuple[str, ...] = option((), help="name of a training text, for the card; may be given again")
    dataset_license: str = option("", help="licence of the training texts, for the card")
    message: str = option("", help="message of the commit")
    dry_run: bool = option(False, help="push nothing: say what would be pushed, with the whole card")

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        name = HubName.parse(self.repo)
        if name is None or "/" not in name.repo_id or name.revision:
            raise InputError(f"{self.repo!r} is no repository's name; give owner/name, such as my-account/german-model")
        if self.license and not LICENCE_ID.fullmatch(self.license):
            raise InputError(
                f"--license {self.license!r} is no licence's name on the Hub; use one as apache-2.0 or mit"
            )
        for code in self.language:
            if not LANGUAGE.fullmatch(code):
                raise InputError(f"--language {code!r} is no language's code; use one as de or en")
        refuse_access_tokens([self.model, self.repo, self.message, self.dataset_license, *self.dataset])
