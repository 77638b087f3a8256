"""Loader, a plain DataLoader over StreamingDataset, and StreamingDataLoader give the same global batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import FIRST, SIZES, joined, make_dataset, row_ids, streams, write_tokens
from torch.utils.data import DataLoader

import mixstream as ms

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores: so be it
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),  # threads of torch's and pytest's
]

WEIGHTED = {"streams": {"web": {"proportion": 0.5}, "code": {"proportion": 0.3}, "law": {"proportion": 0.2}}}
SCHEDULE = ms.mixers.Schedule({0: {"web": 0.7, "code": 0.2, "law": 0.1}, 30: {"web": 0.1, "code": 0.5, "law": 0.4}})


def dataset(root: Path, config: str = "natural", **kw: Any) -> ms.StreamingDataset:
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


# --- columns ----------------------------------------------------------------------------------------------------------

TEXTS = ["", "a", "héllo", "x" * 50]
SCALARS = ["int", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "float16", "float32", "float64"]


def same(one: Any, other: Any) -> bool:
    """Tell whether two batches, or parts of them, are equal in values and types."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def all_faces(make: Any, **kw: Any) -> list[list[Any]]:
    """Return the batches of one epoch by Loader, plain DataLoader and StreamingDataLoader."""
    with ms.Loader(make(), **kw) as loader:
        batches = [dict(batch, domain=None) for batch in loader]
    others = [DataLoader(make(), batch_size=4, **kw), ms.StreamingDataLoader(make(), batch_size=4, **kw)]
    return [batches, *([dict(batch, domain=None) for batch in face] for face in others)]


def write(out: Path, columns: dict[str, str], samples: Iterable[dict[str, Any]]) -> Path:
    with ms.MDSWriter(columns=columns, out=str(out), size_limit=2000) as writer:
        for sample in samples:
            writer.write(sample)
    return out


@pytest.mark.parametrize("encoding", SCALARS)
def test_scalars_have_the_same_type_in_every_face(tmp_path, encoding):
    kind = int if encoding == "int" else getattr(np, encoding)
    write(tmp_path / "d", {"x": encoding}, ({"x": kind(i)} for i in range(12)))
    faces = all_faces(lambda: ms.StreamingDataset(remote=str(tmp_path / "d"), batch_size=4, shuffle=True))
    loader, plain, streaming = faces
    assert [same(a, b) for a, b in zip(loader, streaming)] == [True] * 3
    assert sorted(int(x) for batch in loader for x in batch["x"]) == list(range(12))
    if encoding not in ("uint16", "uint32"):  # those two are widened by our faces alone
        assert [same(a, b) for a, b in zip(loader, plain)] == [True] * 3


@pytest.mark.parametrize("encoding", ["uint8", "int8", "uint16", "uint32", "int32", "int64", "float16", "float32"])
@pytest.mark.parametrize("form", ["ndarray:{}:2,3", "ndarray:{}", "ndarray"])
def test_arrays_have_the_same_type_in_every_face(tmp_path, encoding, form):
    arrays = [np.arange(6).reshape(2, 3).astype(encoding) + np.dtype(encoding).type(i) for i in range(12)]
    write(tmp_path / "d", {"x": form.format(encoding)}, ({"x": array} for array in arrays))
    make = lambda: ms.StreamingDataset(remote=str(tmp_path / "d"), batch_size=4)  # noqa: E731
    loader, plain, streaming = all_faces(make)
    assert [same(a, b) for a, b in zip(loader, streaming)] == [True] * 3
    assert np.array_equal(torch.cat([batch["x"] for batch in loader]).numpy(), np.stack(arrays))
    assert np.array_equal(torch.cat([batch["x"].double() for batch in plain]).numpy(), np.stack(arrays))
    assert loader[0]["x"].dtype == (torch.int64 if encoding in ("uint16", "uint32") else plain[0]["x"].dtype)
    with ms.Loader(make(), widen=False) as unwidened:
        assert all(same(a["x"], b["x"]) for a, b in zip(unwidened, plain))


def test_several_columns_beside_each_other(tmp_path):
    columns = {"tokens": "ndarray:uint16:4", "labels": "ndarray:int32:4", "weight": "float32", "n": "int"}
    samples = [
        {"tokens": np.full(4, i, "u2"), "labels": np.full(4, -i, "i4"), "weight": np.float32(i / 2), "n": i}
        for i in range(20)
    ]
    write(tmp_path / "d", columns, samples)
    loader, plain, streaming = all_faces(lambda: ms.StreamingDataset(remote=str(tmp_path / "d"), batch_size=4))
    assert all(same(a, b) for a, b in zip(loader, streaming))
    batch = loader[1]
    assert batch["n"].tolist() == [4, 5, 6, 7]
    assert batch["labels"].tolist() == [[-i] * 4 for i in range(4, 8)]
    assert batch["weight"].tolist() == [2.0, 2.5, 3.0, 3.5]
    assert all(same({**a, "tokens": None}, {**b, "tokens": None}) for a, b in zip(loader, plain))


