"""`megatron.ExternalBatches`, called as Megatron-LM's training loop and its checkpoints call an external loader."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import WIDTH, Tilt, losses, make_dataset
from torch import distributed

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.integrations.megatron import ExternalBatches

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")
GLOBAL = 24


class RerunDataIterator:
    """What Megatron puts around the object that a provider returns: it keeps the micro-batches of an iteration."""

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable
        self.saved_microbatches: list[Any] = []

    def __next__(self) -> Any:
        self.saved_microbatches.append(next(self.iterable))
        return self.saved_microbatches[-1]


def save_dataloader_state(train_iterator: Any, directory: Path, *, iteration: int, dp_rank: int) -> Path:
    """As `maybe_save_dataloader_state` of Megatron-LM does on the first stage of a data-parallel rank."""
    state = train_iterator.iterable.save_state()
    place = directory / f"iter_{iteration:07d}" / "mp_rank_00"
    place.mkdir(parents=True, exist_ok=True)
    torch.save({"dataloader_state_dict": state}, place / f"train_dataloader_dprank{dp_rank:03d}.pt")
    return place.parent


def external(root: Path, dp_size: int, dp_rank: int, micro: int = 2, **options: Any) -> ExternalBatches:
    dataset = make_dataset(
        root, batch_size=GLOBAL // dp_size, rank=dp_rank, world_size=dp_size, num_canonical_nodes=1, **options
    )
    return ExternalBatches(ms.Loader(dataset), micro_batch_size=micro)


def iteration(train_iterators: list[Any], micro: int) -> list[int]:
    """Take one iteration on every data-parallel rank; return the rows of the global batch."""
    rows = []
    for iterator in train_iterators:
        for _ in range(GLOBAL // len(train_iterators) // micro):
            batch = next(iterator)
            assert [tuple(value.shape) for value in batch.values()] == [(micro, WIDTH - 1)] * 4
            rows += batch["tokens"][:, 0].tolist()
        iterator.saved_microbatches.clear()
    return rows


def close(iterators: list[Any]) -> None:
    for iterator in iterators:
        iterator.iterable.loader.close()


def test_a_run_goes_on_with_other_data_parallel_sizes(library, tmp_path):
    with ms.Loader(make_dataset(library, batch_size=GLOBAL, num_canonical_nodes=1)) as loader:
        expected = [batch["tokens"][:, 0].tolist() for _ in range(3) for batch in loader]
    done, found = 0, []
    for dp_size, micro, until in ((2, 2, 7), (4, 3, 12), (1, 4, 20)):
        iterators = [RerunDataIterator(external(library, dp_size, dp_rank, micro)) for dp_rank in range(dp_size)]
        for iterator in iterators:
            if done:
                iterator.iterable.restore(tmp_path / f"iter_{done:07d}")
        found += [iteration(iterators, micro) for _ in range(done, until)]
        done = until
        for dp_rank, iterator in enumerate(iterators):
            save_dataloader_state(iterator, tmp_path, iteration=done, dp_rank=dp_rank)
        close(iterators)
    assert found == expected[:20]


def test_evaluations_between_iterations_move_nothing(library):
    """Megatron keeps the iterator of validation data, and reads on in it at the next evaluation."""
    train, valid = RerunDataIterator(external(library, 1, 0)), RerunDataIterator(external(library, 1, 0))
    with ms.Loader(make_dataset(library, batch_size=GLOBAL, num_canonical_nodes=1)) as loader:
        expected = [batch["tokens"][:, 0].tolist() for _, batch in zip(range(6), loader)]
    for number in range(6):
        assert iteration([train], 2) == expected[number]
        if number % 2:
            assert iteration([valid], 2) == expected[number // 2]
            assert train.iterable.save_state()["step"] == number + 1
    close([train, valid])


def test_the_columns_are_those_of_gpt(library):
    batches = external(library, 1, 0)
    batch = next(batches)
    tokens = batches.batch["tokens"]
    assert torch.equal(batch["tokens"], tokens[:, :-1])
    assert torch.equal(batch["labels"], tokens[:, 1:])
    assert batch["loss_mask"].dtype == torch.float32
    assert batch["loss_mask"].all()
    assert batch["position_ids"][0].tolist() == list(range(WIDTH - 1))
    assert all(value.is_contiguous() for value in batch.values())
    batches.loader.close()


def test_the_mask_of_the_rows_is_that_of_their_labels(tmp_path):
    with ms.MDSWriter(out=tmp_path, columns={"tokens": "ndarray:uint16:4", "loss_mask": "ndarray:uint8:4"}) as writer:
        for _ in range(4):
            mask = np.array([1, 0, 1, 0], np.uint8)
            writer.write({"tokens": np.arange(4, dtype=np.uint16), "loss_mask": mask})
    loader = ms.Loader(ms.StreamingDataset(local=tmp_path, batch_size=4))
    batch = next(ExternalBatches(loader, micro_batch_size=2))
    assert batch["loss_mask"].tolist() == [[0.0, 1.0, 0.0]] * 2
    assert batch["loss_mask"].dtype == torch.float32
    loader.close()


def test_a_state_within_an_iteration_is_refused(library):
    batches = external(library, 2, 0)
    assert batches.save_state()["step"] == 0
    next(batches)
    with pytest.raises(StateError, match=r"step 0 is not finished \(5 of its 6 micro-batches were not read"):
        batches.save_state()
    batches.loader.close()


def test_micro_batches_have_to_divide_the_batch(library):
    with pytest.raises(ConfigError, match="batch_size=12 is no multiple of micro_batch_size=5"):
        external(library, 2, 0, micro=5)


def test_states_of_several_iterations_or_none_are_refused(library, tmp_path):
    batches = external(library, 1, 0)
    with pytest.raises(StateError, match=r"are of the steps \[\], and rows would be read again"):
        batches.restore(tmp_path)
    iterator = RerunDataIterator(batches)
    for at in (1, 2):
        iteration([iterator], 2)
        save_dataloader_state(iterator, tmp_path, iteration=at, dp_rank=0)
    with pytest.raises(StateError, match=r"are of the steps \[1, 2\]"):
        batches.restore(tmp_path)
    batches.restore(tmp_path / "iter_0000001")
    assert batches.save_state()["step"] == 1
    batches.loader.close()


def pipeline_rank(rank: int, root: Path, out: Path) -> None:
    """One rank of 2 pipeline stages x 2 data-parallel ranks: only the last stage has losses."""
    distributed.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=4)
    stage, dp_rank = divmod(rank, 2)
    groups = [distributed.new_group([dp, 2 + dp]) for dp in range(2)]
    batches = external(root, 2, dp_rank, micro=6, mixer=Tilt(), lag=4)
    rows = []
    for _ in range(10 * 2):
        rows.append(next(batches)["tokens"][:, 0].tolist())
        loss = torch.from_numpy(losses(rows[-1]))[:, None].expand(-1, WIDTH - 1) if stage == 1 else None
        batches.report(batches.batch, loss, groups=[groups[dp_rank]])
    state = batches.save_state()
    (out / f"{rank}.json").write_text(json.dumps([rows, state, batches.loader.weights]))
    batches.loader.close()
    distributed.destroy_process_group()


def test_losses_of_the_last_pipeline_stage_move_the_weights_of_all(library, tmp_path):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=pipeline_rank, args=(rank, library, tmp_path)) for rank in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 4
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    assert [found[0][0], found[1][0]] == [found[2][0], found[3][0]]  # both stages read the same rows
    assert all(state == found[0][1] for _, state, _ in found)
    dataset = make_dataset(library, batch_size=GLOBAL, mixer=Tilt(), lag=4, num_canonical_nodes=1)
    with ms.Loader(dataset) as loader:
        for batch in itertools.islice(itertools.chain(loader, loader), 10):
            ids = batch["tokens"][:, 0].tolist()
            assert sorted(ids) == sorted(
                itertools.chain(*(found[dp][0][2 * batch.step + part] for dp in range(2) for part in range(2)))
            )
            loader.report(batch, torch.from_numpy(losses(ids))[:, None].expand(-1, WIDTH - 1))
        loader.state_dict()
        assert loader.weights == found[0][2]
