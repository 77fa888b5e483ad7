"""The loss and the gradient of a step, for every class of models, against plain torch."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.jobs import end_of, train_here, train_options
from support.small_models import COMMON, small_config
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from clp_core.checkpoints.loading import refuse_non_causal
from clp_core.data.block_datasets import IGNORED_LABEL, ShuffledBlocks, padding_of, training_row
from clp_core.data.packing import packed_blocks
from clp_core.data.text_sources import Texts
from clp_core.errors import InputError
from clp_core.evaluation.losses import TextLoss, left_out, router_coefficient
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.distillation import Distillation
from clp_core.training.submit import submit_train
from clp_core.training.trainer import RunSetup, RunTrainer
from scripts.build_demo import labels_of

ROWS, LENGTH, PADDING = 40, 12, 0
MIXTURES = ("gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe")


def small(model_type, seed=0, **more):
    torch.manual_seed(seed)
    config = small_config(model_type, ROWS, **{"tied": True} | more)
    for name in [name for name in vars(config) if "drop" in name and isinstance(getattr(config, name), float)]:
        setattr(config, name, 0.0)  # what is drawn at random cannot be compared
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def blocks(start=None, sizes=(LENGTH, LENGTH, LENGTH, 5)):
    """Four blocks, the last of them short."""
    drawn = np.random.default_rng(0).integers(1, ROWS, (len(sizes), LENGTH))
    return [
        training_row(ids[: size - (start is not None)], LENGTH, PADDING, start)
        for ids, size in zip(drawn, sizes, strict=True)
    ]


class FirstStep(RunTrainer):
    """Collects the losses of a step and the norm of its gradient."""

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss

    def _clip_grad_norm(self, model):
        self.norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        return torch.tensor(self.norm)


def first_step(model, rows, objective, folder, micro):
    """Loss, loss on the text, and gradient norm of the first step as the Trainer of a run computes them."""
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=micro, use_cpu=True, report_to=[],
        gradient_accumulation_steps=len(rows) // micro, learning_rate=0.0, lr_scheduler_type="constant",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, optim="sgd",
    )  # fmt: skip
    text_losses, weight = [], getattr(objective, "weight", 0.0)
    telemetry = SimpleNamespace(
        plan=SimpleNamespace(bf16=False), schedule=SimpleNamespace(freezes=False), teacher_weight=lambda step: weight
    )
    losses = SimpleNamespace(add=lambda loss: text_losses.append(float(loss)))
    setup = RunSetup(SimpleNamespace(telemetry=telemetry, losses=losses), None, objective)
    trainer = FirstStep(setup, model=model, args=arguments, train_dataset=rows)
    trainer.losses = []
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda _: 1.0)
    trainer.train()
    return sum(trainer.losses), sum(text_losses), trainer.norm


def by_hand(model, rows, teacher=None, weight=0.0):
    """The same with plain torch: all blocks in one batch, scores in float64, a mean over what counts."""
    model.train()
    model.zero_grad()
    inputs = torch.from_numpy(np.stack([row["input_ids"] for row in rows]))
    counted = torch.zeros_like(inputs, dtype=torch.bool)
    for i, row in enumerate(rows):
        counted[i, 1 : 1 + int((row["labels"] != IGNORED_LABEL).sum())] = True
    outputs = model(input_ids=inputs)
    scores = torch.log_softmax(outputs.logits.double(), dim=-1)[:, :-1]
    total = text = -scores.gather(2, inputs[:, 1:, None]).squeeze(2)[counted[:, 1:]].mean()
    if teacher is not None:
        with torch.no_grad():
            expected = torch.softmax(teacher(input_ids=inputs).logits.double(), dim=-1)[:, :-1]
        followed = -(expected * scores).sum(-1)[counted[:, 1:]].mean()
        total = (1 - weight) * text + weight * followed
    total.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    return float(total.detach()), float(text.detach()), float(norm)


@pytest.mark.parametrize("model_type", COMMON)
def test_loss_and_gradient_of_a_step_are_those_of_plain_torch(tmp_path, model_type):
    rows = blocks()
    expected = by_hand(small(model_type), rows)
    found = first_step(small(model_type), rows, TextLoss(), tmp_path, micro=2)
    assert found == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("model_type", COMMON[::3])
def test_loss_and_gradient_with_a_teacher_are_those_of_plain_torch(tmp_path, model_type):
    rows = blocks(start=3)
    teacher = small("gpt2", seed=1).eval()
    expected = by_hand(small(model_type), rows, teacher, 0.75)
    taught = Distillation(teacher=teacher, n_ids=ROWS, padding=PADDING, weight=0.75)
    found = first_step(small(model_type), rows, taught, tmp_path, micro=2)
    assert found == pytest.approx(expected, rel=2e-5)


def test_blocks_of_a_single_token_neither_add_to_the_loss_nor_break_it(tmp_path):
    rows = blocks(sizes=(LENGTH, 1))
    expected = by_hand(small("gpt2"), rows)
    teacher = small("gpt2", seed=1).eval()
    taught = Distillation(teacher=teacher, n_ids=ROWS, padding=PADDING, weight=0.5)
    assert first_step(small("gpt2"), rows, TextLoss(), tmp_path, micro=1) == pytest.approx(expected, rel=2e-5)
    expected = by_hand(small("gpt2"), rows, teacher, 0.5)
    assert first_step(small("gpt2"), rows, taught, tmp_path, micro=1) == pytest.approx(expected, rel=2e-5)
    alone = TextLoss()(SimpleNamespace(logits=torch.zeros(1, 2, ROWS)), torch.full((1, 2), IGNORED_LABEL))
    assert float(alone) == 0.0


@pytest.mark.parametrize("model_type", MIXTURES)
def test_router_loss_of_a_mixture_of_experts_is_added_as_its_class_adds_it(tmp_path, model_type):
    rows = blocks(sizes=(LENGTH, LENGTH))
    more = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
    model = small(model_type, **more)
    ids = torch.from_numpy(np.stack([row["input_ids"] for row in rows]))
    outputs = model(input_ids=ids, labels=ids)
    outputs.loss.backward()
    expected = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    assert float(outputs.aux_loss.detach()) > 0.1
    own = small(model_type, **more)
    loss, text, norm = first_step(own, rows, TextLoss(router_coefficient(own)), tmp_path, micro=2)
    assert (loss, norm) == pytest.approx((float(outputs.loss.detach()), expected), rel=2e-5)
    assert text == pytest.approx(float((outputs.loss - 0.5 * outputs.aux_loss).detach()), rel=2e-5)
    halves = [model(input_ids=ids[i : i + 1], labels=ids[i : i + 1]).loss.item() for i in range(2)]
    split = first_step(small(model_type, **more), rows, TextLoss(router_coefficient(own)), tmp_path, micro=1)
    assert split[0] == pytest.approx(np.mean(halves), rel=2e-5)  # not once for each micro-batch


def test_router_loss_stays_away_where_the_configuration_does_not_ask_for_it(tmp_path):
    rows = blocks()
    model = small("mixtral")
    assert router_coefficient(model) > 0
    found = first_step(small("mixtral"), rows, TextLoss(router_coefficient(model)), tmp_path, micro=2)
    assert found == pytest.approx(by_hand(model, rows), rel=2e-5)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mixtral"])
def test_classes_whose_own_loss_is_minimised_bring_no_warning(model_type):
    ids = torch.arange(1, 9)
    assert left_out(small(model_type), TextLoss(), ids) == ""


def test_loss_that_a_class_adds_and_a_run_leaves_out_is_warned_of():
    more = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
    model = small("mixtral", **more).train()
    assert left_out(model, TextLoss(router_coefficient(model)), torch.arange(1, 9)) == ""
    assert "MixtralForCausalLM defines a loss of its own" in left_out(model, TextLoss(), torch.arange(1, 9))
    assert model.training


def test_held_out_loss_of_the_demos_build_is_the_mean_over_predicted_tokens(tmp_path):
    rows = np.random.default_rng(0).integers(1, ROWS, (4, LENGTH))
    data = [{"input_ids": row, "labels": labels} for row, labels in zip(rows, labels_of(rows), strict=True)]
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True)
    model = small("gpt2").eval()
    ids = torch.from_numpy(rows)
    with torch.no_grad():
        scores = torch.log_softmax(model(ids).logits.double(), dim=-1)[:, :-1]
    expected = float(-scores.gather(2, ids[:, 1:, None]).mean())
    assert Trainer(model=model, args=arguments, eval_dataset=data).evaluate()["eval_loss"] == pytest.approx(expected)


def model_folder(folder, model_type, tokenizer, **more):
    """Write a model without dropout, and its tokenizer."""
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if model_type == "gpt2" else {}
    torch.manual_seed(0)
    config = small_config(model_type, len(tokenizer), tied=True, **dropout, **more)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def first_line(job):
    line = next(line for line in job.metrics() if "loss" in line)
    return line["loss"], line["grad_norm"]


@pytest.mark.process
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_first_step_of_a_run_is_that_of_plain_torch(workspace, tmp_path, tokenizers, texts, model_type):
    folder = model_folder(tmp_path / "model", model_type, tokenizers["byte-level", "de"])
    options = train_options((folder, None), texts, max_steps=1, micro_blocks=2, precision="float32")
    job = train_here(workspace, options)
    vocabulary = Vocabulary.open(folder)
    dataset, counts = packed_blocks(Texts.open([texts[0]]), vocabulary, 32, workspace.cache)
    read = ShuffledBlocks(dataset, counts, 32, padding_of(vocabulary), 4, seed=1)
    total, _, norm = by_hand(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), [read[i] for i in range(4)]
    )
    assert first_line(job) == pytest.approx((total, norm), rel=2e-5)


@pytest.mark.process
@pytest.mark.parametrize(("model_type", "more"), [("gpt2", {}), ("mixtral", {"output_router_logits": True,
                                                                            "router_aux_loss_coef": 0.5})])  # fmt: skip
def test_first_step_of_two_processes_is_that_of_one(workspace, tmp_path, tokenizers, texts, model_type, more):
    folder = model_folder(tmp_path / "model", model_type, tokenizers["byte-level", "de"], **more)
    options = train_options((folder, None), texts, max_steps=1, micro_blocks=1, precision="float32", device="cpu")
    one = train_here(workspace, options)
    two = submit_train(workspace, replace(options, processes_per_node=2, sharding="ddp", name="two"))
    assert end_of(two).state == "finished", two.log_tail(10_000)
    assert first_line(two) == pytest.approx(first_line(one), rel=2e-5)
    assert one.warnings == two.warnings == []


def test_class_whose_attention_is_bidirectional_by_configuration_is_refused():
    with pytest.raises(InputError, match=r"it attends to tokens after .*use_bidirectional_attention"):
        refuse_non_causal(small("gemma3_text", use_bidirectional_attention=True), "it")
