"""Random streams: those of neighbouring seeds, of the two sides of a model, and of different purposes."""

import itertools

import numpy as np
import pytest
from support.tiny_models import make_model

from clp_core.initializers import anchor_sums, initializer
from clp_core.transfer import heldout_anchors
from clp_core.transfer.model_pair import ModelPair, seed_of_side


@pytest.fixture(scope="module")
def untied(tmp_path_factory, tokenizers):
    folder = tmp_path_factory.mktemp("untied")
    source = make_model(folder / "source", tokenizers["byte-level", "en"], tied=False, width=64)
    helper = make_model(folder / "helper", tokenizers["byte-level", "de"], "gpt2", width=16)
    return ModelPair.open(source, helper)


def noise(pair: ModelPair, side: str, seed: int) -> np.ndarray:
    """Return the standardised random rows of the missing tokens."""
    context = pair.context(side, seed)
    missing = pair.plan().missing_ids
    rows = initializer("random").fit(context).rows(missing)
    anchors = context.needed_anchor_rows().take(np.arange(context.n_anchors))
    return ((rows - anchors.mean(axis=0)) / anchors.std(axis=0)).ravel()


def test_random_rows_of_both_sides_and_of_neighbouring_seeds_are_uncorrelated(untied):
    drawn = [noise(untied, side, seed) for seed in (1, 2, 3, 4) for side in ("input", "output")]
    bound = 6 / np.sqrt(len(drawn[0]))
    assert bound < 0.1
    for a, b in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < bound


def test_the_input_side_keeps_the_seed_and_the_output_side_gets_numpys_hash_of_it():
    expected = np.random.SeedSequence(42, spawn_key=(1,)).generate_state(1, np.uint64)[0]
    assert seed_of_side(42, "input") == 42
    assert seed_of_side(42, "output") == int(expected) // 2
    largest = 2**63 - 1  # the largest seed of a transfer
    seeds = [seed_of_side(seed, "output") for seed in (0, 1, 2**32, 2**32 + 1, largest)]
    assert len(set(seeds)) == 5
    assert all(0 <= seed <= largest for seed in seeds)


def test_the_projection_of_linear_does_not_reuse_the_stream_of_the_held_out_choice(untied, monkeypatch):
    drawn = []

    def recorded(seed):
        drawn.append(np.random.Generator(np.random.PCG64(seed)).integers(2**63))
        return make(seed)

    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", recorded)
    monkeypatch.setattr(anchor_sums, "PROJECTIONS", 8)
    context = untied.context("input", 42)
    heldout_anchors.hide(context, 42)
    initializer("linear").fit(context)
    assert len(drawn) == 2
    assert drawn[0] != drawn[1]
