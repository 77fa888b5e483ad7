"""Random vocabularies with gaps, padding, odd bytes and special tokens: every row of the target is accounted for."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from clp_core.checkpoints.safetensors_reader import TensorRows, read_header
from clp_core.embeddings.row_source import ArrayRows, Subset
from clp_core.initializers import initializer
from clp_core.initializers.base import Context
from clp_core.tokenization.match_choices import SPECIAL_RULES
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.source_segmentation import SourceSegmentation
from clp_core.tokenization.token_bytes import byte_of_character
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.row_plan import STATUSES, NewRows, RowFactory, RowPlan, RowStatistics

ALPHABET = sorted(byte_of_character())


def random_vocabulary(r, size, special):
    """Byte-level tokens of one to four random bytes, with gaps, an unknown role and maybe roles on plain strings."""
    tokens = ["".join(r.choice(ALPHABET[:12], r.integers(1, 4))) for _ in range(size)]
    tokens += list(r.choice(ALPHABET, 4, replace=False)) + special
    tokens = list(dict.fromkeys(tokens))
    r.shuffle(tokens)
    with_gaps = []
    for token in tokens:
        with_gaps += [None] * int(r.integers(0, 3) == 0) + [token]
    ids = {token: i for i, token in enumerate(with_gaps) if token is not None}
    roles = {role: ids[token] for role, token in zip(("bos", "eos"), special, strict=True)}
    model = {"type": "BPE", "vocab": ids, "merges": []}
    description = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False,
                   "trim_offsets": True, "use_regex": True}}  # fmt: skip
    return Vocabulary(
        "random", tuple(with_gaps), "byte-level", roles, frozenset(roles.values()), serialized=json.dumps(description)
    )


@st.composite
def cases(draw):
    return (
        draw(st.integers(0, 2**31)), draw(st.integers(3, 40)), draw(st.sampled_from([1, 7, 64])),
        draw(st.sampled_from(["raw", "canonical"])), draw(st.sampled_from(SPECIAL_RULES)),
        draw(st.sampled_from(["float32", "float16"])),
    )  # fmt: skip


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases())
def test_every_row_is_copied_made_overridden_or_filled_up(tmp_path, case):
    seed, size, multiple, match, special, dtype = case
    r = np.random.default_rng(seed)
    source = random_vocabulary(r, size, ["<s>", "</s>"])
    target = random_vocabulary(r, size, ["<s>", "<end>"])
    overlap = Overlap.of(source, target, match, special)
    if not overlap.size:
        return
    spare = int(r.integers(0, 5))
    matrix = r.standard_normal((source.n_ids + spare, 6)).astype(dtype)
    save_file({"e": matrix}, tmp_path / "e.safetensors")
    rows = TensorRows(read_header(tmp_path / "e.safetensors")[0]["e"])
    by_hand = {int(overlap.ids[0]): np.array([0, 1])} if overlap.size > 1 else {}
    overlap = overlap.without(by_hand)
    n_rows = -(-target.n_ids // multiple) * multiple
    plan = RowPlan(overlap, by_hand, n_rows)
    helper = ArrayRows(r.standard_normal((target.n_ids, 4)).astype("f"))
    context = Context(
        helper, overlap.ids, Subset(rows, overlap.source_ids[overlap.ids]), source_rows=rows,
        pieces=SourceSegmentation(overlap, len(matrix)),
    )  # fmt: skip
    for name in ("mean", "two-view", "subword-mean"):
        maker = RowFactory(
            (name,), lambda name: initializer(name).fit(context), dense=(False,), n_anchors=overlap.size,
            usual_length=1.0, width=6,
        )  # fmt: skip
        measured = RowStatistics.empty(n_rows, 3)
        new = NewRows(plan, rows, maker, helper_rows=helper, measured=measured, keeps=(True,))
        written = np.concatenate(list(new))
        assert written.shape == (n_rows, 6)
        assert written.dtype == matrix.dtype
        assert np.isfinite(written).all()
        status = np.array(STATUSES)[plan.status]
        for i in range(n_rows):
            token = target.tokens[i] if i < target.n_ids else None
            if i in by_hand:
                assert status[i] == "override"
            elif token is None:
                assert status[i] == "padding"
            elif overlap.source_ids[i] >= 0:
                same = token == source.tokens[overlap.source_ids[i]]
                assert status[i] == ("special" if i in target.special_ids and not same else "copied")
                assert written[i].tobytes() == matrix[overlap.source_ids[i]].tobytes()
            else:
                assert status[i] == "initialised"
                assert np.isfinite(measured.n_eff[i]) or name == "subword-mean"
        kept = measured.anchors.sources >= 0
        assert not kept[plan.status != STATUSES.index("initialised")].any()
        assert (measured.anchors.sources[kept] < len(matrix)).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(3, 60))
def test_pieces_never_hold_the_token_itself(seed, size):
    r = np.random.default_rng(seed)
    source = random_vocabulary(r, size, ["<s>", "</s>"])
    target = random_vocabulary(r, size, ["<s>", "<end>"])
    overlap = Overlap.of(source, target)
    pieces = SourceSegmentation(overlap, source.n_ids).of(np.arange(target.n_ids))
    assert pieces.shape == (target.n_ids, source.n_ids)
    for i in range(target.n_ids):
        used = pieces[[i]].indices
        assert overlap.source_ids[i] not in used
        np.testing.assert_allclose(pieces[[i]].sum(), 1 if len(used) else 0)
        assert all(source.tokens[j] is not None for j in used)


@pytest.mark.parametrize("match", ["raw", "canonical"])
def test_overlap_without_some_tokens_has_these_missing(folders, match):
    source, target = (Vocabulary.open(folders["byte-level", language]) for language in ("en", "de"))
    overlap = Overlap.of(source, target, match)
    taken = overlap.ids[:5].tolist()
    less = overlap.without(taken)
    assert less.size == overlap.size - 5
    assert set(taken) <= set(less.missing_ids.tolist())
    assert overlap.size == Overlap.of(source, target, match).size
