"""Frozen parameters and rows stay bit for bit as they are, whatever trains beside them."""

import copy

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from clp_core.training.parameter_groups import BODY, EMBEDDINGS, Freezing
from clp_core.training.schedule import ALL_ROWS, MISSING_ROWS, Schedule, Stage, plain, staged

N_ROWS, WIDTH = 12, 4
NEW = np.arange(N_ROWS) % 3 == 0
EVERYTHING = Stage("everything", 1, 1e-2, 1e-2, 0, 0.1)
EMBEDDINGS_ONLY = Stage("embeddings", 1, 0.0, 1e-2, 0, 0.1)
BODY_ONLY = Stage("body", 1, 1e-2, 0.0, 0, 0.1)
NEW_ROWS = Stage("new rows", 1, 0.0, 1e-2, 0, 0.1, MISSING_ROWS)
NEW_ROWS_AND_BODY = Stage("new rows and body", 1, 1e-2, 1e-2, 0, 0.1, MISSING_ROWS)


class Small(torch.nn.Module):
    def __init__(self, tied, reentrant=None):
        super().__init__()
        self.embed = torch.nn.Embedding(N_ROWS, WIDTH)
        self.body = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh())
        self.head = torch.nn.Linear(WIDTH, N_ROWS)
        self.reentrant = reentrant
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        hidden = self.embed(ids)
        hidden = (
            self.body(hidden) if self.reentrant is None else checkpoint(self.body, hidden, use_reentrant=self.reentrant)
        )
        return self.head(hidden)


class Training:
    """A few steps of AdamW, with gradients accumulated and clipped, as the Trainer does it."""

    def __init__(self, model, wrapped=None, decay=0.1):
        self.model, self.wrapped = model, wrapped or model
        body = [*model.body.parameters()]
        rows = [parameter for parameter in model.parameters() if all(parameter is not other for other in body)]
        groups = [{"params": body, "weight_decay": decay}, {"params": rows, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-2, fused=True)
        self.stage = EVERYTHING
        self.generator = torch.Generator().manual_seed(0)
        self.freezing = None

    def freeze(self):
        self.freezing = Freezing(self.optimiser, [BODY, EMBEDDINGS], lambda: self.stage, NEW)
        return self

    def steps(self, stage, n=3, micro=2):
        self.stage = stage
        norms = []
        for _ in range(n):
            for _ in range(micro):
                ids = torch.randint(N_ROWS, (3, 5), generator=self.generator)
                torch.nn.functional.cross_entropy(self.wrapped(ids).flatten(0, 1), ids.flatten()).backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)))
            self.optimiser.step()
            self.optimiser.zero_grad()
        return norms


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def weights(model):
    return {name: whole(value).detach().clone() for name, value in model.named_parameters()}


def check_change(before, after, stage):
    """Hold every weight against what a stage trains: bit-equal where it is frozen, moved where it is not."""
    new = torch.from_numpy(NEW)
    for name, old in before.items():
        rate = stage.body_rate if name.startswith("body") else stage.embedding_rate
        if not rate:
            assert torch.equal(old, after[name]), name
        elif stage.rows == ALL_ROWS or name.startswith("body"):
            assert not torch.equal(old, after[name]), name
        else:
            assert torch.equal(old[~new], after[name][~new]), name
            assert not torch.equal(old[new], after[name][new]), name


STAGES = [EMBEDDINGS_ONLY, BODY_ONLY, NEW_ROWS, NEW_ROWS_AND_BODY]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
@pytest.mark.parametrize("reentrant", [None, True, False], ids=["kept", "reentrant", "not reentrant"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_frozen_weights_stay_bit_equal_after_a_stage_in_which_everything_trained(tied, reentrant, stage):
    torch.manual_seed(0)
    training = Training(Small(tied, reentrant)).freeze()
    training.steps(EVERYTHING)  # the optimiser has momentum for all rows now
    before = weights(training.model)
    training.steps(stage)
    check_change(before, weights(training.model), stage)
    assert training.freezing.steps == 6
    before = weights(training.model)
    training.steps(EVERYTHING)
    check_change(before, weights(training.model), EVERYTHING)


def test_frozen_weights_stay_bit_equal_after_a_resume():
    torch.manual_seed(0)
    first = Training(Small(tied=True)).freeze()
    first.steps(EVERYTHING)
    state = copy.deepcopy((first.model.state_dict(), first.optimiser.state_dict()))
    second = Training(Small(tied=True)).freeze()
    second.model.load_state_dict(state[0])
    second.optimiser.load_state_dict(state[1])
    before = weights(second.model)
    second.steps(NEW_ROWS)
    check_change(before, weights(second.model), NEW_ROWS)


def test_steps_equal_those_of_plain_torch_on_masked_gradients():
    torch.manual_seed(0)
    model = Small(tied=False)
    training, plain_torch = Training(model).freeze(), Training(copy.deepcopy(model))
    norms = training.steps(NEW_ROWS)
    mask = torch.from_numpy(NEW).float()
    reference = []
    for _ in range(3):
        for _ in range(2):
            ids = torch.randint(N_ROWS, (3, 5), generator=plain_torch.generator)
            logits = plain_torch.model(ids)
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        for name, parameter in plain_torch.model.named_parameters():
            if name.startswith("body"):
                parameter.grad = None
            else:
                parameter.grad *= mask[:, None] if parameter.dim() == 2 else mask
        reference.append(float(torch.nn.utils.clip_grad_norm_(plain_torch.model.parameters(), 1.0)))
        plain_torch.optimiser.step()
        plain_torch.optimiser.zero_grad()
    assert norms == pytest.approx(reference, rel=1e-6)  # the norm is that of what trains
    expected = weights(plain_torch.model)
    for name, found in weights(training.model).items():
        assert torch.equal(found, expected[name])


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "ddp bucket views", "fsdp"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_frozen_weights_stay_bit_equal_where_processes_train_together(one_process, kind, stage):
    torch.manual_seed(0)
    model = Small(tied=True)
    if kind == "fsdp":
        wrapped = fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    else:
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=kind != "ddp")
    training = Training(model, wrapped).freeze()
    training.steps(EVERYTHING)
    before = weights(model)
    training.steps(stage)
    check_change(before, weights(model), stage)


def test_schedule_knows_whether_it_freezes_anything():
    assert not plain(10, 1e-3, 1e-4, 0.1, 0.1).freezes
    assert staged(10, 5, 1e-3, 1e-3, 1e-3, 0.1, 0.1, rows=ALL_ROWS).freezes
    assert staged(10, 10, 1e-3, 1e-3, 1e-3, 0.1, 0.1, rows=MISSING_ROWS).freezes
    assert Schedule((BODY_ONLY,)).freezes
