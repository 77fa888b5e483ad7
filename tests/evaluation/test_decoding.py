"""The decode loop against transformers' ``generate``, and against the model run over the whole text in float64."""

from itertools import islice

import pytest
import torch
from support.small_models import COMMON, NOT_CAUSAL, TYPES, small_model
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from clp_core.checkpoints.loading import WITHOUT_CACHE
from clp_core.checkpoints.positions import COUNTED_FROM_PADDING
from clp_core.evaluation.decoding import Sampling, TextState, decode, end_tokens
from clp_core.tokenization.vocabulary import Vocabulary

IDS = [7, 3, 11, 5, 30, 12, 9, 3, 21, 14, 2, 40]
"""Longer than the sliding windows of small models, which hold eight tokens."""
GREEDY = Sampling(temperature=0)
N_NEW = 10
TOLERANCE = 5e-4
"""Of the largest logit: rounding, and the state spaces of Zamba2, whose steps differ that much from its chunks."""
OWN_INTERFACE = {"openai-gpt", "rwkv", "xlm"}
"""Types that generate without the interface ``cache``."""
REFUSED = {"qwen4_exp", "qwen4_exp_text"}
"""Types whose small config transformers refuses without an end-of-text id."""
CACHE_SEES_LATER_TOKENS = {"axk2", "deepseek_v32", "glm_moe_dsa"}
"""Types that attend to the four likeliest tokens, among which a run over the whole text counts later ones."""


def model_of(model_type):
    model = small_model(model_type, 64, tied=True, bos_token_id=0, eos_token_id=None)
    model.generation_config = GenerationConfig()
    return model


def generated(model, ids, sampling, n=N_NEW, **more):
    """New tokens of ``generate`` under the same settings."""
    config = {"do_sample": False}
    if sampling.temperature > 0:
        config = {"do_sample": True, "temperature": float(sampling.temperature)}
        config |= {"top_k": sampling.top_k, "top_p": sampling.top_p}
    penalty = [RepetitionPenaltyLogitsProcessor(p)] if (p := sampling.repetition_penalty) != 1 else []
    inputs = torch.tensor([ids])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(sampling.seed)
        output = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=GenerationConfig(max_new_tokens=n, pad_token_id=0, **config, **more),
            logits_processor=LogitsProcessorList(penalty),
        )
    return output[0, len(ids) :].tolist()


def decoded(model, ids, sampling, n=N_NEW, ends=()):
    return [token.id for token in decode(model, ids, sampling, n, ends)]


@pytest.mark.parametrize("model_type", COMMON)
def test_tokens_are_those_of_generate(model_type):
    model = model_of(model_type)
    for ids in (IDS, IDS[:1]):
        for sampling in (
            GREEDY,
            Sampling(temperature=0, repetition_penalty=1.7),
            Sampling(temperature=0.9, seed=5),
            Sampling(temperature=1.6, top_k=20, top_p=0.9, repetition_penalty=0.6, seed=3),
        ):
            assert decoded(model, ids, sampling) == generated(model, ids, sampling), sampling
    greedy = decoded(model, IDS, GREEDY)
    end = greedy[4]
    wanted = greedy[: greedy.index(end) + 1]
    assert decoded(model, IDS, GREEDY, ends=(end, 63)) == wanted
    assert generated(model, IDS, GREEDY, eos_token_id=[end, 63]) == wanted


@pytest.mark.parametrize("model_type", [name for name in TYPES if name not in NOT_CAUSAL | REFUSED | {"xlm"}])
def test_logits_over_a_cache_are_those_of_the_whole_text(model_type):
    """The library's own ``generate`` fails this test for RoBERTa's family: it counts positions from 0."""
    model = model_of(model_type)
    state = TextState(model, IDS)
    assert state._uses_cache is (model_type not in WITHOUT_CACHE | OWN_INTERFACE)
    for _ in range(6):
        logits = state.next_logits()
        if model_type in CACHE_SEES_LATER_TOKENS:
            wanted = generated(model, IDS, GREEDY, state.ids.shape[1] - len(IDS) + 1)
            assert int(logits.argmax()) == wanted[-1]
        else:
            with torch.no_grad():
                whole = model(input_ids=state.ids, use_cache=False).logits[:, -1]
            torch.testing.assert_close(logits, whole, rtol=0, atol=TOLERANCE * float(whole.abs().max()))
        state.append(logits.argmax(dim=-1))
    assert state._uses_cache is (model_type not in WITHOUT_CACHE | OWN_INTERFACE)


def reason_against_cache(model):
    """Return why a model's cache cannot be used; empty where it can."""
    state = TextState(model, IDS)
    state._uses_cache = True
    for _ in range(4):
        try:
            logits = state.next_logits()
        except (AttributeError, RuntimeError, ValueError) as error:
            return f"fails over its own cache: {error!r}"
        whole = TextState(model, state.ids[0].tolist()).next_logits()
        state.append(whole.argmax(dim=-1))
        if not torch.allclose(logits, whole, atol=TOLERANCE * float(whole.abs().max())):
            return "predicts otherwise over its cache"
    return "" if state._uses_cache else "names no cache in its output"


