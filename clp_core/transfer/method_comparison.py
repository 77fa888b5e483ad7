"""All methods on one pair: held-out score, bits per byte before any training, time and memory."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clp_core.checkpoints.finite import CURE, NonFiniteError, non_finite_weight
from clp_core.checkpoints.model_config import max_positions
from clp_core.data.text_sources import Texts
from clp_core.environment.free_memory import peak_rss_bytes
from clp_core.environment.memory_errors import memory_explained
from clp_core.errors import InputError
from clp_core.initializers import initializer
from clp_core.initializers.base import parse_settings
from clp_core.progress import report_progress
from clp_core.reports.method_comparison import MethodComparison, MethodScore
from clp_core.reports.transfer_report import HeldOutSummary
from clp_core.transfer import heldout_anchors
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.method_rows_cache import KEPT, MethodRows
from clp_core.transfer.model_pair import ModelPair
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.transfer.target_rows import MethodChain, TargetRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from clp_core.evaluation.bits_per_byte import EvaluationText

log = logging.getLogger(__name__)

AS_AUTO = "linear:neighbours=16"


def compare_methods(options: CompareMethodsOptions, cache: Path | None = None) -> MethodComparison:
    """Score methods on one pair; no model is written, the source model is given each method's rows in memory.

    Args:
        options: the pair, the methods, the text and so on; without methods all that have what they need are scored,
            and ``linear`` as ``auto`` takes it.
        cache: where the new input rows of every method are kept for the page on tokens, if the disk has room; nowhere
            by default.

    Returns:
        The scores, best first, with one sentence of advice.

    Raises:
        InputError: the pair cannot be opened, or the source's weights beside its embeddings are not finite.
    """
    chosen = [parse_method(name) for name in options.names]
    pair = ModelPair.of(options)
    for warning in pair.warnings:
        log.warning("%s", warning)
    if not chosen:
        chosen = [parse_method(name) for name in (*pair.usable_methods(), AS_AUTO)]
    bench = Bench.open(pair, options) if options.text else None
    kept = None
    if cache is not None:
        kept = MethodRows.of(cache, pair.source.folder, pair.helper.folder, options.match, options.seed)
        try:
            kept.start(pair.plan().missing_ids, pair.source.rows("input").shape[1], len(chosen))
        except InputError as error:
            log.warning("the methods' rows are not kept: %s", error)
            kept = None
    scores = []
    for i, (name, chain) in enumerate(chosen):
        report_progress(f"scoring {name}", i / len(chosen))
        score = score_method(pair, options, chain, bench, (kept, name) if kept else None)
        scores.append(replace(score, method=name))
    scores.sort(key=sort_key)
    if kept is not None:
        kept.finish([score.method for score in scores if kept.file(score.method, "figures").is_file()])
    return MethodComparison(tuple(scores), advice(scores))


def parse_method(text: str) -> tuple[str, MethodChain]:
    """Return what a method is called here, and it with its settings, from ``NAME`` or ``NAME:SETTING=NUMBER:...``.

    Raises:
        InputError: there is no such method or setting.
    """
    name, *settings = text.split(":")
    given = parse_settings(settings)
    initializer(name).resolve(given)
    return text, MethodChain.of(name, given)


def score_method(
    pair: ModelPair,
    options: CompareMethodsOptions,
    chain: MethodChain,
    bench: Bench | None,
    keep: tuple[MethodRows, str] | None = None,
) -> MethodScore:
    """Score one method, and keep its rows where asked; what it cannot do on this pair is noted."""
    held, bits, note = None, None, ""
    name = chain.names[0]
    method = initializer(name)
    pair.free_sums()  # so that no method's figures depend on the one before
    before = reset_peak()
    started = time.perf_counter()
    seconds = 0.0
    try:
        rows = TargetRows(pair, pair.plan(), chain, seed=options.seed)
        tensors = {} if method.whole_model else tensors_in_memory(rows)
        seconds = time.perf_counter() - started
        peak = peak_rss_bytes()
        if keep is not None and tensors:
            keep_rows(rows, *keep)
        context = pair.context("input", options.seed, chain.settings_of(name))
        held = heldout_anchors.score(method, context, options.seed, folds=options.folds)
        if bench is not None:
            takes_rows = pair.is_source_with_other_rows and not method.whole_model
            bits = bench.bits(tensors) if takes_rows else bench.written_bits(options, chain)
    except (InputError, np.linalg.LinAlgError) as error:
        note, peak = str(error), None
    used = max(peak - before, 0) if peak is not None and before is not None else None
    return MethodScore(name, held.summary if held else HeldOutSummary(None, None), bits, seconds, used, note)


def tensors_in_memory(rows: TargetRows) -> dict[str, np.ndarray]:
    """Return the target's tensors by what they are (``input``, ``output``, ``bias``), as a transfer would write them.

    Values are float32 widened from the source's data type.

    Raises:
        InputError: a row is not finite in the source's data type.
    """
    found = {}
    for kind, new in rows.tensors(measure=False).items():
        found[kind] = np.concatenate([block.astype(np.float32) for block in new])
        if not np.isfinite(found[kind]).all():
            raise InputError(f"a new row of the {kind} embedding is not finite in the source's data type")
    return found


def keep_rows(rows: TargetRows, kept: MethodRows, name: str) -> None:
    """Make the missing input rows of a method with their figures, and keep them."""
    values = np.concatenate([block.astype(np.float32) for block in rows.tensors()["input"]])
    ids, measured = rows.plan.missing_ids, rows.measured["input"]
    copied = measured.norms[rows.plan.source_ids >= 0]
    assert measured.anchors is not None
    anchors = measured.anchors.scaled(measured.scale)
    figures = {
        "n_eff": measured.n_eff[ids],
        "norm_ratio": measured.norms[ids] / (copied.mean() if len(copied) else np.nan),
        "sources": anchors.sources[ids, :KEPT],
        "weights": anchors.weights[ids, :KEPT],
    }
    kept.keep(name, values[ids], figures)


@dataclass
class Bench:
    """The source model in memory, to which rows are given and which is then scored on a text.

    Attributes:
        model: the source model; its embeddings change.
        text: the text in the target's tokens.
    """

    model: PreTrainedModel
    text: EvaluationText

    @classmethod
    def open(cls, pair: ModelPair, options: CompareMethodsOptions) -> Bench:
        """Load the source model and read the text.

        Raises:
            InputError: the text cannot be used, the model does not fit in memory, is not causal or not finite.
        """
        from clp_core.checkpoints.loading import refuse_non_causal
        from clp_core.evaluation.bits_per_byte import EvaluationText, load_model

        report_progress("loading the source")
        texts, positions = Texts.open([options.text], options.text_field), max_positions(pair.source.config)
        text = EvaluationText.read(texts, pair.overlap.target, positions)
        model = load_model(pair.source.folder, options.device)
        # The embeddings are replaced by each method's rows, which are checked on their own.
        if where := non_finite_weight(model, embeddings=False):
            raise NonFiniteError(f"{where} of the source {pair.source.folder} holds NaN or infinity: {CURE}")
        with memory_explained(f"scoring with {pair.source.folder.name}", model.device.type):
            refuse_non_causal(model, f"the source {pair.source.folder.name}", positions)
        return cls(model, text)

    def bits(self, rows: dict[str, np.ndarray]) -> float:
        """Return the bits per byte with these rows.

        Raises:
            InputError: they are not finite.
        """
        import torch

        from clp_core.evaluation.bits_per_byte import score

        def parameter(values: np.ndarray) -> torch.nn.Parameter:
            old = self.model.get_input_embeddings().weight
            return torch.nn.Parameter(torch.from_numpy(values).to(old.device, old.dtype), requires_grad=False)

        with memory_explained("scoring a method's rows", self.model.device.type):
            layer = self.model.get_output_embeddings()
            weight = parameter(rows["input"])
            self.model.get_input_embeddings().weight = weight
            layer.weight = parameter(rows["output"]) if "output" in rows else weight
            if "bias" in rows:
                layer.bias = parameter(rows["bias"][:, 0])
            return finite_bits(score(self.model, self.text).bits_per_byte)

    def written_bits(self, options: CompareMethodsOptions, chain: MethodChain) -> float:
        """Return the bits per byte of a target that is more than the source with other rows, written for the purpose.

        Raises:
            InputError: they are not finite.
        """
        from clp_core.evaluation.bits_per_byte import load_model, score

        setting = tuple(f"{name}={value!r}" for name, value in chain.settings.items())
        with tempfile.TemporaryDirectory() as folder:
            output = str(Path(folder) / "target")
            pair = options.pair_values
            if chain.names[0] != "static-vectors":
                pair |= {"target_vectors": "", "source_vectors": "", "dictionary": ""}
            transfer(TransferOptions(**pair, output=output, method=chain.names[0], setting=setting, no_heldout=True))
            with memory_explained("scoring a method's model", self.model.device.type):
                return finite_bits(score(load_model(Path(output), options.device), self.text).bits_per_byte)


def finite_bits(bits: float) -> float:
    """Return bits per byte as they are.

    Raises:
        InputError: they are not finite.
    """
    if not np.isfinite(bits):
        raise NonFiniteError("the model gives scores that are not finite with the rows of this method")
    return float(bits)


def reset_peak() -> int | None:
    """Set the process's peak memory back to its present memory and return it; ``None`` where that cannot be done."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return peak_rss_bytes()
    return None


