"""The small models are models: the other tests may rely on every one of them."""

import pytest
import torch

from tests.support.small_models import TYPES, small_model

VOCAB_SIZE = 307


@pytest.mark.parametrize("model_type", TYPES)
def test_logits_cover_the_vocabulary_and_depend_on_earlier_tokens(model_type):
    model = small_model(model_type, VOCAB_SIZE, tied=False)
    ids = torch.arange(2, 14)[None]
    with torch.inference_mode():
        logits = model(ids).logits
        changed = model(torch.where(ids == 4, 99, ids)).logits
    assert logits.shape == (1, 12, VOCAB_SIZE)
    assert logits.isfinite().all()
    assert logits.std(dim=-1).min() > 0.01
    assert (changed[0, 3:] - logits[0, 3:]).abs().max() > 0.01
