"""More of `hf.MixTrainer` in one process, as `tests/mixstream/integrations/test_hf.py`; slower, so not in the gate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate")
sys.path.append(str(Path(__file__).parents[1] / "mixstream"))

from harness import Tilt  # pyright: ignore[reportMissingImports] - the path is set above
from hf_world import (  # pyright: ignore[reportMissingImports]
    NotingMixin,
    Saving,
    arguments,
    library_of,
    logged,
    new_llama,
    plain_rows,
    plain_run,
    tiny_llama,
    trainer_of,
)
from transformers import Trainer, TrainerCallback

import mixstream as ms
from mixstream.data.collate import collate_samples

pytestmark = pytest.mark.trainers
LEARNING = {"mixer": Tilt(), "lag": 4}


class Epochs(TrainerCallback):
    """Notes the steps at which the Trainer's epochs end."""

    def __init__(self) -> None:
        self.ends: list[int] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(state.global_step)


def test_epochs_of_a_resumed_run_end_where_they_would_have(library, tmp_path):
    big = {"batch_size": 32}
    each = {"per_device_train_batch_size": 16, "max_steps": -1, "num_train_epochs": 2.5, "save_strategy": "steps"}
    whole, rest = Epochs(), Epochs()
    first = trainer_of(library, tmp_path, big, callbacks=[whole], save_steps=8, **each)
    first.train()
    assert first.notes.by_step(2) == plain_rows(library, 15, **big)
    each |= {"restore_callback_states_from_checkpoint": True, "save_strategy": "no"}
    resumed = trainer_of(library, tmp_path / "b", big, callbacks=[rest], **each)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed.notes.by_step(2) == first.notes.by_step(2)[8:]
    assert (whole.ends, rest.ends) == ([6, 12, 15], [12, 15])
    assert logged(resumed, "epoch") == pytest.approx(logged(first, "epoch"))


def test_a_new_model_begins_with_the_first_row(library, tmp_path):
    trainer = trainer_of(library, tmp_path, LEARNING, model_init=new_llama, max_steps=3)
    trainer.train()
    trainer.train()
    assert trainer.notes.by_step(2)[3:] == trainer.notes.by_step(2)[:3]


def test_checkpoints_of_models_alone_and_best_models_keep_the_position(library, tmp_path):
    with ms.Loader(library_of(library)) as loader:
        streams = [ms.Stream(name=name, remote=str(library / name)) for name in loader.dataset.domain_names]
        rows = ms.ValidationSet.open(loader.dataset, streams=streams, rows=8)
    each = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss/law", "greater_is_better": True}
    trainer = trainer_of(library, tmp_path, eval_dataset=rows, save_only_model=True, **each, **best)
    trainer.train()
    assert trainer.state.best_global_step == 2
    trainer.train()
    assert trainer.notes.by_step(2) == plain_rows(library, 12)
    resumed = trainer_of(library, tmp_path / "b", max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    # Both runs have saved checkpoint-2, the second after eight steps in all.
    assert resumed.notes.by_step(2) == plain_rows(library, 12)[8:]


@pytest.mark.parametrize("face", ["dataloader", "workers"])
def test_a_second_train_goes_on_with_the_data(library, tmp_path, face):
    dataset = library_of(library, batch_size=32)
    workers = {"num_workers": 1, "multiprocessing_context": "fork"} if face == "workers" else {}
    made = ms.Loader(dataset) if face == "loader" else ms.StreamingDataLoader(dataset, **workers)
    trainer = trainer_of(library, tmp_path, train_dataset=made, max_steps=4, per_device_train_batch_size=16)
    trainer.train()
    trainer.train()
    assert trainer.notes.by_step(2) == plain_rows(library, 8, batch_size=32)


@pytest.mark.parametrize("place", ["on_step_begin", "on_step_end"])
def test_a_checkpoint_within_a_step_is_of_the_finished_ones(library, tmp_path, place):
    """Such as those of `enable_jit_checkpoint`, which saves where a SIGTERM finds it."""
    saving = Saving(place)
    jit = trainer_of(library, tmp_path, LEARNING, callbacks=[saving], max_steps=8, enable_jit_checkpoint=True)
    saving.trainer = jit
    jit.train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    trainer = trainer_of(library, tmp_path / "b", LEARNING, max_steps=8)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    done = int(checkpoint.name[11:])
    assert done == 3
    assert trainer.notes.by_step(2) == plain_run(library, 8, **LEARNING)["rows"][done:]


@pytest.mark.parametrize("rows", [8, 4])
def test_a_plain_trainer_in_one_process_reads_the_same_rows_and_skips_them(library, tmp_path, rows):
    """Micro-batches of a DataLoader may be smaller than a step of the dataset; the Trainer skips one by one."""

    class Plain(NotingMixin, Trainer):
        pass

    def run(resume: str | None) -> list[list[int]]:
        trainer = Plain(
            tiny_llama(), arguments(tmp_path, max_steps=4, save_strategy="steps", save_steps=3),
            train_dataset=library_of(library, batch_size=rows),
            data_collator=lambda samples: dict.fromkeys(["input_ids", "labels"], collate_samples(samples)["tokens"]),
        )  # fmt: skip
        trainer.args.remove_unused_columns = False
        trainer.train(resume_from_checkpoint=resume)
        return trainer.notes.by_step(2)

    assert run(None) == plain_rows(library, 4)
    assert run(str(tmp_path / "checkpoint-3")) == plain_rows(library, 4)[3:]
