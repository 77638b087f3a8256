"""Rows that are read together and handed out one by one: nobody can tell, except by the clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import make_dataset, row_ids, write_tokens
from torch.utils.data import DataLoader, IterableDataset, default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

import mixstream as ms
from mixstream.data.domains import Domains
from mixstream.loader.document_collate import DocumentCollate

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are read one by one."""
    found, sample = [], Domains.sample
    monkeypatch.setattr(Domains, "sample", lambda self, shard, row: (found.append(row), sample(self, shard, row))[1])
    return found


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each read of several had."""
    found, gather = [], Domains.gather
    monkeypatch.setattr(Domains, "gather", lambda self, at, *a: (found.append(len(at)), gather(self, at, *a))[1])
    return found


def test_a_batch_is_one_read(library, decoded, gathered):
    found = list(DataLoader(make_dataset(library), batch_size=8))
    assert gathered == [8] * len(found)
    assert decoded == []


@pytest.mark.parametrize("size", [3, 8, 20])
def test_a_batch_of_another_size_has_the_same_rows(library, decoded, size):
    whole = torch.cat([batch["tokens"] for batch in DataLoader(make_dataset(library), batch_size=8)])
    for workers in (0, 2):
        other = [batch["tokens"] for batch in DataLoader(make_dataset(library), batch_size=size, num_workers=workers)]
        assert torch.equal(torch.cat(other), whole)
        assert {len(part) for part in other[:-1]} == {size}
    assert decoded == []


def write_kinds(out: Path) -> Path:
    """Write a row of each kind of column that is gathered."""
    scalars = ["uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32", "int64", "float64"]
    columns = {"id": "int", "tokens": "ndarray:uint16:2,3", "free": "ndarray:int32"} | {name: name for name in scalars}
    with ms.MDSWriter(columns=columns, out=str(out)) as writer:
        for i in range(16):
            row = {name: np.dtype(name).type(i) for name in scalars}
            writer.write(row | {"id": i, "tokens": np.full((2, 3), i, np.uint16), "free": np.full(4, -i, np.int32)})
    return out


def test_rows_and_batches_are_what_decoding_each_row_gives(tmp_path):
    write_kinds(tmp_path / "kinds")

    def read() -> ms.StreamingDataset:
        return ms.StreamingDataset(local=str(tmp_path / "kinds"), batch_size=4)

    expected = [read()[i] for i in range(16)]
    rows = list(read())
    assert len(rows) == 16
    for row, other in zip(rows, expected):
        assert type(row) is dict
        assert list(row) == list(other)
        for name, value in other.items():
            assert type(row[name]) is type(value)
            assert np.asarray(row[name]).dtype == np.asarray(value).dtype
            assert np.array_equal(row[name], value)
    for number, batch in enumerate(DataLoader(read(), batch_size=4)):
        four = expected[4 * number : 4 * number + 4]
        collated = default_collate(four)
        assert type(batch) is dict
        assert list(batch) == list(collated)
        for name, values in collated.items():
            assert batch[name].dtype == values.dtype
            assert torch.equal(batch[name], values)


def test_a_row_has_memory_of_its_own(library, decoded):
    rows = list(itertools.islice(make_dataset(library), 8))
    before = [row["tokens"].tolist() for row in rows[1:]]
    rows[0]["tokens"][:] = 0
    assert [row["tokens"].tolist() for row in rows[1:]] == before
    assert decoded == []
    assert all(row["tokens"].base is None for row in rows)  # one row that is kept keeps no others


class Wrapper(IterableDataset[Any]):
    """A dataset of the user's around ours."""

    def __init__(self, dataset: Any, change: Callable[[Any], Iterator[Any]]) -> None:
        self.dataset, self.change = dataset, change

    def __iter__(self) -> Iterator[Any]:
        return self.change(self.dataset)


def numbered(dataset: Any) -> Iterator[Any]:
    for number, sample in enumerate(dataset):
        assert type(sample) is dict
        yield sample | {"number": number}


