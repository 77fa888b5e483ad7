"""All rows of a target: made by a chain of methods from a pair, and measured while they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clp_core.embeddings.row_source import Subset
from clp_core.initializers import initializer
from clp_core.initializers.base import Fitted
from clp_core.progress import report_progress
from clp_core.transfer.model_pair import ModelPair
from clp_core.transfer.provenance import KEPT_ANCHORS, Health
from clp_core.transfer.row_plan import FALLBACKS, INITIALISED, NewRows, RowFactory, RowPlan, RowStatistics, mean_length


@dataclass(frozen=True)
class MethodChain:
    """The methods of a target: the first makes the missing rows, each later one those at risk under the one before.

    Attributes:
        names: of the methods.
        settings: those given for the first one.
        keeps_recoverable: whether heaviest anchors are kept also where they can be found again from the helper.
    """

    names: tuple[str, ...]
    settings: Mapping[str, float]
    keeps_recoverable: bool = True

    @classmethod
    def of(
        cls, method: str, settings: Mapping[str, float], *, has_fallbacks: bool = False, keeps_recoverable: bool = True
    ) -> MethodChain:
        """Put a method first, and the fallbacks after it where rows at risk are to be taken over."""
        after = tuple(name for name in FALLBACKS if name != method) if has_fallbacks else ()
        return cls((method, *after), settings, keeps_recoverable)

    @property
    def dense(self) -> tuple[bool, ...]:
        """For each method, whether it uses all anchors."""
        return tuple(initializer(name).dense for name in self.names)

    @property
    def keeps(self) -> tuple[bool, ...]:
        """For each method, whether its heaviest anchors are kept with the target."""
        methods = [initializer(name) for name in self.names]
        return tuple(not m.whole_model and (self.keeps_recoverable or not m.from_helper) for m in methods)

    def settings_of(self, name: str) -> dict[str, float]:
        """Return the settings that were given for a method; the later ones have their defaults."""
        return dict(self.settings) if name == self.names[0] else {}

    def resolved(self) -> dict[str, dict[str, float]]:
        """Return all settings of each method, defaults included."""
        return {name: initializer(name).resolve(self.settings_of(name)) for name in self.names}


class TargetRows:
    """The rows of all tensors of a target, and what was measured of them.

    Attributes:
        pair: source and helper.
        plan: what becomes of each row.
        chain: the methods.
        seed: of random rows.
        parameters: what fitting chose, by side and method.
        measured: figures by side, filled in while rows are made.
    """

    def __init__(
        self,
        pair: ModelPair,
        plan: RowPlan,
        chain: MethodChain,
        *,
        seed: int,
        match_norms: bool = False,
    ) -> None:
        """Prepare to make the rows; methods are fitted once their first row is asked for.

        Args:
            pair: source and helper.
            plan: what becomes of each row.
            chain: the methods.
            seed: of random rows.
            match_norms: whether each new row is scaled to the mean length of the copied ones.
        """
        self.pair, self.plan, self.chain, self.seed = pair, plan, chain, seed
        self.parameters: dict[str, dict[str, dict[str, float]]] = {}
        self._makers = {side: self._maker(side, match_norms) for side in pair.source.sides}
        self.measured = {
            side: RowStatistics.empty(plan.n_rows, KEPT_ANCHORS if any(chain.keeps) and side == "input" else 0)
            for side in pair.source.sides
        }

    def _maker(self, side: str, match_norms: bool) -> RowFactory:
        pair, chain = self.pair, self.chain
        copied = Subset(pair.source.rows(side), pair.overlap.source_ids[pair.overlap.ids])
        self.parameters[side] = {}

        def fit(name: str) -> Fitted:
            report_progress(f"fitting {name} to the {side} rows")
            fitted = initializer(name).fit(pair.context(side, self.seed, chain.settings_of(name), bias=True))
            self.parameters[side][name] = dict(fitted.parameters)
            return fitted

        return RowFactory(
            chain.names,
            fit,
            dense=chain.dense,
            n_anchors=pair.overlap.size,
            usual_length=mean_length(copied) if len(chain.names) > 1 or match_norms else 1.0,
            width=copied.shape[1],
            helper_width=pair.helper.rows("input").shape[1],
            match_norms=match_norms,
        )

    def tensors(self, *, measure: bool = True) -> dict[str, NewRows]:
        """Return the target's tensors: ``input``, ``output`` and ``bias``, as far as they exist, and others by name.

        Args:
            measure: whether lengths, n_eff and anchors are noted while they are made.
        """
        source = self.pair.source
        found = {}
        for side, maker in self._makers.items():
            rows = source.rows(side)
            found[side] = NewRows(
                self.plan,
                rows,
                maker,
                columns=slice(0, rows.shape[1]),
                helper_rows=self.pair.helper.rows("input"),
                measured=self.measured[side] if measure else None,
                keeps=self.chain.keeps,
            )
        maker = self._makers[self.pair.biased_side]
        has_bias = source.output_bias() is not None
        for place, column in enumerate(self.pair.columns):
            kind = "bias" if has_bias and place == 0 else column.entry.name
            found[kind] = NewRows(self.plan, column, maker, columns=slice(maker.width + place, maker.width + place + 1))
        return found

    def health(self) -> dict[str, Health]:
        """Return the health figures of each side's rows, once they are made."""
        dense = np.array(self.chain.dense)
        made, copied = self.plan.status == INITIALISED, self.plan.source_ids >= 0
        n_anchors = self.pair.overlap.size
        return {
            side: Health(found.n_eff, found.norms, made, copied, n_anchors, dense[found.method])
            for side, found in self.measured.items()
        }

    def methods_of_rows(self, side: str) -> np.ndarray:
        """Return the name of the method that made each row of a side, empty for other rows, ``[n_rows]``."""
        made = self.plan.status == INITIALISED
        return np.where(made, np.array(self.chain.names, dtype=object)[self.measured[side].method], "")

    def taken_over(self, side: str) -> dict[str, int]:
        """Count the rows of a side that each later method took over."""
        used = np.bincount(self.measured[side].method[self.plan.missing_ids], minlength=len(self.chain.names))
        return {name: int(n) for name, n in zip(self.chain.names[1:], used[1:], strict=True)}