def sort_key(score: MethodScore) -> tuple[bool, float, float]:
    """Order by bits per byte where it was measured, then by held-out cosine; what has neither last."""
    bits = score.zero_step_bits_per_byte
    held = score.heldout.centred_cosine
    return (bool(score.note), bits if bits is not None else float("inf"), -held if held is not None else float("inf"))


def advice(scores: Sequence[MethodScore]) -> str:
    """Return one sentence that names the best method and by what measure, and the other measure's where it differs."""
    usable = [score for score in scores if not score.note and not draws_whole_model(score.method)]
    if not usable:
        return "No method could be scored on this pair."
    if len(usable) == 1:
        return f"Only {usable[0].method} was scored; name more methods to compare."
    cosines = {s.method: s.heldout.centred_cosine for s in usable if s.heldout.centred_cosine is not None}
    bits = {s.method: s.zero_step_bits_per_byte for s in usable if s.zero_step_bits_per_byte is not None}
    finder = max(cosines, key=lambda name: cosines[name]) if cosines else None
    if not bits:
        if finder is None:
            return "There are too few tokens in common to hide any; train and compare."
        return f"Use {finder}: it finds hidden anchors best (centred cosine {cosines[finder]:.3f})."
    best = min(bits, key=lambda name: bits[name])
    text = f"Use {best}: it starts at the fewest bits per byte ({bits[best]:.3f})"
    if finder is None or finder == best or best not in cosines:
        return f"{text} and finds hidden anchors best." if finder == best else f"{text}."
    against = f"centred cosine {cosines[finder]:.3f} against {cosines[best]:.3f}"
    return f"{text}; {finder} finds hidden anchors better ({against})."


def draws_whole_model(name: str) -> bool:
    """Say whether a method, named with its settings, draws the whole model."""
    return initializer(name.partition(":")[0]).whole_model