def changed(sample: Any) -> Any:
    assert type(sample) is dict
    return sample | {"number": 1}


def mapped(dataset: Any) -> Iterator[Any]:  # which has no frame
    return map(changed, dataset)


@pytest.mark.parametrize("change", [numbered, mapped])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrapper_gets_dicts(library, change, workers):
    plain = DataLoader(make_dataset(library), batch_size=8)
    wrapped = DataLoader(Wrapper(make_dataset(library), change), batch_size=8, num_workers=workers)
    for batch, other in zip(wrapped, plain, strict=True):
        assert "number" in batch
        assert torch.equal(batch["tokens"], other["tokens"])


def test_a_subclass_that_overrides_iter_gets_dicts(library):
    class Halved(ms.StreamingDataset):
        def __iter__(self) -> Iterator[Any]:
            for sample in super().__iter__():
                if sample["tokens"][0] % 2:
                    yield sample

    dataset = Halved(streams=[ms.Stream(local=str(library / "web"))], batch_size=8)
    found = [number for batch in DataLoader(dataset, batch_size=5) for number in row_ids(batch)]
    assert found[:75] == list(range(1001, 1150, 2))  # then the rows that fill up the epoch


def test_a_collate_fn_gets_dicts(library):
    def collate(samples: list[Any]) -> list[int]:
        assert all(type(sample) is dict for sample in samples)
        return [int(sample["tokens"][0]) for sample in samples]

    plain = [row_ids(batch) for batch in DataLoader(make_dataset(library), batch_size=8)]
    for workers in (0, 2):
        assert list(DataLoader(make_dataset(library), batch_size=8, num_workers=workers, collate_fn=collate)) == plain


def test_a_function_that_is_registered_with_torch_collates_every_value(library, monkeypatch):
    monkeypatch.setitem(default_collate_fn_map, np.ndarray, lambda values, **_: [int(value[0]) for value in values])
    plain = [row_ids(batch) for batch in ms.Loader(make_dataset(library))]
    assert [batch["tokens"] for batch in DataLoader(make_dataset(library), batch_size=8)] == plain


def test_rows_of_many_shapes_are_read_one_by_one(tmp_path, decoded, gathered):
    with ms.MDSWriter(columns={"tokens": "ndarray:int32"}, out=str(tmp_path / "odd")) as writer:
        for i in range(400):
            writer.write({"tokens": np.full(1 + i % 5, i, np.int32)})
    dataset = ms.StreamingDataset(local=str(tmp_path / "odd"), batch_size=4)
    lengths = list(DataLoader(dataset, batch_size=4, collate_fn=lambda rows: [len(row["tokens"]) for row in rows]))
    assert lengths == [[1 + i % 5 for i in range(at, at + 4)] for at in range(0, 400, 4)]
    assert len(decoded) == 400
    assert len(gathered) < 10  # it is tried ever less often


def write_rows(out: Path) -> Path:
    """Write 40 rows of a shape that each of them says; return their shard."""
    with ms.MDSWriter(columns={"tokens": "ndarray:int32"}, out=str(out)) as writer:
        for i in range(40):
            writer.write({"tokens": np.full(4, i, np.int32)})
    return out / "shard.00000.mds"


def damage(shard: Path, row: int) -> None:
    """Let a row be of an impossible shape."""
    data = bytearray(shard.read_bytes())
    begin = int.from_bytes(data[4 + 4 * row : 8 + 4 * row], "little")
    data[begin + 4] = 255  # its number of dimensions, behind the size of its only column
    shard.write_bytes(data)


