"""Libraries that divide a dataset's rows among ranks once more: they pass our loaders through, or are refused."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import Tilt, joined, loaders_of, make_dataset, row_ids
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import mixstream as ms
from mixstream.data.collate import collate_samples
from mixstream.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]


@pytest.fixture(scope="module")
def ranks(library, tmp_path_factory, warm_programs) -> list[dict[str, Any]]:
    """What two real ranks got under accelerate and the Trainer, each case by name."""
    pytest.importorskip("accelerate")
    root = Path(shutil.copytree(library, tmp_path_factory.mktemp("ranks") / "library"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [warm_programs / "python", str(Path(__file__).with_name("trainer_ranks.py"))]
    children = [
        subprocess.Popen([*command, str(rank), port, str(root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=200)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], outputs[0].decode() + outputs[1].decode()
    return [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def expected(library) -> list[list[list[int]]]:
    """The rows that each of two ranks reads, by epoch."""
    with loaders_of(library, world=2, batch=16) as loaders:
        return [[joined(map(row_ids, loader)) for loader in loaders] for _ in range(2)]


def test_a_second_division_is_refused_on_every_rank_with_and_without_workers(ranks):
    for rank, found in enumerate(ranks):
        for case in [case for case in found if case.startswith("plain")] + ["rewrapped", "Trainer train"]:
            kind, text = found[case]
            assert kind == "ConfigError", (case, text)
            assert f"here: rank {rank}" in text
            assert "mixstream.StreamingDataLoader(dataset, ...) or mixstream.Loader(dataset)" in text
            assert "get_train_dataloader() or get_eval_dataloader()" in text
        assert found["Trainer evaluate"][0] == "ConfigError"


def test_prepare_passes_our_loaders_through(ranks, expected):
    for rank, found in enumerate(ranks):
        assert found["same"]
        assert found["streaming"] == found["loader"] == expected[0][rank]
        assert found["kept"] == [expected[0][rank][24:]] * 2
        assert sorted(found["gathered"]) == sorted(joined(expected[1]))


def test_a_dataset_that_is_not_divided_is_divided_by_accelerate(library, ranks):
    with ms.Loader(make_dataset(library)) as loader:
        rows = sorted(joined(map(row_ids, loader)))
    for dispatch in (True, False, None):
        assert sorted(ranks[0][f"alone {dispatch}"] + ranks[1][f"alone {dispatch}"]) == rows


def test_skipping_batches_beside_a_loader_is_refused(ranks):
    for found in ranks:
        assert found["skipped"][0] == "ConfigError"
        assert "loader.load_state_dict(state)" in found["skipped"][1]
        assert "ignore_data_skip=True" in found["skipped"][1]


def test_the_trainer_takes_our_loaders_from_its_hooks(ranks, expected):
    for rank, found in enumerate(ranks):
        assert found["Ours train"] == expected[0][rank][:24]
        assert found["Ours evaluate"] == expected[0][rank]


def test_mix_trainer_on_two_ranks_reads_what_one_reads(library, ranks):
    """Rows of a step are those of a loop on one rank, in their order; so are losses, weights and the state."""
    from hf_world import plain_run

    plain = plain_run(library, 12, batch_size=16, mixer=Tilt(), lag=4, drop_last=False)
    first, second = ranks
    assert [a + b for a, b in zip(first["mixed rows"], second["mixed rows"])] == plain["rows"]
    log = [entry for entry in first["mixed log"] if "loss" in entry]
    assert [entry["loss"] for entry in log] == pytest.approx(plain["loss"][:6], rel=1e-4)
    assert first["mixed state"] == second["mixed state"]
    ours, theirs = first["mixed state"]["mixing"]["state"], plain["state"]["mixing"]["state"]
    assert ours["logits"] == pytest.approx(theirs["logits"], rel=1e-3)
    assert first["mixed alone"][0] == "ConfigError"
    assert second["mixed alone"][0] == "ConfigError"
    assert "39 validation rows are not divided by 2 ranks" in first["mixed metrics"][1]


def test_mix_trainer_logs_losses_of_all_ranks(library, ranks):
    from hf_world import plain_run, token_losses

    first, second = (found["mixed log"] for found in ranks)
    for ours, theirs in zip(first, second):
        assert {k: v for k, v in ours.items() if "loss/" in k} == {k: v for k, v in theirs.items() if "loss/" in k}
        if "loss" in ours:
            assert min(v for k, v in ours.items() if k[:5] == "loss/") <= ours["loss"]
            assert ours["loss"] <= max(v for k, v in ours.items() if k[:5] == "loss/")
    dataset = make_dataset(library)
    streams = [ms.Stream(name=name, remote=str(library / name)) for name in dataset.domain_names]
    rows = ms.ValidationSet.open(dataset, streams=streams, rows=13)
    model = plain_run(library, 6, batch_size=16, mixer=Tilt(), lag=4, drop_last=False)["model"]
    sums = ms.evaluate(lambda batch: token_losses(model, batch["tokens"]), rows, model=model)
    for name, total, count in zip(dataset.domain_names, *sums):
        assert first[-1][f"eval_loss/{name}"] == pytest.approx(total / count, rel=1e-4)


# --- in one process ---------------------------------------------------------------------------------------------------


def wrapped(dataset: Any) -> Any:
    shard = pytest.importorskip("transformers.trainer_pt_utils").IterableDatasetShard
    return shard(dataset, batch_size=8, num_processes=2, process_index=0)


@pytest.mark.parametrize("start", [None, "fork", "spawn"])
def test_transformers_shards_are_refused(library, start, warm_spawn):
    dataset = make_dataset(library, rank=0, world_size=2)
    options = {"num_workers": 1, "multiprocessing_context": start, "timeout": 60} if start else {}
    loader = DataLoader(wrapped(dataset), batch_size=8, **options)
    with pytest.raises(ConfigError, match=r"gives each of 2 ranks its own rows .* would be divided twice"):
        next(iter(loader))


def test_transformers_shards_divide_a_dataset_that_is_not(library):
    loader = DataLoader(wrapped(make_dataset(library, rank=0, world_size=1)), batch_size=8)
    assert len(list(loader)) == 14


class Around(IterableDataset[Any]):
    """A user's dataset around ours."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        yield from self.dataset


