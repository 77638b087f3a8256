"""Columns of every kind arrive with the same values and types through every face."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import joined, make_dataset, row_ids, write_tokens
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError

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


def test_rows_of_unequal_shapes_are_refused_by_domain_or_the_collate_fn_s_to_join(tmp_path):
    write(tmp_path / "d", {"x": "ndarray:int32"}, ({"x": np.arange(4 if i < 8 else i, dtype="i4")} for i in range(16)))

    def make() -> ms.StreamingDataset:
        return ms.StreamingDataset(remote=str(tmp_path / "d"), batch_size=4)

    with ms.Loader(make()) as loader:
        it = iter(loader)
        assert [next(it)["x"].tolist() for _ in range(2)] == [[[0, 1, 2, 3]] * 4] * 2  # equal shapes: gathered
        with pytest.raises(ConfigError, match=r"'x' has the shape \(8,\) in a row of 'd' and \(9,\)"):
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
