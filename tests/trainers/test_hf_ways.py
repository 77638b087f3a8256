"""Ways of training with `hf.MixTrainer` that users combine: epochs, precisions, limits, evaluations, checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hf_world import arguments, library_of, plain_rows, tiny_llama, trainer_of
from transformers import Trainer

import mixstream as ms
from mixstream.errors import StateError

BIG = {"batch_size": 32}  # an epoch of 6 steps
EACH = {"per_device_train_batch_size": 16, "max_steps": -1, "save_strategy": "steps"}


def logged(trainer: Trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def validation(library: Path) -> ms.ValidationSet:
    dataset = library_of(library)
    streams = [ms.Stream(name=name, remote=str(library / name)) for name in dataset.domain_names]
    return ms.ValidationSet.open(dataset, streams=streams, rows=8)


@pytest.mark.parametrize("at", [6, 12])
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_run_of_epochs_goes_on_from_the_end_of_one(library, tmp_path, at, drop_last):
    data = {**BIG, "drop_last": drop_last}
    whole = trainer_of(library, tmp_path, data, num_train_epochs=3, **{**EACH, "save_strategy": "epoch"})
    whole.train()
    epoch = whole.state.max_steps // 3
    at = at // 6 * epoch
    assert whole.notes.by_step(2) == plain_rows(library, 3 * epoch, **data)
    resumed = trainer_of(library, tmp_path / "b", data, num_train_epochs=3, **EACH)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert resumed.notes.by_step(2) == whole.notes.by_step(2)[at:]
    assert logged(resumed, "epoch") == pytest.approx(logged(whole, "epoch"))


@pytest.mark.parametrize("at", [4, 6, 8])
def test_a_run_that_reached_its_steps_goes_on_with_more(library, tmp_path, at):
    first = trainer_of(library, tmp_path, BIG, **{**EACH, "max_steps": at, "save_steps": at})
    first.train()
    more = trainer_of(library, tmp_path, BIG, **{**EACH, "max_steps": 15})
    more.train(resume_from_checkpoint=True)
    assert more.state.global_step == 15
    assert [*first.notes.by_step(2), *more.notes.by_step(2)] == plain_rows(library, 15, **BIG)
    assert logged(more, "epoch")[:at] == logged(first, "epoch")[:at]
    assert [entry["epoch"] for entry in more.state.log_history if "loss" in entry] == pytest.approx(
        [step / 6 for step in range(1, 16)]
    )


def test_a_run_of_steps_goes_on_as_one_of_epochs(library, tmp_path):
    first = trainer_of(library, tmp_path, BIG, **{**EACH, "max_steps": 8, "save_steps": 8})
    first.train()
    more = trainer_of(library, tmp_path, BIG, num_train_epochs=2, **EACH)
    more.train(resume_from_checkpoint=True)
    assert [*first.notes.by_step(2), *more.notes.by_step(2)] == plain_rows(library, 12, **BIG)


def test_evaluation_at_the_start_moves_nothing(library, tmp_path):
    each = {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = trainer_of(library, tmp_path, eval_dataset=validation(library), save_total_limit=1, **each)
    trainer.train()
    assert trainer.notes.by_step(2) == plain_rows(library, 6)
    assert len(logged(trainer, "eval_loss/web")) == 4
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
    more = trainer_of(library, tmp_path, eval_dataset=validation(library), **{**each, "max_steps": 8})
    more.train(resume_from_checkpoint=True)
    assert more.notes.by_step(2) == plain_rows(library, 8)[6:]


def test_a_checkpoint_of_the_plain_trainer_is_refused(library, tmp_path):
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(64)]
    plain = Trainer(
        tiny_llama(), arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2), train_dataset=rows
    )
    plain.train()
    trainer = trainer_of(library, tmp_path / "b")
    with pytest.raises(StateError, match="step 2 holds no position"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize(
    "given",
    [
        {"bf16": True},
        {"label_smoothing_factor": 0.1},
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"average_tokens_across_devices": False},
        {"gradient_checkpointing": True},
        {"remove_unused_columns": False},
        {"logging_nan_inf_filter": True, "logging_first_step": True},
        {"neftune_noise_alpha": 0.01},
    ],
    ids=lambda given: next(iter(given)),
)
def test_losses_by_domain_are_of_the_same_tokens_whatever_the_precision_or_loss(library, tmp_path, given):
    plain, other = trainer_of(library, tmp_path, max_steps=2), trainer_of(library, tmp_path / "b", max_steps=2, **given)
    plain.train()
    other.train()
    assert other.notes.rows == plain.notes.rows
    for name in ("loss/web", "loss/code", "loss/law"):
        assert logged(other, name) == pytest.approx(logged(plain, name), rel=0.02), name