def test_types_that_are_run_without_a_cache_have_a_reason():
    assert all(reason_against_cache(model_of(model_type)) for model_type in sorted(WITHOUT_CACHE - NOT_CAUSAL))


def test_a_type_with_a_cache_has_no_reason_against_it():
    assert reason_against_cache(model_of("llama")) == ""


def test_roberta_counts_its_positions_from_the_padding_index():
    model = model_of("roberta")
    assert model.config.model_type in COUNTED_FROM_PADDING
    ids = list(IDS)
    for token in decode(model, IDS, GREEDY, N_NEW):
        with torch.no_grad():
            assert token.id == int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token.id)


def test_log_probabilities_are_those_of_a_float64_model_before_penalty_and_cuts():
    model = model_of("llama")
    tokens = list(decode(model, IDS, Sampling(2.0, top_k=9, top_p=0.8, repetition_penalty=1.5), N_NEW))
    ids = torch.tensor([IDS + [token.id for token in tokens]])
    with torch.no_grad():
        rows = model.double()(input_ids=ids).logits[0].log_softmax(dim=-1)
    wanted = [float(rows[len(IDS) - 1 + i, token.id]) for i, token in enumerate(tokens)]
    assert [token.log_p for token in tokens] == pytest.approx(wanted, abs=1e-4)


def test_draws_follow_the_distribution_of_temperature_and_cuts():
    """Chi-square of 4,000 tokens against softmax(logits / T) over the 20 likeliest, in float64; 19 df, p = 1e-6."""
    model = model_of("gpt2")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([IDS])).logits[0, -1].double() / 1.5
    likeliest = logits.topk(20).indices
    probabilities = logits[likeliest].softmax(dim=-1)
    n, counts = 4000, torch.zeros(64)
    for seed in range(n):
        (token,) = decode(model, IDS, Sampling(1.5, top_k=20, seed=seed), 1)
        counts[token.id] += 1
    assert counts[likeliest].sum() == n
    assert float(((counts[likeliest] - n * probabilities) ** 2 / (n * probabilities)).sum()) < 65


def test_texts_that_are_decoded_in_turn_are_those_decoded_alone():
    models = [model_of(name) for name in ("llama", "mamba", "recurrent_gemma", "llama")]
    prompts = [IDS, IDS[:5], IDS[:7], IDS[3:]]
    sampling = Sampling(1.3, seed=11)
    alone = [decoded(model, ids, sampling) for model, ids in zip(models, prompts, strict=True)]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    texts = [decode(model, ids, sampling, N_NEW) for model, ids in zip(models, prompts, strict=True)]
    in_turn = [[] for _ in texts]
    for _ in range(N_NEW):
        for tokens, text in zip(in_turn, texts, strict=True):
            tokens.append(next(text).id)
    assert in_turn == alone
    assert torch.equal(torch.get_rng_state(), state)  # the generator of the process draws nothing
    assert decoded(models[0], IDS, Sampling(1.3, seed=12)) != alone[0]


def test_two_texts_of_one_model_that_keeps_its_state_do_not_mix():
    model = model_of("recurrent_gemma")
    first, second = decode(model, IDS, GREEDY, N_NEW), decode(model, IDS[:4], GREEDY, N_NEW)
    both = [(next(first).id, next(second).id) for _ in range(N_NEW)]
    assert both == list(zip(decoded(model, IDS, GREEDY), decoded(model, IDS[:4], GREEDY), strict=True))


def test_model_is_run_once_per_token_and_only_for_tokens_that_are_taken():
    model, lengths = model_of("llama"), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    tokens = decode(model, IDS, GREEDY, 100)
    assert lengths == []
    list(islice(tokens, 4))
    assert lengths == [len(IDS), 1, 1, 1]  # the cache holds the rest
    tokens.close()
    lengths.clear()
    decoded(model, IDS, GREEDY, 3)
    assert lengths == [len(IDS), 1, 1]


@pytest.mark.parametrize("model_type", ["llama", "recurrent_gemma"])
def test_logits_of_other_tokens_than_the_next_are_not_computed(model_type):
    model, shapes = model_of(model_type), []
    model.get_output_embeddings().register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    decoded(model, IDS, GREEDY, 3)
    assert shapes == 3 * [(1, 1, 64)]


def test_ends_are_those_of_the_generation_config_and_the_tokenizer(pair):
    vocabulary = Vocabulary.open(pair[0])
    model = model_of("llama")
    eos = vocabulary.roles["eos"]
    assert end_tokens(model, vocabulary) == (eos,)
    model.generation_config.eos_token_id = [5, vocabulary.n_ids + 3]
    assert end_tokens(model, vocabulary) == tuple(sorted({5, eos}))
