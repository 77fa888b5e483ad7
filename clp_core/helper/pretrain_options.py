"""Options of ``clp pretrain``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from clp_core.helper.model_sizes import SIZES, Size
from clp_core.helper.tokenizer_options import TEXT_HELP
from clp_core.options import option
from clp_core.training.options import MAX_SEED, TrainOptions

MIN_POSITIONS, MAX_POSITIONS = 16, 1 << 17


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainOptions):
    """Options of a run that makes a helper: those of any run but the model, which is made here."""

    COMMAND: ClassVar[tuple[str, ...]] = ("pretrain",)

    model: str = field(default="", init=False)
    tokenizer: str = option(help="folder or Hub id of the tokenizer, such as one that `clp tokenizer` made")
    size: str = option("tiny", help="shape of the helper; the smallest first", choices=tuple(SIZES))
    positions: int = option(
        0, help="tokens the helper sees at once; 0: by its size, 256 to 1,024", minimum=0, maximum=MAX_POSITIONS
    )
    text: tuple[str, ...] = option(help=TEXT_HELP)
    eval_text: str = option("", help="held-out text; without it a part of the text is held out and kept as a text")
    max_steps: int = option(
        0, help="train for this many steps; without a budget, 20 tokens a parameter, four passes at most", minimum=0
    )
    seed: int = option(42, help="seed of the weights and of the order of the data", minimum=0, maximum=MAX_SEED)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the positions, and with the options of the run."""
        if 0 < self.positions < MIN_POSITIONS:
            yield "positions", f"{self.positions} is too small; give {MIN_POSITIONS} or more, or 0"
        yield from super().problems()

    @property
    def shape(self) -> Size:
        """The size."""
        return SIZES[self.size]

    def as_train(self, model: str, text: Sequence[str], eval_text: str, **changed: Any) -> TrainOptions:
        """Make the options of the run itself.

        Raises:
            OptionsError: one of them is refused.
        """
        shared = {item.name: getattr(self, item.name) for item in fields(TrainOptions)}
        return TrainOptions(**{**shared, "model": model, "text": tuple(text), "eval_text": eval_text, **changed})
