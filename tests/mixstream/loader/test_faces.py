"""Loader, a plain DataLoader over StreamingDataset, and StreamingDataLoader give the same global batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import FIRST, SIZES, joined, make_dataset, row_ids, streams
from torch.utils.data import DataLoader

import mixstream as ms

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores: so be it
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),  # threads of torch's and pytest's
]

WEIGHTED = {"streams": {"web": {"proportion": 0.5}, "code": {"proportion": 0.3}, "law": {"proportion": 0.2}}}
SCHEDULE = ms.mixers.Schedule({0: {"web": 0.7, "code": 0.2, "law": 0.1}, 30: {"web": 0.1, "code": 0.5, "law": 0.4}})


def dataset(root: Path, config: Any = "natural", **kw: Any) -> ms.StreamingDataset:
    options: dict[str, Any] = {
        "natural": {},
        "weighted": {"streams": streams(root, **WEIGHTED["streams"]), "epoch_size": 100},
        "schedule": {"mixer": SCHEDULE},
        "in order": {"shuffle": False},
        "lanes": {"num_canonical_nodes": 4, "drop_last": True},
    }[config]
    return make_dataset(root, **{**options, **kw})


def epochs(loader: Iterable[Any], count: int) -> list[list[list[int]]]:
    return [[row_ids(batch) for batch in loader] for _ in range(count)]


_known: dict[tuple[str, int], list[list[list[int]]]] = {}


def expected(root: Path, config: str, count: int) -> list[list[list[int]]]:
    """Return what Loader gives."""
    if (config, count) not in _known:
        with ms.Loader(dataset(root, config)) as loader:
            _known[config, count] = epochs(loader, count)
    return _known[config, count]


CONFIGS = ["natural", "weighted", "schedule", "in order", "lanes"]


@pytest.mark.parametrize("config", CONFIGS)
def test_epochs_of_the_loader_differ_where_they_are_shuffled(library, config):
    first, second, third = expected(library, config, 3)
    assert len(first) == len(second) == len(third) > 10
    if config == "in order":
        assert first == second == third
    else:
        assert first != second != third


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_prefetch_changes_nothing(library, config, prefetch):
    with ms.Loader(dataset(library, config), prefetch=prefetch) as loader:
        assert epochs(loader, 3) == expected(library, config, 3)


@pytest.mark.parametrize("config", CONFIGS)
def test_plain_dataloader_without_workers(library, config):
    assert epochs(DataLoader(dataset(library, config), batch_size=8), 3) == expected(library, config, 3)


@pytest.mark.parametrize("config", CONFIGS)
def test_streaming_dataloader_without_workers(library, config):
    assert epochs(ms.StreamingDataLoader(dataset(library, config), batch_size=8), 3) == expected(library, config, 3)


@pytest.mark.parametrize(("config", "workers"), [("natural", 3), ("weighted", 1), ("schedule", 3), ("lanes", 2)])
def test_plain_dataloader_with_forked_workers(library, config, workers):
    loader = DataLoader(
        dataset(library, config), batch_size=8, num_workers=workers, multiprocessing_context="fork", timeout=60
    )
    assert epochs(loader, 3) == expected(library, config, 3)


@pytest.mark.parametrize(
    ("config", "workers", "persistent"),
    [("natural", 2, True), ("schedule", 2, True), ("in order", 3, False), ("weighted", 3, True)],
)
def test_streaming_dataloader_with_forked_workers(library, config, workers, persistent):
    loader = ms.StreamingDataLoader(
        dataset(library, config),
        batch_size=8,
        num_workers=workers,
        multiprocessing_context="fork",
        persistent_workers=persistent,
        timeout=60,
    )
    assert epochs(loader, 3) == expected(library, config, 3)


def test_persistent_workers_of_a_plain_dataloader(library):
    loader = DataLoader(
        dataset(library), batch_size=8, num_workers=2, multiprocessing_context="fork", persistent_workers=True
    )
    assert epochs(loader, 3) == expected(library, "natural", 3)


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_that_are_not_forked(library, context):
    face = DataLoader if context == "spawn" else ms.StreamingDataLoader
    loader = face(
        dataset(library, "schedule"),
        batch_size=8,
        num_workers=2 if context == "spawn" else 1,
        multiprocessing_context=context,
        persistent_workers=True,
        timeout=120,
    )
    assert epochs(loader, 2) == expected(library, "schedule", 3)[:2]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_begins_anew_whatever_torch_is_seeded_with(library, workers):
    """Evaluation loops and notebooks seed before each loop; that must not make two epochs one."""
    loader = DataLoader(
        dataset(library), batch_size=8, num_workers=workers, multiprocessing_context="fork" if workers else None
    )
    got = []
    for _ in range(3):
        torch.manual_seed(0)
        got += epochs(loader, 1)
    assert got == expected(library, "natural", 3)


@pytest.mark.parametrize("config", ["natural", "schedule"])
def test_epochs_are_counted_on_whoever_iterates(library, config):
    """The main process, workers of one loader, then of another; epochs that were given up count too."""
    epoch = expected(library, config, 3)
    data = dataset(library, config)

    def face(workers: int, **kw: Any) -> DataLoader[Any]:
        context = "fork" if workers else None
        return DataLoader(data, batch_size=8, num_workers=workers, multiprocessing_context=context, **kw)

    assert epochs(face(2), 1) == epoch[:1]
    assert row_ids(next(iter(face(0)))) == epoch[1][0]
    assert epochs(face(1), 1) == epoch[2:]
    data = dataset(library, config)
    persistent = face(2, persistent_workers=True)
    assert row_ids(next(iter(persistent))) == epoch[0][0]
    it = iter(persistent)
    assert [row_ids(next(it)) for _ in range(3)] == epoch[1][:3]
    assert epochs(persistent, 1) == epoch[2:]


def test_a_state_cannot_reach_persistent_workers_of_a_plain_dataloader_and_says_so(library):
    data = dataset(library)
    state = data.state_dict(0)
    loader = DataLoader(
        data, batch_size=8, num_workers=1, multiprocessing_context="fork", persistent_workers=True, timeout=60
    )
    epochs(loader, 1)
    data.load_state_dict(state)
    with pytest.raises(ms.errors.ConfigError, match=r"StreamingDataLoader, or create the DataLoader again"):
        epochs(loader, 1)
    assert epochs(DataLoader(data, batch_size=8), 1) == expected(library, "natural", 3)[:1]


def test_ranks_read_their_part_of_the_same_global_batches(library):
    whole = expected(library, "natural", 3)[0]
    for world in (2, 8):
        kw = [{"batch_size": 8 // world, "rank": rank, "world_size": world} for rank in range(world)]
        faces = [
            [ms.Loader(dataset(library, **k)) for k in kw],
            [DataLoader(dataset(library, **k), batch_size=8 // world) for k in kw],
            [ms.StreamingDataLoader(dataset(library, **k), batch_size=8 // world) for k in kw],
        ]
        for ranks in faces:
            assert [joined(map(row_ids, parts)) for parts in zip(*ranks)] == whole
        for loader in faces[0]:
            loader.close()


def test_replicas_see_the_same_rows(library):
    whole = expected(library, "natural", 3)[0]
    kw = [{"batch_size": 4, "rank": rank, "world_size": 4, "replication": 2} for rank in range(4)]
    parts = [[row_ids(batch) for batch in DataLoader(dataset(library, **k), batch_size=4)] for k in kw]
    assert parts[0] == parts[1]
    assert parts[2] == parts[3]
    assert [a + b for a, b in zip(parts[0], parts[2])] == whole


def test_without_shuffle_and_weights_samples_come_as_stored_over_ranks_and_workers(library):
    """Domain after domain, in the order of the list, shard after shard."""
    stored = [FIRST[name] + i for name in ("web", "code", "law") for i in range(SIZES[name])]
    with ms.Loader(dataset(library, "in order")) as loader:
        for got in epochs(loader, 2):
            rows = joined(got)
            assert rows[: len(stored)] == stored
            assert rows[len(stored) :] == stored[: len(rows) - len(stored)]
    other = ["law", "web", "code"]
    kw = {"names": other, "batch_size": 4, "world_size": 2}
    ranks = [
        DataLoader(
            dataset(library, "in order", rank=rank, **kw),
            batch_size=4,
            num_workers=rank,
            multiprocessing_context="fork" if rank else None,
        )
        for rank in range(2)
    ]
    rows = joined(row_ids(part) for parts in zip(*ranks) for part in parts)
    assert rows[: len(stored)] == [FIRST[name] + i for name in other for i in range(SIZES[name])]


# --- what users override ----------------------------------------------------------------------------------------------


def test_a_collate_fn_may_return_anything(library):
    with ms.Loader(dataset(library), collate_fn=lambda rows: [int(row["tokens"][0]) for row in rows]) as loader:
        assert list(loader) == expected(library, "natural", 3)[0]


class Doubled(ms.StreamingDataset):
    def __getitem__(self, at: Any) -> Any:
        sample = super().__getitem__(at)
        return {"tokens": sample["tokens"].astype(np.int64) * 2}


class Labelled(ms.StreamingDataset):
    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        return {**super().get_item(sample_id), "number": sample_id}


@pytest.mark.parametrize("workers", [0, 2])
def test_overrides_are_honoured_by_every_face(library, workers):
    context = "fork" if workers else None
    for cls in (Doubled, Labelled):

        def make(cls: type[ms.StreamingDataset] = cls) -> ms.StreamingDataset:
            return cls(streams=streams(library), batch_size=8, shuffle=True)

        with ms.Loader(make()) as loader:
            faces = [[dict(batch, domain=None) for batch in loader]]
        for face in (DataLoader, ms.StreamingDataLoader):
            loader = face(make(), batch_size=8, num_workers=workers, multiprocessing_context=context)
            faces.append([dict(batch, domain=None) for batch in loader])
        whole = expected(library, "natural", 3)[0]
        for batches in faces:
            ids = [batch["tokens"][:, 0].tolist() for batch in batches]
            assert ids == ([[2 * number for number in rows] for rows in whole] if cls is Doubled else whole)
            if cls is Labelled:
                offset = {1: 0, 2: SIZES["web"], 3: SIZES["web"] + SIZES["code"]}
                assert all(
                    number == offset[row // 1000] + row % 1000
                    for batch in batches
                    for number, row in zip(batch["number"].tolist(), batch["tokens"][:, 0].tolist())
                )


@pytest.mark.parametrize("face", [ms.Loader, ms.StreamingDataLoader])
def test_batches_carry_step_and_domains(library, face):
    kw = {"batch_size": 8} if face is ms.StreamingDataLoader else {}
    loader: Any = face(dataset(library, names=["law", "web", "code"]), **kw)
    order = {3: 0, 1: 1, 2: 2}
    repeats = 0
    for epoch in range(2):
        for step, batch in enumerate(loader, start=epoch * 28):
            assert batch.step == step
            assert batch.domain.tolist() == [order[number // 1000] for number in row_ids(batch)]
            repeats += batch.repeats
    assert repeats == 2 * (-219 % 8)
    if face is ms.Loader:
        loader.close()
