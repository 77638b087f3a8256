"""`hf.MixTrainer`: the rows, losses and weights of a plain loop; positions in checkpoints; nothing lost or repeated.

Slower variants are in `tests/trainers/test_hf_more.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Asking, Tilt, joined, write_tokens

import mixstream as ms
from mixstream.errors import ConfigError, StateError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]


LEARNING = {"mixer": Tilt(), "lag": 4}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Import transformers with the first test: every worker collects this file, and forks what it has in memory."""
    global Saving, TrainerCallback, arguments, hf, library_of, logged  # noqa: PLW0603
    global plain_rows, plain_run, position, tiny_llama, token_losses, trainer_of  # noqa: PLW0603
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from hf_world import (
        Saving,
        arguments,
        library_of,
        logged,
        plain_rows,
        plain_run,
        position,
        tiny_llama,
        token_losses,
        trainer_of,
    )
    from transformers import TrainerCallback

    from mixstream.integrations import hf


@pytest.fixture(scope="module")
def saved(library, tmp_path_factory) -> Any:
    """A run of 8 steps with a mixer that learns, saved every 2 steps."""
    out = tmp_path_factory.mktemp("saved")
    trainer = trainer_of(library, out, LEARNING, max_steps=8, save_strategy="steps", save_steps=2)
    trainer.train()
    return trainer


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 4])
def test_rows_losses_and_weights_are_those_of_a_plain_loop(library, tmp_path, parts):
    plain = plain_run(library, 6, **LEARNING)
    each = {"per_device_train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
    trainer = trainer_of(library, tmp_path, LEARNING, **each)
    trainer.train()
    assert trainer.notes.by_step(parts) == plain["rows"]
    assert logged(trainer, "loss") == pytest.approx(plain["loss"], rel=1e-5)
    for ours, theirs in zip(trainer.model.parameters(), plain["model"].parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours, theirs = trainer.loader.state_dict(), plain["state"]
    assert ours["domains"][0]["drawn"] == theirs["domains"][0]["drawn"]
    assert ours["mixing"]["state"]["logits"] == pytest.approx(theirs["mixing"]["state"]["logits"], rel=1e-4)
    assert ours["mixing"]["reported"] == 6


def test_the_log_has_losses_and_weights_by_domain(library, saved):
    trained = [entry for entry in saved.state.log_history if "loss" in entry]
    assert len(trained) == 8
    for entry, rows in zip(trained, saved.notes.by_step(2)):
        share = {"web": sum(row < 2000 for row in rows), "law": sum(row >= 3000 for row in rows)}
        share["code"] = 8 - sum(share.values())
        assert {name for name, count in share.items() if count} == {name[5:] for name in entry if name[:5] == "loss/"}
        mean = sum(count * entry.get(f"loss/{name}", 0) for name, count in share.items()) / 8
        assert mean == pytest.approx(entry["loss"], rel=1e-5)
        assert sum(entry[f"weight/{name}"] for name in share) == pytest.approx(1)
    assert trained[0]["weight/law"] != trained[-1]["weight/law"]


def test_losses_are_means_since_the_last_log(library, tmp_path, saved):
    trainer = trainer_of(library, tmp_path, LEARNING, max_steps=8, logging_steps=4)
    trainer.train()
    assert len(logged(trainer, "loss")) == 2
    web = [sum(row < 2000 for row in rows) for rows in saved.notes.by_step(2)][:4]
    assert logged(trainer, "loss/web")[0] == pytest.approx(
        sum(n * loss for n, loss in zip(web, logged(saved, "loss/web"))) / sum(web), rel=1e-5
    )


def test_the_trainer_ends_where_no_domain_is_left(library, tmp_path):
    streams = [ms.Stream(remote=str(library / "code"), max_epochs=1)]
    dataset = ms.StreamingDataset(streams=streams, batch_size=8, mixer=ms.mixers.Static({"code": 1.0}), lag=4)
    trainer = trainer_of(library, tmp_path, train_dataset=dataset, max_steps=40)
    with pytest.warns(UserWarning, match="the run ends at step 6"):
        trainer.train()
    assert trainer.state.global_step == 6
    rows = joined(trainer.notes.rows)
    assert len(set(rows)) == len(rows) == 48


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "rows", "parts"), [(2, 8, 1), (4, 1, 8)])
def test_a_resumed_run_goes_on_at_the_next_row_under_any_accumulation(library, tmp_path, saved, step, rows, parts):
    checkpoint = Path(saved.args.output_dir, f"checkpoint-{step}")
    each = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": parts}
    trainer = trainer_of(library, tmp_path, LEARNING, max_steps=8, **each)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.notes.by_step(parts) == saved.notes.by_step(2)[step:]
    assert trainer.state.global_step == 8
    assert logged(trainer, "loss") == pytest.approx(logged(saved, "loss"), rel=1e-5)
    assert logged(trainer, "epoch") == pytest.approx(logged(saved, "epoch"))
    for ours, theirs in zip(trainer.model.parameters(), saved.model.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_the_trainer_is_a_state_of_any_loader(library, saved):
    with ms.Loader(library_of(library, **LEARNING)) as loader:
        loader.load_state_dict(position(Path(saved.args.output_dir, "checkpoint-6")))
        assert next(iter(loader))["tokens"][:, 0].tolist() == saved.notes.by_step(2)[6]


def test_a_finished_run_that_is_resumed_reads_nothing(library, tmp_path, saved):
    trainer = trainer_of(library, tmp_path, LEARNING, max_steps=8)
    trainer.train(resume_from_checkpoint=str(Path(saved.args.output_dir, "checkpoint-8")))
    assert not hasattr(trainer, "notes")
    assert trainer.state.global_step == 8


def test_a_second_train_goes_on_with_the_data(library, tmp_path):
    trainer = trainer_of(library, tmp_path, train_dataset=ms.Loader(library_of(library)), max_steps=4)
    trainer.train()
    trainer.train()
    assert trainer.notes.by_step(2) == plain_rows(library, 8)


def test_steps_that_are_left_out_are_not_counted_by_the_trainer(library, tmp_path):
    class LeavingOut(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                first.loader.skip(4)

    out, saving = tmp_path / "first", {"save_strategy": "steps", "save_steps": 2}
    first = trainer_of(library, out, callbacks=[LeavingOut()], max_steps=4, **saving)
    first.train()
    rows = plain_rows(library, 12)
    assert first.notes.by_step(2) == [*rows[:3], rows[7]]
    for step in (2, 4):
        trainer = trainer_of(library, tmp_path / f"{step}", max_steps=6)
        if step == 2:
            trainer.loader.skip(range(3, 7))  # before the checkpoint is loaded, which does not know of it
        trainer.train(resume_from_checkpoint=str(out / f"checkpoint-{step}"))
        assert trainer.notes.by_step(2) == [*rows[:3], *rows[7:10]][step:]
        assert trainer.state.global_step == 6
        assert trainer.loader.state_dict()["step"] == 10


def test_a_step_that_failed_is_read_again(library, tmp_path):
    trainer = trainer_of(library, tmp_path, LEARNING, max_steps=3)

    def fail(number: int) -> None:
        if number == 3:
            trainer.before = None
            raise KeyboardInterrupt

    trainer.before = fail
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    rows = plain_run(library, 4, **LEARNING)["rows"]
    assert [*trainer.notes.by_step(2)[:1], trainer.notes.rows[2]] == [rows[0], rows[1][:4]]
    assert trainer.notes.rows[3:5] == [rows[1][:4], rows[1][4:]]
    assert trainer.loader.state_dict()["mixing"]["reported"] == 4


def test_a_checkpoint_within_a_step_is_of_the_finished_ones(library, tmp_path):
    """Such as those of `enable_jit_checkpoint`, which saves where a SIGTERM finds it."""
    saving = Saving("on_pre_optimizer_step")
    jit = trainer_of(library, tmp_path, LEARNING, callbacks=[saving], max_steps=8, enable_jit_checkpoint=True)
    saving.trainer = jit
    jit.train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    trainer = trainer_of(library, tmp_path / "b", LEARNING, max_steps=8)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    done = int(checkpoint.name[11:])
    assert done == 3
    assert trainer.notes.by_step(2) == plain_run(library, 8, **LEARNING)["rows"][done:]


def test_a_checkpoint_within_a_step_is_refused_elsewhere(library, tmp_path):
    saving = Saving("on_substep_end")
    saving.trainer = trainer = trainer_of(library, tmp_path, LEARNING, callbacks=[saving])
    with pytest.raises(StateError, match=r"step 3 .*enable_jit_checkpoint=True"):
        trainer.train()


def test_a_checkpoint_without_a_position_is_refused(library, tmp_path, saved):
    state = Path(saved.args.output_dir, "checkpoint-2", "trainer_state.json")
    known = json.loads(state.read_text())
    (tmp_path / "old").mkdir()
    for path in state.parent.iterdir():
        (tmp_path / "old" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "old" / state.name).write_text(json.dumps({**known, "stateful_callbacks": {}}))
    trainer = trainer_of(library, tmp_path / "b", LEARNING)
    with pytest.raises(StateError, match=r"step 2 holds no position .*without resume_from_checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "old"))
    anew = trainer_of(library, tmp_path / "c", LEARNING, max_steps=3, strict=False)
    with pytest.warns(UserWarning, match=r"step 2 holds no position .*step=0"):
        anew.train(resume_from_checkpoint=str(tmp_path / "old"))
    assert anew.notes.by_step(2) == saved.notes.by_step(2)[:1]


def test_a_checkpoint_of_other_data_is_refused_unless_it_is_not_strict(library, tmp_path, saved):
    checkpoint = str(Path(saved.args.output_dir, "checkpoint-2"))
    other = {**LEARNING, "batch_size": 4}
    each = {"per_device_train_batch_size": 2, "max_steps": 3}
    with pytest.raises(StateError, match="batch"):
        trainer_of(library, tmp_path, other, **each).train(resume_from_checkpoint=checkpoint)
    trainer = trainer_of(library, tmp_path, other, strict=False, **each)
    with pytest.warns(UserWarning, match="of another run"):
        trainer.train(resume_from_checkpoint=checkpoint)
    assert not set(joined(trainer.notes.rows[:2])) & set(joined(saved.notes.rows[:4]))


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = {
    "per_device_train_batch_size": (8, "batch_size is 8 .*8 x gradient_accumulation_steps=2 = 16"),
    "auto_find_batch_size": (True, "rows read until then would be missing"),
    "train_sampling_strategy": ("group_by_length", "has no effect on a loader"),
    "accelerator_config": ({"split_batches": True}, "divides a batch among ranks"),
}


def test_arguments_by_which_other_rows_would_be_read_are_refused(library, tmp_path):
    for name, (value, why) in REFUSED.items():
        with pytest.raises(ConfigError, match=why):
            trainer_of(library, tmp_path, **{name: value})


def test_arguments_that_were_changed_since_are_refused_by_train(library, tmp_path):
    trainer = trainer_of(library, tmp_path)
    for name, value in (("per_device_train_batch_size", 8), ("auto_find_batch_size", True), ("_n_gpu", 2)):
        before = getattr(trainer.args, name)
        setattr(trainer.args, name, value)
        with pytest.raises(ConfigError):
            trainer.get_train_dataloader()
        setattr(trainer.args, name, before)


def test_dropping_the_last_batch_is_the_datasets_choice(library, tmp_path):
    with pytest.raises(ConfigError, match="drop_last=True"):
        trainer_of(library, tmp_path, {"drop_last": False}, dataloader_drop_last=True)
    trainer_of(library, tmp_path, {"drop_last": True}, dataloader_drop_last=True)


def test_a_dataset_of_other_ranks_is_refused(library, tmp_path):
    with pytest.raises(ConfigError, match=r"rank 1 of 2, and for the Trainer this is rank 0 of 1"):
        trainer_of(library, tmp_path, {"rank": 1, "world_size": 2})


def test_what_a_loader_cannot_take_is_refused(library, tmp_path):
    with pytest.raises(ConfigError, match="train_dataset is a list"):
        trainer_of(library, tmp_path, train_dataset=[1])
    with pytest.raises(ConfigError, match=r"data_collator .*collate_fn="):
        trainer_of(library, tmp_path, data_collator=lambda samples: samples)
    with pytest.raises(ConfigError, match=r"ValidationSet\.open"):
        trainer_of(library, tmp_path, eval_dataset=ms.Loader(library_of(library))).evaluate()
    with pytest.raises(ConfigError, match="columns="):
        trainer_of(library, tmp_path, columns={"text": "input_ids"}).train()


def test_looking_at_batches_outside_of_training_is_refused(library, tmp_path):
    trainer = trainer_of(library, tmp_path)
    with pytest.raises(ConfigError, match="missing from train"):
        next(iter(trainer.get_train_dataloader()))


def test_skipping_of_the_trainer_is_off(library, tmp_path):
    trainer = trainer_of(library, tmp_path, ignore_data_skip=False)
    assert trainer.get_train_dataloader() is trainer.accelerator.prepare(trainer.get_train_dataloader())
    assert trainer.args.ignore_data_skip


# --- columns and heads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_labels_leave_out_ignored_and_masked_tokens_and_other_columns_are_dropped(tmp_path, masked):
    write_tokens(tmp_path / "web", [1, 2, 3, 2] * 4)
    dataset = ms.StreamingDataset(local=str(tmp_path / "web"), batch_size=8)
    name, mask = ("loss_mask", lambda tokens: tokens != 1) if masked else ("source", lambda tokens: tokens)
    add = ms.Loader(dataset, transforms=[lambda batch: batch | {name: mask(batch["tokens"])}])
    seen: list[dict[str, Any]] = []

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_llama()
            self.config = self.inner.config

        def forward(self, input_ids: Any, labels: Any = None) -> Any:
            seen.append({"input_ids": input_ids, "labels": labels})
            return tuple(self.inner(input_ids, labels=labels).values())[:2]

    trainer = hf.MixTrainer(Model(), arguments(tmp_path, max_steps=1), train_dataset=add, ignore_token=2)
    trainer.train()
    (ids, labels), *_ = ((part["input_ids"], part["labels"]) for part in seen)
    assert ids[:, 0].tolist() == [1, 2, 3, 2]
    assert labels[:, 0].tolist() == [-100 if masked else 1, -100, 3, -100]


class Fused(torch.nn.Module):
    """A head as Liger's, which returns no logits in training."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_llama()
        self.config, self.base_model = self.inner.config, self.inner.model

    def get_output_embeddings(self) -> Any:
        return self.inner.lm_head

    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        return {"loss": self.inner(input_ids, labels=labels).loss}


@pytest.mark.parametrize("kind", ["liger", "compute_loss_func"])
def test_losses_by_domain_of_other_heads_are_those_of_logits(library, tmp_path, kind):
    own: dict[str, Any] = {"model": Fused()}
    if kind == "compute_loss_func":
        own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch: outputs.logits.mean()}
    trainer = trainer_of(library, tmp_path, max_steps=1, ignore_token=1041, **own)
    before = tiny_llama()
    trainer.train()
    with ms.Loader(library_of(library)) as loader, torch.no_grad():
        batch = next(iter(loader))
        sums, counts = ms.domain_sums(
            token_losses(before, batch["tokens"]), batch["domain"], 3, mask=batch["tokens"][:, 1:] != 1041
        )
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert 1041 in batch["tokens"]
    for name, total, count in zip(loader.dataset.domain_names, sums.tolist(), counts.tolist()):
        assert entry.get(f"loss/{name}", 0) == pytest.approx(total / max(count, 1), rel=1e-5)


def test_a_model_without_token_losses_is_refused_unless_none_are_wanted(library, tmp_path):
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids: Any, labels: Any = None) -> Any:
            return {"loss": (self.weight * input_ids).mean()}

    with pytest.raises(ConfigError, match=r"Bare does not say .*losses_by_domain=False"):
        trainer_of(library, tmp_path, model=Bare()).train()
    trainer = trainer_of(library, tmp_path, model=Bare(), losses_by_domain=False)
    trainer.train()
    assert trainer.notes.by_step(2) == plain_rows(library, 6)
    assert not logged(trainer, "loss/web")


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_a_validation_set_is_evaluated_by_domain(library, tmp_path):
    dataset = library_of(library)
    streams = [ms.Stream(name=name, remote=str(library / name)) for name in dataset.domain_names]
    rows = ms.ValidationSet.open(dataset, streams=streams, rows=10)
    trainer = trainer_of(
        library, tmp_path, train_dataset=dataset, eval_dataset=rows, per_device_eval_batch_size=4,
        eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    trainer.train()
    model = trainer.model.eval()
    sums = ms.evaluate(lambda batch: token_losses(model, batch["tokens"]), rows)
    for name, total, count in zip(dataset.domain_names, *sums):
        assert count == 70
        assert logged(trainer, f"eval_loss/{name}")[-1] == pytest.approx(total / count, rel=1e-5)
    assert logged(trainer, "eval_loss")[-1] == pytest.approx(sum(sums[0]) / sum(sums[1]), rel=1e-2)
    assert trainer.notes.by_step(2) == plain_rows(library, 6)
    assert trainer.evaluate(rows)["eval_loss/web"] == logged(trainer, "eval_loss/web")[-1]


def test_all_rows_of_a_dataset_are_evaluated_as_the_trainer_divides_them(library, tmp_path):
    dataset = library_of(library)
    trainer = trainer_of(library, tmp_path, eval_dataset=dataset, per_device_eval_batch_size=4)
    model, rows = trainer.model.eval(), [sample["tokens"].astype(int) for sample in dataset[:]]
    found, size = trainer.evaluate()["eval_loss"], dataset.num_samples
    assert len(trainer.get_eval_dataloader()) == -(-size // 4)
    tokens = torch.tensor(np.stack(rows))
    assert found == pytest.approx(float(token_losses(model, tokens).detach().mean()), rel=1e-4)
    assert trainer.evaluate(dataset)["eval_loss"] == found  # nothing was used up
    local = ms.LocalDataset(str(library / "web"))
    of_web = torch.tensor(np.stack([sample["tokens"].astype(int) for sample in local[:]]))
    assert trainer.evaluate(local)["eval_loss"] == pytest.approx(
        float(token_losses(model, of_web).detach().mean()), rel=1e-4
    )


def test_a_mixer_that_wants_the_model_evaluated_gets_it(library, tmp_path):
    dataset = library_of(library, mixer=Asking(every=2), lag=4)
    streams = [ms.Stream(name=name, remote=str(library / name)) for name in dataset.domain_names]
    rows = ms.ValidationSet.open(dataset, streams=streams, rows=10)
    trainer = trainer_of(library, tmp_path, train_dataset=dataset, eval_dataset=rows, max_steps=8)
    trainer.train()
    logits = trainer.loader.state_dict()["mixing"]["state"]["logits"]
    assert all(5 < value < 12 for value in logits)
    assert trainer.model.training
