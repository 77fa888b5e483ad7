"""The file that says where each row of a target comes from, as it is read; ``transfer.provenance`` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clp_core.errors import InputError, first_line
from clp_core.files.artifacts import PROVENANCE_FILE

ANCHOR_COLUMNS = ("anchor_ids", "anchor_source_ids", "anchor_weights", "anchor_cosines")


@contextmanager
def explained_provenance(path: Path) -> Iterator[None]:
    """Turn what reading a damaged or foreign file raises into one line.

    Raises:
        InputError: it is not the parquet file that a transfer writes.
    """
    try:
        yield
    except pa.ArrowException as error:
        raise InputError(
            f"{path} cannot be read as a transfer's provenance ({first_line(error)}); write the target again"
        ) from error


def read_columns(folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read columns of a target's provenance, one row per target row.

    Args:
        folder: the target.
        columns: their names; by default all but the anchors and the bytes.

    Raises:
        FileNotFoundError: the folder holds no provenance.
        InputError: it is damaged, or lacks such a column.
    """
    path = folder / PROVENANCE_FILE
    with explained_provenance(path), pq.ParquetFile(path) as file:
        found = file.schema_arrow.names
        wanted = [name for name in found if name not in (*ANCHOR_COLUMNS, "bytes")] if columns is None else columns
        if lacking := [name for name in {*wanted, "status"} if name not in found]:
            raise pa.ArrowInvalid(f"it has no column {lacking[0]}")
        return file.read(list(wanted)).to_pandas()


def missing_rows(folder: Path) -> np.ndarray:
    """Return which rows of a target were made by its transfer, initialised or overridden, ``[n_rows]`` of bool.

    Raises:
        FileNotFoundError: the folder holds no provenance.
        InputError: it is damaged.
    """
    return np.isin(read_columns(folder, ["status"])["status"].to_numpy(), ["initialised", "override"])
