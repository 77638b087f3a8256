"""TRL's SFTTrainer with `hf.MixTrainerMixin`: rows, losses and positions are those of `hf.MixTrainer`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
sys.path.append(str(Path(__file__).parents[1] / "mixstream"))

from harness import Tilt  # pyright: ignore[reportMissingImports] - the path is set above
from hf_world import (  # pyright: ignore[reportMissingImports]
    NotingMixin,
    arguments,
    library_of,
    plain_run,
    tiny_llama,
    trainer_of,
)
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.integrations import hf

pytestmark = pytest.mark.trainers

LEARNING = {"mixer": Tilt(), "lag": 4}


class MixSFT(NotingMixin, hf.MixTrainerMixin, SFTTrainer):
    """TRL's trainer over a loader."""


def sft(library: Path, out: Path, data: dict[str, Any] | None = None, **changes: Any) -> MixSFT:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    own = {name: changes.pop(name) for name in [*changes] if name in {"eval_dataset", "columns", "ignore_token"}}
    given = arguments(out, save_strategy="steps", save_steps=2).to_dict() | changes
    config = SFTConfig(**{name: value for name, value in given.items() if name in SFTConfig.__dataclass_fields__})
    dataset = library_of(library, **(data or LEARNING))
    return MixSFT(tiny_llama(), config, train_dataset=dataset, processing_class=tokenizer, **own)


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_rows_losses_and_weights_are_those_of_a_plain_loop(library, tmp_path):
    plain, trainer = plain_run(library, 6, **LEARNING), sft(library, tmp_path)
    trainer.train()
    assert trainer.notes.by_step(2) == plain["rows"]
    assert logged(trainer, "loss") == pytest.approx(plain["loss"], rel=1e-4)
    ours = trainer.loader.state_dict()["mixing"]["state"]["logits"]
    assert ours == pytest.approx(plain["state"]["mixing"]["state"]["logits"], rel=1e-3)


def test_losses_by_domain_of_the_fused_head_are_those_of_logits(library, tmp_path):
    fused, plain = (
        sft(library, tmp_path, ignore_token=1041),
        trainer_of(library, tmp_path / "b", LEARNING, ignore_token=1041),
    )
    fused.train()
    plain.train()
    for name in ("loss/web", "loss/code", "loss/law", "loss"):
        assert logged(fused, name) == pytest.approx(logged(plain, name), rel=1e-4)
    assert "mean_token_accuracy" in fused.state.log_history[0]


def test_a_checkpoint_goes_on_at_the_next_row(library, tmp_path):
    first = sft(library, tmp_path)
    first.train()
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["MixPosition"]["attributes"]["position"]["step"] == 4
    each = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    resumed = sft(library, tmp_path / "b", **each)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.notes.by_step(1) == first.notes.by_step(2)[4:]
    assert logged(resumed, "loss") == pytest.approx(logged(first, "loss"), rel=1e-4)


def test_a_validation_set_is_evaluated_by_domain(library, tmp_path):
    dataset = library_of(library)
    streams = [ms.Stream(name=name, remote=str(library / name)) for name in dataset.domain_names]
    rows = ms.ValidationSet.open(dataset, streams=streams, rows=10)
    trainer = sft(library, tmp_path, eval_dataset=rows, eval_strategy="steps", eval_steps=3)
    trainer.train()
    assert len(logged(trainer, "eval_loss")) == len(logged(trainer, "eval_loss/web")) == 2
    by_domain = [logged(trainer, f"eval_loss/{name}")[-1] for name in dataset.domain_names]
    assert sum(by_domain) / 3 == pytest.approx(logged(trainer, "eval_loss")[-1], rel=1e-2)


@pytest.mark.parametrize(
    "given", [{"packing": True}, {"padding_free": True, "max_length": None}, {"completion_only_loss": True}]
)
def test_what_trl_would_do_with_a_dataset_is_refused(library, tmp_path, given):
    with pytest.raises(ConfigError, match=f"{next(iter(given))}=True"):
        sft(library, tmp_path, **given)
    with pytest.raises(ValueError, match="not conversational"):  # by TRL
        sft(library, tmp_path, assistant_only_loss=True)