def test_text_json_and_numbers_collate_as_torch_does(tmp_path):
    columns = {"text": "str", "meta": "json", "n": "int", "raw": "bytes", "x": "float64"}
    samples = [
        {"text": TEXTS[i % 4], "meta": {"lang": "en", "ids": [i, 2 * i]}, "n": i, "raw": bytes([i]), "x": i / 3}
        for i in range(12)
    ]
    write(tmp_path / "d", columns, samples)
    faces = all_faces(lambda: ms.StreamingDataset(remote=str(tmp_path / "d"), batch_size=4, shuffle=True))
    for other in faces[1:]:
        assert all(same(a, b) for a, b in zip(faces[0], other))
    batch = faces[0][0]
    assert [TEXTS[i % 4] for i in batch["n"].tolist()] == batch["text"]
    assert batch["meta"]["lang"] == ["en"] * 4
    assert torch.equal(batch["meta"]["ids"][1], 2 * batch["n"])


def test_images_need_a_collate_fn_where_torch_does(tmp_path):
    image = pytest.importorskip("PIL.Image")
    samples = [{"picture": image.new("RGB", (6, 4), (20 * i, 0, 0)), "n": i} for i in range(12)]
    write(tmp_path / "d", {"picture": "jpeg", "n": "int"}, samples)

    def make() -> ms.StreamingDataset:
        return ms.StreamingDataset(remote=str(tmp_path / "d"), batch_size=4)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = [torch.from_numpy(np.asarray(row["picture"]).copy()) for row in rows]
        return {"picture": torch.stack(pixels), "n": torch.tensor([row["n"] for row in rows])}

    faces = all_faces(make, collate_fn=collate)
    for other in faces[1:]:
        assert all(same(a, b) for a, b in zip(faces[0], other))
    assert faces[0][0]["picture"].shape == (4, 4, 6, 3)
    with ms.Loader(make()) as loader, pytest.raises(TypeError, match="default_collate"):
        next(iter(loader))


def test_a_collate_fn_may_return_anything(library):
    with ms.Loader(dataset(library), collate_fn=lambda rows: [int(row["tokens"][0]) for row in rows]) as loader:
        assert list(loader) == expected(library, "natural", 3)[0]


def test_uint16_and_uint32_domains_mix(tmp_path):
    write_tokens(tmp_path / "small", range(1, 40), encoding="uint16")
    write_tokens(tmp_path / "large", range(70_000, 70_020), encoding="uint32")
    make = lambda **kw: make_dataset(tmp_path, ["small", "large"], **kw)  # noqa: E731
    with ms.Loader(make()) as loader:
        got = list(loader)
    assert {batch["tokens"].dtype for batch in got} == {torch.int64}
    rows = joined(map(row_ids, got))
    assert set(rows) == {*range(1, 40), *range(70_000, 70_020)}
    assert [row_ids(batch) for batch in ms.StreamingDataLoader(make(), batch_size=8)] == list(map(row_ids, got))
    with ms.Loader(make(), widen=False) as loader:
        assert {batch["tokens"].dtype for batch in loader} == {torch.uint32}


def test_rows_of_unequal_shapes_are_torch_s_to_refuse_or_the_collate_fn_s_to_join(tmp_path):
    write(tmp_path / "d", {"x": "ndarray:int32"}, ({"x": np.arange(4 if i < 8 else i, dtype="i4")} for i in range(16)))

    def make() -> ms.StreamingDataset:
        return ms.StreamingDataset(remote=str(tmp_path / "d"), batch_size=4)

    with ms.Loader(make()) as loader:
        it = iter(loader)
        assert [next(it)["x"].tolist() for _ in range(2)] == [[[0, 1, 2, 3]] * 4] * 2  # equal shapes: gathered
        with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
            next(it)

    def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"x": torch.nn.utils.rnn.pad_sequence([torch.from_numpy(r["x"].copy()) for r in rows], batch_first=True)}

    faces = all_faces(make, collate_fn=pad)
    for other in faces[1:]:
        assert all(same(a, b) for a, b in zip(faces[0], other))
    assert faces[0][3]["x"].shape == (4, 15)


def test_shapes_may_differ_between_batches(tmp_path):
    """What was learned about the shape of one batch must not refuse the next, nor mix up its rows."""
    shapes = [(2, 3)] * 4 + [(3, 2)] * 4 + [(6,)] * 4 + [(2, 3)] * 4
    arrays = [np.full(shape, i, "i8") for i, shape in enumerate(shapes)]
    write(tmp_path / "d", {"x": "ndarray:int64"}, ({"x": array} for array in arrays))
    loader, plain, streaming = all_faces(lambda: ms.StreamingDataset(remote=str(tmp_path / "d"), batch_size=4))
    assert [tuple(batch["x"].shape) for batch in loader] == [(4, 2, 3), (4, 3, 2), (4, 6), (4, 2, 3)]
    for other in (plain, streaming):
        assert all(same(a, b) for a, b in zip(loader, other))


# --- what users override ----------------------------------------------------------------------------------------------


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
    loader = face(dataset(library, names=["law", "web", "code"]), **kw)
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
