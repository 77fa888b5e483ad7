"""Names of the files that the workbench writes beside models and runs."""

from __future__ import annotations

REPORT_FILE = "clp_transfer.json"
"""Beside a target: the report of its transfer."""
TOKENIZER_REPORT_FILE = "clp_tokenizer.json"
"""Beside a tokenizer that was trained here."""
MANIFEST_FILE = "manifest.json"
"""In a checkpoint of a run: its files and their sizes; the checkpoint is complete once it is there."""
PROVENANCE_FILE = "clp_provenance.parquet"
"""Beside a target: where the row of each token comes from."""
TRAINING_FILE = "clp_training.json"
"""Beside an exported model: the facts of its run."""
CURVE_FILE = "training_curve.csv"
"""Beside an exported model: its learning curve."""
