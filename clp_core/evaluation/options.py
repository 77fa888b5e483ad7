"""Options of ``clp evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clp_core.data.text_sources import DEFAULT_FIELD
from clp_core.environment.devices import DEVICES
from clp_core.options import Options, option
from clp_core.tokenization.text_reading import AUTO, BEGIN_HELP, BEGINS, CONTROL_HELP, CONTROL_STRINGS, TOKENS


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """The text that a model is scored on, and how it is read."""

    COMMAND: ClassVar[tuple[str, ...]] = ("evaluate",)
    PLACED: ClassVar[tuple[str, ...]] = ("model",)

    model: str = option(help="model: a folder or a Hub id")
    text: tuple[str, ...] = option(help="file, folder or hub:ORG/NAME[:CONFIG][:SPLIT] with the text")
    text_field: str = option(DEFAULT_FIELD, help="field of JSON objects, or column of tables, that holds the text")
    begin: str = option(AUTO, help=BEGIN_HELP, choices=BEGINS)
    control_strings: str = option(TOKENS, help=CONTROL_HELP, choices=CONTROL_STRINGS)
    sample: bool = option(False, help="also generate 60 tokens")
    prompt: str = option("", help="what the sample goes on from")
    device: str = option("auto", help="where the model runs; auto: a GPU where there is one", choices=DEVICES)
