"""Weights and scores that are not finite: which they are, and the error that names them.

NaN and infinity spread: one row of NaN in a tied embedding makes every probability NaN, and comparisons with NaN are
false, so rankings and counts still come out as plausible figures. Therefore values are checked where they enter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clp_core.embeddings.row_source import RowSource, non_finite_rows
from clp_core.errors import InputError

if TYPE_CHECKING:
    import torch

    from clp_core.tokenization.vocabulary import Vocabulary

ROWS_NAMED = 3
VALUES_AT_ONCE = 1 << 24
CURE = "its training diverged or the file is damaged; use another checkpoint"


class NonFiniteError(InputError):
    """Weights or scores that hold NaN or infinity."""


def named_rows(ids: Sequence[int] | np.ndarray, vocabulary: Vocabulary | None = None) -> str:
    """Name the first few rows by id and token, such as ``row 5 'Ġdas'`` or ``12 rows (5 'Ġdas', 6 'Ġder', ...)``."""

    def one(i: int) -> str:
        token = vocabulary.tokens[i] if vocabulary is not None and i < vocabulary.n_ids else None
        return str(i) if token is None else f"{i} {token!r}"

    shown = ", ".join(one(int(i)) for i in ids[:ROWS_NAMED])
    if len(ids) == 1:
        return f"row {shown}"
    return f"{len(ids):,} rows ({shown}{', ...' if len(ids) > ROWS_NAMED else ''})"


def rows_message(ids: Sequence[int] | np.ndarray, side: str, model: str, vocabulary: Vocabulary | None = None) -> str:
    """State which rows of a model's ``input`` or ``output`` embedding are not finite."""
    verb = "is" if len(ids) == 1 else "are"
    what = "not finite (NaN, infinity, or too large for float32)"
    return f"{named_rows(ids, vocabulary)} of the {side} embedding of {model} {verb} {what}"


def check_rows(
    rows: RowSource, ids: np.ndarray | None, side: str, model: str, vocabulary: Vocabulary | None = None
) -> None:
    """Refuse rows that are not finite.

    Args:
        rows: ``[n_rows, d]``.
        ids: the rows to check, ascending; all of them by default.
        side: ``input`` or ``output``.
        model: the model's name for the message.
        vocabulary: names the tokens.

    Raises:
        NonFiniteError: some are not; the first ones are named.
    """
    bad = non_finite_rows(rows, ids)
    if len(bad):
        raise NonFiniteError(f"{rows_message(bad, side, model, vocabulary)}: {CURE}")


def non_finite_weight(
    model: torch.nn.Module, vocabulary: Vocabulary | None = None, *, embeddings: bool = True
) -> str | None:
    """Name the first parameter of a loaded model that holds NaN or infinity, by row and token in its embeddings.

    Args:
        model: a model of transformers.
        vocabulary: names the tokens.
        embeddings: whether the input and output embeddings are checked.
    """
    tables = token_tables(model)
    for name, parameter in model.named_parameters():
        table = tables.get(id(parameter))
        if table is not None and not embeddings:
            continue
        if bad := non_finite_places(parameter):
            return name if table is None else f"{named_rows(bad, vocabulary)} of the {table} ({name})"
    return None


def token_tables(model: torch.nn.Module) -> dict[int, str]:
    """Names of the parameters with one row per token, by their identity; a tied matrix counts as the input's."""
    layer = model.get_output_embeddings()
    tables = {} if layer is None else {id(layer.weight): "output embedding"}
    if getattr(layer, "bias", None) is not None:
        tables[id(layer.bias)] = "output bias"
    return tables | {id(model.get_input_embeddings().weight): "input embedding"}


def non_finite_places(parameter: torch.Tensor) -> list[int]:
    """Find the indices along the first axis at which a parameter holds NaN or infinity, block by block."""
    import torch

    table = parameter.detach().reshape(parameter.shape[0] if parameter.dim() else 1, -1)
    found: list[int] = []
    step = max(1, VALUES_AT_ONCE // max(table.shape[1], 1))
    for start in range(0, table.shape[0], step):
        is_bad = ~torch.isfinite(table[start : start + step]).all(dim=1)
        found += (start + is_bad.nonzero()[:, 0]).tolist()
    return found


def scores_error(model: torch.nn.Module, name: str, vocabulary: Vocabulary | None = None) -> NonFiniteError:
    """Explain why a model's scores are not finite: the weights that are not, or an overflow of the computation.

    Args:
        model: the loaded model.
        name: the model's name for the message.
        vocabulary: names the tokens.
    """
    where = non_finite_weight(model, vocabulary)
    if where is not None:
        return NonFiniteError(
            f"the scores of {name} are not finite, as its weights hold NaN or infinity in {where}: {CURE}"
        )
    kind = str(next(model.parameters()).dtype).removeprefix("torch.")
    return NonFiniteError(
        f"the scores of {name} are not finite though its weights are: the computation overflows in {kind}; "
        "its training has probably diverged; use another checkpoint, or one in a wider data type"
    )
