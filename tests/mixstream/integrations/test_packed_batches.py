"""Batches in each trainer's names: what it expects, from the documents of each row alone, and losses that come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Tilt
from torch.nn import functional

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.integrations import packed_batches

EOS, SIZE, ROWS = 1, 20, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Rows of documents that token 1 ends; some rows end with padding."""
    generator = np.random.default_rng(5)
    rows = generator.integers(2, 90, (24, SIZE)).astype(np.uint16)
    rows[generator.random(rows.shape) < 0.15] = EOS
    rows[::3, -4:] = EOS
    out = tmp_path_factory.mktemp("packed") / "web"
    with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{SIZE}"}, out=str(out)) as writer:
        for row in rows:
            writer.write({"tokens": row})
    return out


def dataset_of(place: Path, **kw: Any) -> ms.StreamingDataset:
    streams = [ms.Stream(local=str(place), name="web", eos_id=EOS)]
    return ms.StreamingDataset(**{"streams": streams, "batch_size": ROWS, "shuffle": True, **kw})


def first(place: Path, labels: str | None = None, transforms: Any = ()) -> ms.Batch:
    with ms.Loader(dataset_of(place), documents=True, labels=labels, transforms=transforms) as loader:
        return next(iter(loader))


def documents(row: list[int]) -> list[tuple[list[int], bool]]:
    """The documents of a row, and whether each is padding."""
    tail = len(row)
    while tail and row[tail - 1] == EOS:
        tail -= 1
    padding = [] if len(row) - tail < 2 else row[tail + 1 :]
    parts: list[list[int]] = [[]]
    for token in row[: len(row) - len(padding)]:
        parts[-1].append(token)
        if token == EOS:
            parts.append([])
    found = [(part, False) for part in parts if part]
    return [*found, (padding, True)] if padding else found


def by_row(batch: ms.Batch, *, cut: int = 0) -> list[list[tuple[list[int], bool]]]:
    """As `documents`, for each row without its last `cut` tokens."""
    rows = []
    for row in batch["tokens"].tolist():
        left, found = len(row) - cut, []
        for part, padding in documents(row):
            if kept := part[: max(left, 0)]:
                found.append((kept, padding))
            left -= len(part)
        rows.append(found)
    return rows


def flat(rows: list[Any]) -> list[Any]:
    return [item for row in rows for item in row]


def facts(batch: ms.Batch, *, extra: bool = False) -> dict[str, Any]:
    """What the columns are to be, as lists of rows."""
    rows, ids = by_row(batch, cut=int(extra)), batch["tokens"].tolist()
    size = SIZE - extra
    whole = by_row(batch)
    unshifted = [flat([[-100, *part[1:]] if not pad else [-100] * len(part) for part, pad in row]) for row in whole]
    after = [[*row[1:], -100] for row in unshifted]
    return {
        "ids": [row[:size] for row in ids],
        "next": [[*row[1:], 0][:size] for row in ids],
        "labels": [row[:size] for row in unshifted],
        "next labels": [row[:size] for row in after],
        "positions": [flat([list(range(len(part))) for part, _ in row]) for row in rows],
        "numbers": [flat([[-1 if pad else n] * len(part) for n, (part, pad) in enumerate(row)]) for row in rows],
        "lengths": [[len(part) for part, _ in row] for row in rows],
    }


