"""No transfer at all: every weight is random, as the model's class draws it. The baseline of training."""

from __future__ import annotations

from clp_core.initializers.base import Context, Initializer
from clp_core.initializers.random import FittedRandom


class Scratch(Initializer):
    """A model of the source's shape and the target's vocabulary with all weights drawn anew.

    The weights come from the model class's own initialisation with the seed, body and copied tokens included; nothing
    of the source's training is left. Training this is what "tokens saved" is measured against. On held-out anchors it
    is scored as what it is for a single row: a random draw.
    """

    name = "scratch"
    summary = "all weights random, the body's too: the baseline that training is measured against"
    formula = r"\text{all weights are random, as the model class draws them}"
    whole_model = True

    def fit(self, context: Context) -> FittedRandom:
        """Return a random draw for single rows."""
        return FittedRandom(context)
