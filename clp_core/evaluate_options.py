"""Options of ``clp evaluate``."""

from __future__ import annotations

from dataclasses import dataclass

from clp_core.environment.devices import DEVICES
from clp_core.options import Options, like, option
from clp_core.train_options import TrainOptions


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """The text that a model is scored on, and how it is read."""

    model: str = option(help="model: a folder or a Hub id")
    text: tuple[str, ...] = option(help="file, folder or hub:ORG/NAME[:CONFIG][:SPLIT] with the text")
    text_field: str = like(TrainOptions, "text_field")
    begin: str = like(TrainOptions, "begin")
    control_strings: str = like(TrainOptions, "control_strings")
    sample: bool = option(False, help="also generate 60 tokens")
    prompt: str = option("", help="what the sample goes on from")
    device: str = option("auto", help="where the model runs; auto: a GPU where there is one", choices=DEVICES)