def lists(batch: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.tolist() if isinstance(value, torch.Tensor) else value

    return {str(name): plain(value) for name, value in dict.items(batch)}


@pytest.mark.parametrize("labels", ["unshifted", "shifted"])
def test_columns_of_models_that_shift_labels(place, labels):
    batch, same = first(place, labels), first(place)
    found = facts(same)
    ids, targets, positions = found["ids"], found["labels"], found["positions"]
    ends = [0, *np.cumsum(flat(found["lengths"])).tolist()]
    segments = flat([[n] * length for n, length in enumerate(flat(found["lengths"]))])
    longest = max(flat(found["lengths"]))
    one = {"input_ids": [flat(ids)], "labels": [flat(targets)], "position_ids": [flat(positions)]}
    rows = {"input_ids": ids, "labels": targets, "position_ids": positions}
    flash = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    assert lists(packed_batches.as_transformers(batch)) == {**one, **flash, "seq_idx": [segments]}
    assert lists(packed_batches.as_transformers(batch, joined=False)) == {**rows, **flash}
    assert lists(packed_batches.as_trl(batch)) == one
    assert lists(packed_batches.as_flex(batch)) == {**one, "document_id": segments}
    numbers = found["numbers"]
    above = [[n + 1 for n in row] for row in numbers]
    assert lists(packed_batches.as_axolotl(batch)) == {**rows, "attention_mask": above}
    real = [[int(n >= 0) for n in row] for row in numbers]
    expected = {"input_ids": ids, "labels": targets, "attention_mask": real, "sequence_id": numbers}
    assert lists(packed_batches.as_llm_foundry(batch)) == expected
    lengths = found["lengths"]
    olmo = lists(packed_batches.as_olmo_core(batch))
    assert olmo["label_mask"] == [[label != -100 for label in row] for row in targets]
    assert [[n for n in row if n] for row in olmo["doc_lens"]] == lengths
    assert all(sum(row) == SIZE for row in olmo["doc_lens"])
    assert olmo["max_doc_lens"] == [max(row) for row in lengths]


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("labels", ["unshifted", "shifted"])
def test_columns_of_trainers_that_take_the_next_tokens(place, labels, extra):
    batch = first(place, labels)
    found, size = facts(first(place), extra=extra), SIZE - extra
    ids, after, positions = found["ids"], found["next labels"], found["positions"]
    expected = {"input": flat(ids), "positions": flat(positions), "labels": flat(after)}
    assert lists(packed_batches.as_torchtitan(batch, extra_token=extra)) == expected
    mask = [[label != -100 for label in row] for row in after]
    nanotron = {"input_ids": ids, "position_ids": positions, "label_ids": found["next"], "label_mask": mask}
    assert lists(packed_batches.as_nanotron(batch, extra_token=extra)) == nanotron
    lengths = found["lengths"]
    tune = {"tokens": ids, "labels": after, "input_pos": positions, "seq_lens": lengths}
    assert lists(packed_batches.as_torchtune(batch, extra_token=extra)) == tune
    megatron = packed_batches.as_megatron(batch, extra_token=extra)
    assert megatron["loss_mask"].dtype == torch.float32
    ends = [[0, *np.cumsum(row).tolist()] for row in lengths]
    assert lists(megatron) == {
        "tokens": ids,
        "labels": found["next"],
        "position_ids": positions,
        "loss_mask": [[float(one) for one in row] for row in mask],
        "cu_seqlens": [row + [size] * (size + 1 - len(row)) for row in ends],
        "max_seqlen": max(flat(lengths)),
    }
    assert megatron["cu_seqlens"].dtype == torch.int32


def test_without_marked_documents_there_is_nothing_to_convert(place):
    with ms.Loader(dataset_of(place)) as loader:
        batch = next(iter(loader))
    for name in packed_batches.__all__:
        with pytest.raises(ConfigError, match=r"no documents that a loader has marked: give .*documents=True"):
            getattr(packed_batches, name)(batch)


@pytest.mark.parametrize("name", packed_batches.__all__)
def test_the_losses_of_what_is_converted_are_reported(place, tmp_path, name):
    """As a transform; 3 nats where a token is predicted, and 0 elsewhere as of cross_entropy, make a mean of 3."""
    convert: Callable[..., ms.Batch] = getattr(packed_batches, name)
    options: dict[str, Any] = {"documents": True, "transforms": [convert], "prefetch": 0, "log": tmp_path / "log"}
    with ms.Loader(dataset_of(place, mixer=Tilt(), lag=4), **options) as loader:
        for batch in loader:
            assert not batch.unknown
            targets = next(batch[key] for key in ("label_mask", "loss_mask", "labels") if key in batch)
            counted = targets != (-100 if "labels" in batch and targets is batch["labels"] else 0)
            if not batch.segments.shifted:  # the model shifts
                counted = counted[..., 1:]
            loader.report({**batch}, torch.where(counted, 3.0, 0.0))
            if batch.step == 2:
                break
    logged = [json.loads(line) for line in next((tmp_path / "log").rglob("*.jsonl")).read_text().splitlines()]
    found = [line["loss"] for line in logged if line.get("loss")]
    assert found
    assert all(value == 3.0 for entry in found for value in (entry.values() if isinstance(entry, dict) else entry))


# --- transformers -----------------------------------------------------------------------------------------------------


def test_rows_are_what_the_collator_of_transformers_makes_of_the_documents(place):
    collators = pytest.importorskip("transformers.data.data_collator")
    batch = first(place)
    parts = flat([[part for part, _ in row] for row in by_row(batch)])
    collate = collators.DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    theirs = collate([{"input_ids": part} for part in parts])
    ours = packed_batches.as_transformers(batch)
    padding = ~(batch["document_ids"].reshape(1, -1) >= 0)
    theirs["labels"][padding] = -100
    assert {*map(str, ours)} == {*theirs}
    for name, value in theirs.items():
        mine = ours[name]
        if isinstance(value, torch.Tensor):
            assert mine.dtype == value.dtype, name
            assert torch.equal(mine, value), name
        else:
            assert mine == value, name


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_document_has_the_loss_of_the_document_alone_in_a_llama(place, kind, joined):
    pytest.importorskip("transformers")
    from hf_world import tiny_llama

    batch = first(place)
    model = tiny_llama(attn_implementation=kind, use_cache=False).eval()
    inputs = {str(k): v for k, v in packed_batches.as_transformers(batch, joined=joined).items()}
    with torch.no_grad():
        logits = model(**inputs).logits.reshape(ROWS * SIZE, -1)
        ends = batch["cu_seqlens"].tolist()
        for begin, end in pairwise(ends):
            alone = model(batch["tokens"].reshape(1, -1)[:, begin:end]).logits[0]
            torch.testing.assert_close(logits[begin:end], alone, atol=1e-5, rtol=1e-4)


def test_the_trainer_learns_from_documents_alone(place, tmp_path):
    """`MixTrainer`: its loss and those by domain are the mean over the predicted tokens of documents on their own."""
    pytest.importorskip("accelerate")
    from hf_world import arguments, tiny_llama

    from mixstream.integrations import hf

    model = tiny_llama()
    loss = torch.zeros(0)
    with torch.no_grad():
        for row in by_row(first(place)):
            for part, padding in row:
                if len(part) > 1 and not padding:
                    alone = torch.tensor([part])
                    logits = model(alone).logits[0, :-1]
                    loss = torch.cat([loss, functional.cross_entropy(logits, alone[0, 1:], reduction="none")])
    data = ms.Loader(dataset_of(place, drop_last=True), documents=True)
    trainer = hf.MixTrainer(model, arguments(tmp_path, max_steps=1, per_device_train_batch_size=2), train_dataset=data)
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss/web"] == pytest.approx(loss.mean().item(), rel=1e-5)
    assert entry["loss"] == pytest.approx(loss.mean().item(), rel=1e-3)


def test_accelerate_does_not_cut_batches_with_segments(place):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    dataset = dataset_of(place)
    collate = ms.DocumentCollate(dataset)
    dealt = accelerate.data_loader.DataLoaderDispatcher(dataset, batch_size=ROWS, collate_fn=collate)
    with pytest.raises(ConfigError, match="DataLoaderDispatcher cuts each column of a batch by rows"):
        next(iter(dealt))
    loader = ms.StreamingDataLoader(dataset_of(place), documents=True)
    batch = next(iter(accelerator.prepare(loader)))
    assert batch["cu_seqlens"][-1] == ROWS * SIZE


def test_megatron_gets_the_documents_of_each_micro_batch(place):
    from mixstream.integrations.megatron import ExternalBatches

    whole = first(place)
    batches = ExternalBatches(ms.Loader(dataset_of(place), documents=True), micro_batch_size=2)
    found = [next(batches) for _ in range(2)]
    together = lists(packed_batches.as_megatron(whole, extra_token=True))
    for name in ("tokens", "labels", "position_ids", "loss_mask", "cu_seqlens"):
        assert [*found[0][name].tolist(), *found[1][name].tolist()] == together[name]
    assert "cu_seqlens" not in next(ExternalBatches(ms.Loader(dataset_of(place)), micro_batch_size=2))