def test_a_wrapper_in_between_hides_no_division(library):
    with pytest.raises(ConfigError, match="divided twice"):
        next(iter(wrapped(Around(make_dataset(library, rank=1, world_size=2)))))


def test_only_loaders_over_our_datasets_are_marked_as_prepared(library):
    marked = ms.StreamingDataLoader(make_dataset(library), batch_size=8)
    assert marked._is_accelerate_prepared
    marked._is_accelerate_prepared = True  # as accelerate does
    other: Any = TensorDataset()
    assert not ms.StreamingDataLoader(other, batch_size=2)._is_accelerate_prepared
    alone = make_dataset(library, rank=0, world_size=1)
    assert ms.StreamingDataLoader(alone, batch_size=8)._is_accelerate_prepared


def test_a_loader_whose_dataset_is_not_divided_is_not_marked(library, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ms.StreamingDataLoader(make_dataset(library, batch_size=4), batch_size=4)._is_accelerate_prepared
    alone = make_dataset(library, rank=0, world_size=1)
    assert not ms.StreamingDataLoader(alone, batch_size=8)._is_accelerate_prepared


@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_moves_a_dataset_forward_only(library, workers):
    """Accelerate and the Trainer call it before each epoch, and the Trainer with the epoch in which it resumes."""
    with loaders_of(library) as (loader,):
        epochs = [joined(map(row_ids, loader)) for _ in range(5)]
    dataset = make_dataset(library)
    options = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(dataset, batch_size=8, **options)
    for asked, begun in ((0, 0), (0, 1), (3, 3), (1, 4)):
        dataset.set_epoch(asked)
        assert dataset.next_epoch == begun
        assert joined(map(row_ids, loader)) == epochs[begun]


@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_of_a_streaming_dataloader_is_that_of_loader(library, workers):
    with loaders_of(library) as (loader,):
        epochs = [joined(map(row_ids, loader)) for _ in range(3)]
    options = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
    loader = ms.StreamingDataLoader(make_dataset(library), batch_size=8, persistent_workers=workers > 0, **options)
    for epoch in (0, 2, 1, 1):
        loader.set_epoch(epoch)
        assert joined(map(row_ids, loader)) == epochs[epoch]
    with ms.Loader(make_dataset(library)) as other:
        next(iter(other))
        loader.load_state_dict(other.state_dict())
    loader.set_epoch(0)  # where it is
    assert joined(map(row_ids, loader)) == epochs[0][8:]


@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_with_a_stateful_dataloader_resumes_exactly(library, workers):
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("torchdata")
    with loaders_of(library) as (loader,):
        epochs = [[row_ids(batch) for batch in loader] for _ in range(3)]
    accelerator = accelerate.Accelerator(
        cpu=True, dataloader_config=accelerate.DataLoaderConfiguration(use_stateful_dataloader=True)
    )

    def prepared() -> Any:
        options = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
        loader = DataLoader(make_dataset(library), batch_size=8, collate_fn=collate_samples, **options)
        return accelerator.prepare(loader)

    for taken in (1, 5, 27):
        first = prepared()
        assert [row_ids(batch) for batch in first] == epochs[0]
        state: Any = None
        for at, batch in enumerate(first, 1):
            assert row_ids(batch) == epochs[1][at - 1]
            if at == taken:
                state = first.state_dict()
                break
        later = prepared()
        later.load_state_dict(state)
        assert [row_ids(batch) for batch in later] == epochs[1][taken:]
        assert [row_ids(batch) for batch in later] == epochs[2]


def stateful_by_accelerate(library: Any, workers: int) -> Any:
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("torchdata")
    options = accelerate.DataLoaderConfiguration(use_stateful_dataloader=True)
    start = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(make_dataset(library), batch_size=8, collate_fn=collate_samples, **start)
    return accelerate.Accelerator(cpu=True, dataloader_config=options).prepare(loader)


def test_workers_that_accelerate_started_early_are_not_left_at_another_epoch(library):
    skip_first_batches = pytest.importorskip("accelerate").skip_first_batches
    with pytest.raises(ConfigError, match=r"would skip 5 batches of epoch 1, and means epoch 0"):
        next(iter(skip_first_batches(stateful_by_accelerate(library, 2), 5)))
    with pytest.raises(ConfigError, match=r"began epoch 0 when accelerate prepared it, and set_epoch\(1\)"):
        stateful_by_accelerate(library, 2).set_epoch(1)
    with loaders_of(library) as (loader,):
        epochs = [joined(map(row_ids, loader)) for _ in range(2)]
    prepared = stateful_by_accelerate(library, 2)
    prepared.set_epoch(0)
    assert [joined(map(row_ids, prepared)) for _ in range(2)] == epochs
    alone = stateful_by_accelerate(library, 0)
    alone.set_epoch(1)
    assert joined(map(row_ids, alone)) == epochs[1]


def test_skipping_in_an_epoch_that_was_begun_and_abandoned_is_refused(library):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    dataset = make_dataset(library)
    prepared = accelerator.prepare(DataLoader(dataset, batch_size=8, collate_fn=collate_samples))
    with loaders_of(library) as (loader,):
        epochs = [joined(map(row_ids, loader)) for _ in range(2)]
    assert joined(map(row_ids, accelerate.skip_first_batches(prepared, 3))) == epochs[0][24:]
    again = accelerator.prepare(DataLoader(make_dataset(library), batch_size=8, collate_fn=collate_samples))
    next(iter(again))
    with pytest.raises(ConfigError, match=r"would skip 3 batches of epoch 1, and means epoch 0"):
        next(iter(accelerate.skip_first_batches(again, 3)))


def test_a_sharding_filter_of_torch_is_refused_where_it_divides(library):
    wrapper = pytest.importorskip("torch.utils.data.datapipes.iter").IterableWrapper
    shards = wrapper(make_dataset(library), deepcopy=False).sharding_filter()
    assert len(list(DataLoader(shards, batch_size=None))) == 224
    loader = DataLoader(shards, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    with pytest.raises(ConfigError, match=r"sharding_filter\(\) keeps one in 2 samples .*Leave out sharding_filter"):
        next(iter(loader))