def first_of(value: Any) -> int:
    return int(torch.as_tensor(value["tokens"]).reshape(-1)[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_rows_before_a_bad_one_are_handed_out(tmp_path, workers):
    damage(write_rows(tmp_path / "some"), row=21)
    dataset = ms.StreamingDataset(local=str(tmp_path / "some"), batch_size=8)
    found: list[int] = []
    batches = iter(DataLoader(dataset, batch_size=None if workers == 0 else 1, num_workers=workers))
    with pytest.raises(ms.errors.ShardCorruptError):
        found.extend(first_of(batch) for batch in batches)
    assert found == list(range(21))


def test_the_rows_before_a_bad_shard_are_handed_out(tmp_path):
    write_tokens(tmp_path / "some", range(40))
    second = sorted((tmp_path / "some").glob("shard.*.mds"))[1]
    second.write_bytes(bytes(second.stat().st_size))
    dataset, found = ms.StreamingDataset(local=str(tmp_path / "some"), batch_size=40), []
    before = dataset.samples_per_shard[0]
    with pytest.raises(ms.errors.ShardCorruptError):
        found.extend(first_of(row) for row in dataset)
    assert found == list(range(before))


@pytest.mark.filterwarnings("ignore:sample 21 of shard")
def test_what_a_state_sets_aside_is_not_read_even_if_it_could_be(tmp_path):
    write_rows(tmp_path / "good")
    damage(write_rows(tmp_path / "bad"), row=21)

    def read(place: str) -> ms.StreamingDataset:
        stream = ms.Stream(local=str(tmp_path / place), name="some")
        return ms.StreamingDataset(streams=[stream], batch_size=8, on_bad_sample="quarantine")

    dataset = read("bad")
    assert len(list(DataLoader(dataset, batch_size=8))) == 5
    again, other = read("good"), read("good")
    again.load_state_dict(dataset.state_dict())
    other.load_state_dict(dataset.state_dict())
    rows = [first_of({"tokens": row}) for batch in DataLoader(again, batch_size=8) for row in batch["tokens"]]
    assert rows == [first_of({"tokens": row}) for batch in ms.Loader(other) for row in batch["tokens"]]
    assert 21 not in rows
    assert len(rows) == 40


def test_a_position_within_a_batch_that_was_read_at_once(library):
    """The state counts the rows that were taken, not those that were read."""
    rows = [int(row["tokens"][0]) for row in make_dataset(library)]
    for taken in (1, 4, 7, 8, 9, 23):
        dataset = make_dataset(library)
        samples = iter(dataset)
        assert [int(next(samples)["tokens"][0]) for _ in range(taken)] == rows[:taken]
        again = make_dataset(library)
        again.load_state_dict(dataset.state_dict())
        assert [int(row["tokens"][0]) for row in again] == rows[taken:]


@pytest.mark.filterwarnings("ignore:sample 21 of shard")
@pytest.mark.parametrize("size", [3, 8, 11, 16, 30])
def test_a_bad_row_is_replaced_in_batches_of_any_size(tmp_path, size):
    """Rows of one batch may be of several steps, of which one is read row by row."""
    damage(write_rows(tmp_path / "bad"), row=21)

    def read() -> ms.StreamingDataset:
        stream = ms.Stream(local=str(tmp_path / "bad"), name="some")
        return ms.StreamingDataset(streams=[stream], batch_size=8, on_bad_sample="quarantine")

    expected = torch.cat([batch["tokens"] for batch in DataLoader(read(), batch_size=8)])
    assert torch.equal(torch.cat([batch["tokens"] for batch in DataLoader(read(), batch_size=size)]), expected)


@pytest.mark.parametrize("size", [8, 12])
def test_documents_are_marked_for_a_collate_fn_that_is_not_known(tmp_path, size):
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:5"}, out=str(tmp_path / "some")) as writer:
        for i in range(48):
            writer.write({"tokens": np.array([5, 6, 0, 7, i + 1], np.uint16)})
    dataset = ms.StreamingDataset(streams=[ms.Stream(local=str(tmp_path / "some"), eos_id=0)], batch_size=8)
    own = DocumentCollate(
        dataset, collate_fn=lambda rows: default_collate([{"tokens": row["tokens"].astype(np.int64)} for row in rows])
    )
    for batch in DataLoader(dataset, batch_size=size, collate_fn=own):
        assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]] * size
