"""Options of ``clp pretrain``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from clp_core.errors import InputError
from clp_core.helper_sizes import SIZES, Size
from clp_core.options import option
from clp_core.tokenizer_options import TEXT_HELP
from clp_core.train_options import TrainOptions

MIN_POSITIONS = 16


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainOptions):
    """What making a helper is asked to do: a run's options but the model, which is made here."""

    model: str = field(default="", init=False)
    tokenizer: str = option(help="folder or Hub id of the tokenizer, such as one that `clp tokenizer` made")
    size: str = option("tiny", help="shape of the helper; the smallest first", choices=tuple(SIZES))
    positions: int = option(0, help="tokens the helper sees at once; 0: by its size, 256 to 1,024", minimum=0)
    text: tuple[str, ...] = option(help=TEXT_HELP)
    eval_text: str = option("", help="held-out text; without it a part of the text is held out and kept as a text")
    max_steps: int = option(
        0, help="train for this many steps; without a budget, 20 tokens a parameter, four passes at most", minimum=0
    )
    seed: int = option(42, help="seed of the weights and of the order of the data", minimum=0)

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        if not self.tokenizer.strip():
            raise InputError("--tokenizer is empty; name a folder, such as one that `clp tokenizer` made")
        if self.size not in SIZES:
            raise InputError(f"--size {self.size!r} is unknown; use one of {', '.join(SIZES)}")
        if self.positions and self.positions < MIN_POSITIONS:
            raise InputError(f"--positions must be {MIN_POSITIONS} or more, or 0")
        self.as_train("made here", self.text, self.eval_text or "held out here")

    @property
    def shape(self) -> Size:
        """The size."""
        return SIZES[self.size]

    def as_train(self, model: str, text: Sequence[str], eval_text: str, **changed: Any) -> TrainOptions:
        """Return the options of the run itself.

        Raises:
            InputError: one of them is refused.
        """
        shared = {item.name: getattr(self, item.name) for item in fields(TrainOptions)}
        return TrainOptions(**{**shared, "model": model, "text": tuple(text), "eval_text": eval_text, **changed})
