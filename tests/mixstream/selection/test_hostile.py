"""Damaged and hostile artefacts: each is refused with SelectionError that names the file, and none of it is used."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artefacts import QUALITY, VECTORS, entries, select, table_of, write_parts, write_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import SelectionError
from mixstream.selection import Scores, Selection, ShardTable, add_columns, find_artefacts
from mixstream.selection.npy import hash_file
from mixstream.selection.selection_record import hash_rows, selection_id

TABLE = table_of(5, 0, 7, 3)
KEPT = [0, 4, 5, 6, 11, 14]


@pytest.fixture
def scores(tmp_path) -> Path:
    write_scores(tmp_path / "scores", TABLE, np.arange(15.0))
    add_columns(tmp_path / "scores", {"vectors": np.ones((15, 3), "f2")}, {"inputs": {}})
    return tmp_path / "scores"


@pytest.fixture
def selection(tmp_path) -> Path:
    select(tmp_path / "selection", TABLE, KEPT)
    return tmp_path / "selection"


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the manifest."""
    found = json.loads((path / "manifest.json").read_text())
    change(found)
    (path / "manifest.json").write_text(json.dumps(found))


def put(path: Path, name: str, array: Any) -> None:
    """Replace an array by what a foreign writer would write, manifest included."""
    put_bytes(path, name, npy(array))


def put_bytes(path: Path, name: str, data: bytes) -> None:
    (path / name).write_bytes(data)
    record = {"bytes": len(data), "xxh3_128": hash_file(path / name)}
    edit(path, lambda found: found["files"].update({name: record}))


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def bounds_of(counts: Any) -> list[int]:
    return [0, *np.cumsum(counts, dtype=int).tolist()]


def sign(path: Path) -> None:
    """Give a selection the id of its content, as a foreign writer would."""
    found = json.loads((path / "manifest.json").read_text())
    arrays = (np.load(path / f"{name}.npy") for name in ("counts", "hashes"))
    table = ShardTable.from_json(found["shards"])
    edit(path, lambda found: found.update(id=selection_id(table, found["buckets"], *arrays)))


def sign_scores(path: Path) -> None:
    with pytest.raises(SelectionError, match="its content has") as refused:
        Scores.open(path)
    found = str(refused.value).partition("its content has ")[2].partition(";")[0]
    edit(path, lambda manifest: manifest.update(id=found))


def read_scores(path: Path) -> None:
    opened = Scores.open(path)
    opened.column("quality")
    for _ in opened.blocks():
        pass


def read_selection(path: Path) -> None:
    opened = Selection.open(path)
    view = opened.view(entries([5, 0, 7, 3]))
    for shard, count in enumerate(view.samples_S.tolist()):
        view.rows(np.full(count, shard), np.arange(count))


DEEP = b'{"format": "mixstream.selection/1", "made": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"


class Trap:
    """Unpickling it would be seen."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("kind", ["scores", "selection"])
@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda m: m.update(format=7), "not the manifest"),
        (lambda m: m.update(format="mixstream.scores/2"), "'mixstream.scores/2'"),
        (lambda m: m.update(format="mixstream.selection/9"), "'mixstream.selection/9'"),
        (lambda m: m.update(format="elsewhere/1"), "'elsewhere/1'"),
        (lambda m: m.update(id="0" * 32), "its id is '0{32}', its content has"),
        (lambda m: m.pop("id"), "invalid"),
        (lambda m: m["shards"][0].update(samples=6), "rows|takes|counts"),
        (lambda m: m["shards"][0].update(name="other.mds"), "its content has"),
        (lambda m: m["shards"][0].update(samples="6"), "invalid"),
        (lambda m: m["shards"][0].update(samples=-1), "not a table of shards"),
        (lambda m: m["shards"].append(m["shards"][0]), "two shards have the name"),
        (lambda m: m["shards"][0].update(path="../../x"), "invalid"),
        (lambda m: m.update(shards=None), "invalid"),
        (lambda m: m.update(files={}), "it lists the files"),
        (lambda m: m["files"].update({"../../x": {"bytes": 1, "xxh3_128": ""}}), r"it lists the files \['../../x'"),
        (lambda m: m.update(files={"x.npy": 3}), "invalid"),
        (lambda m: m.update(made=3), "invalid"),
    ],
)
def test_hostile_manifests(request, kind, change, fact):
    path = request.getfixturevalue(kind)
    edit(path, change)
    with pytest.raises(SelectionError, match=fact) as refused:
        (read_scores if kind == "scores" else read_selection)(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": "\\ud800"}', DEEP])
def test_manifests_that_are_no_json(selection, data):
    (selection / "manifest.json").write_bytes(data)
    with pytest.raises(SelectionError, match="manifest"):
        Selection.open(selection)


def test_a_newer_format_says_so_and_another_kind_is_named(scores, selection):
    edit(selection, lambda m: m.update(format="mixstream.selection/2"))
    with pytest.raises(SelectionError, match="update mixstream"):
        Selection.open(selection)
    with pytest.raises(SelectionError, match=r"its format is 'mixstream.scores/1', 'mixstream.selection/1' is needed"):
        Selection.open(scores)
    with pytest.raises(SelectionError, match=r"these are scores: make a selection of them with `mixstream select top`"):
        Selection.open(scores)
    with pytest.raises(SelectionError, match=r"these are scores: make a selection"):
        find_artefacts(scores, "selection")
    edit(selection, lambda m: m.update(format="mixstream.selection/1"))
    with pytest.raises(SelectionError, match=r"this is a selection: give the scores"):
        Scores.open(selection)


@pytest.mark.parametrize(
    ("columns", "fact"),
    [
        ([], "no column"),
        ([{"name": "../../quality", "dtype": "<f4"}], "a column cannot be called"),
        ([{"name": "quality", "dtype": "|O"}], "has dtype"),
        ([{"name": "quality", "dtype": "<f4", "shape": [1 << 60, 1 << 60]}], "has rows of shape"),
        ([{"name": "quality", "dtype": "<f4", "shape": [-1]}], "has rows of shape"),
        ([{"name": "quality", "dtype": "<f4"}, {"name": "Quality", "dtype": "<f4"}], "two columns"),
        ([{"name": "quality", "dtype": "<f4"}], "it lists the files"),
        ([{"name": "quality", "dtype": "<f8"}, {"name": "vectors", "dtype": "<f2", "shape": [3]}], "its content has"),
    ],
)
def test_hostile_columns(scores, columns, fact):
    edit(scores, lambda m: m.update(columns=columns))
    with pytest.raises(SelectionError, match=fact):
        Scores.open(scores)


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"", "not an .npy file"),
        (b"\x93NUMPY\x09\x00" + bytes(200), "not an .npy file"),
        (b"PK\x03\x04" + bytes(200), "not an .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "not an .npy file"),
        (b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').getcwd()".ljust(31) + b"\n", "not an .npy file"),
        (npy(np.array([Trap()] * 15, dtype=object)), r"it holds \|O"),
        (npy(np.zeros(15, ">f4")), "it holds >f4"),
        (npy(np.zeros(15, "<f8")), "it holds <f8"),
        (npy(np.zeros((15, 1), "<f4")), "it has the shape"),
        (npy(np.zeros(14, "<f4")), "it has the shape"),
        (npy(np.zeros(15, "<f4"))[:-1], "it has 187 bytes, an array of <f4"),
        (npy(np.zeros(15, "<f4")) + b"\0", "it has 189 bytes, an array of <f4"),
    ],
)
def test_hostile_arrays(scores, data, fact):
    put_bytes(scores, "quality.npy", data)
    sign_scores(scores)
    with pytest.raises(SelectionError, match=rf"scores/quality\.npy: .*{fact}"):
        Scores.open(scores).column("quality")


def test_fortran_order_is_refused(scores):
    put(scores, "vectors.npy", np.asfortranarray(np.ones((15, 3), "<f2")))
    sign_scores(scores)
    with pytest.raises(SelectionError, match="Fortran order"):
        Scores.open(scores).column("vectors")


def test_a_truncated_or_missing_file_is_named(scores):
    with (scores / "quality.npy").open("r+b") as file:
        file.truncate(150)
    with pytest.raises(SelectionError, match=r"quality.npy: it has 150 bytes, manifest.json says 188"):
        read_scores(scores)
    (scores / "quality.npy").unlink()
    with pytest.raises(SelectionError, match=r"quality.npy: it cannot be read \(No such file"):
        read_scores(scores)


@pytest.mark.parametrize(("name", "shape"), [("quality", ()), ("vectors", (3,))])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_foreign_values_that_are_not_finite(scores, name, shape, value):
    values = np.ones((15, *shape), QUALITY.dtype if name == "quality" else VECTORS.dtype)
    values[9] = value
    put(scores, f"{name}.npy", values)
    sign_scores(scores)
    with pytest.raises(SelectionError, match=rf"{name}.npy: the value of ordinal 9 is not finite"):
        list(Scores.open(scores).blocks(size=4))
    flags = np.ones(15, "u1")
    flags[9] = 4
    put(scores, "flags.npy", flags)
    sign_scores(scores)
    assert len(list(Scores.open(scores).blocks(size=4))) == 4  # that row does not count


def test_foreign_nan_is_found_in_a_column_that_is_asked_for_whole(scores):
    put(scores, "quality.npy", np.full(15, np.nan, "<f4"))
    sign_scores(scores)
    with pytest.raises(SelectionError, match="ordinal 0 is not finite"):
        Scores.open(scores).column("quality")


@pytest.mark.parametrize("name", ["quality.npy", "flags.npy", "vectors.npy"])
def test_verify_finds_a_flipped_bit(scores, name):
    data = bytearray((scores / name).read_bytes())
    data[-1] ^= 1
    (scores / name).write_bytes(data)
    with pytest.raises(SelectionError, match=rf"{name}: xxh3_128 is"):
        Scores.open(scores).verify()


@pytest.mark.parametrize("name", ["quality", "flags"])
def test_a_flipped_bit_is_found_before_it_chooses_a_row(scores, name):
    data = bytearray((scores / f"{name}.npy").read_bytes())
    data[-1] ^= 1
    (scores / f"{name}.npy").write_bytes(data)
    opened = Scores.open(scores)
    with pytest.raises(SelectionError, match=rf"{name}.npy: xxh3_128 is"):
        opened.flags if name == "flags" else opened.column(name)


@pytest.mark.parametrize(
    ("rows", "fact"),
    [
        ([0, 4, 1, 0, 6, 2], "not ascending"),
        ([0, 4, 0, 0, 6, 2], "not ascending"),
        ([0, 5, 0, 1, 6, 2], "not ascending"),
        ([0, 4, 0, 1, 6, 3], "not ascending"),
    ],
)
def test_foreign_rows_that_cannot_be(selection, rows, fact):
    rows = np.array(rows, "<u4")
    put(selection, "rows.npy", rows)
    counts = np.load(selection / "counts.npy")
    bounds = bounds_of(counts)
    put(selection, "hashes.npy", np.array([[hash_rows(rows[a:b])] for a, b in itertools.pairwise(bounds)], "<u8"))
    sign(selection)
    with pytest.raises(SelectionError, match=fact):
        Selection.open(selection).ordinals()
    with pytest.raises(SelectionError, match="ascending"):
        read_selection(selection)


def test_rows_that_were_changed_are_found_when_they_are_read(selection):
    data = bytearray((selection / "rows.npy").read_bytes())
    data[-1] ^= 1
    (selection / "rows.npy").write_bytes(data)
    opened = Selection.open(selection)
    assert opened.rows_of(0).tolist() == [0, 4]
    with pytest.raises(SelectionError, match=r"rows.npy: the rows of shard 'd.mds' hash to"):
        opened.rows_of(3)
    with pytest.raises(SelectionError, match=r"the selection .*/selection: .*hash"):
        read_selection(selection)
    with pytest.raises(SelectionError, match=r"rows.npy: xxh3_128"):
        opened.verify()


@pytest.mark.parametrize(
    ("counts", "fact"),
    [
        ([[2], [0], [4], [1]], r"its rows are .*'after': 6.*'after': 7"),
        ([[5], [1], [0], [0]], "1 rows of shard 'b.mds'"),
        ([[6], [0], [0], [0]], "6 rows of shard 'a.mds'"),
    ],
)
def test_counts_that_do_not_add_up(selection, counts, fact):
    put(selection, "counts.npy", np.array(counts, "<u4"))
    sign(selection)
    with pytest.raises(SelectionError, match=fact):
        Selection.open(selection)


def test_counts_for_more_rows_than_the_file_has(selection):
    put(selection, "counts.npy", np.array([[2], [0], [4], [1]], "<u4"))
    edit(selection, lambda m: m["rows"].update(after=7))
    sign(selection)
    with pytest.raises(SelectionError, match=r"rows.npy: it has the shape \(6,\), the manifest says \(7,\)"):
        Selection.open(selection).rows_of(0)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda m: m.update(buckets=[]), "one or more different names"),
        (lambda m: m.update(buckets=["a", "a"]), "one or more different names"),
        (lambda m: m.update(buckets=["a", "b"]), "it has the shape"),
        (lambda m: m.update(tokens={"before": 1}), "its tokens are"),
        (lambda m: m.update(tokens={"before": 1, "after": 2}), "keeps 2 of 1 tokens"),
        (lambda m: m.update(rows={"before": 15, "after": 5}), "its rows are"),
        (lambda m: m.update(parents={"a": 1}), "invalid"),
    ],
)
def test_hostile_selections(selection, change, fact):
    edit(selection, change)
    with pytest.raises(SelectionError, match=fact):
        Selection.open(selection)


def test_a_row_in_two_buckets_is_found_by_verify(tmp_path):
    select(tmp_path, TABLE, KEPT)
    rows = np.array([0, 0, 4, 0, 6, 2], "<u4")
    counts = np.array([[1, 2], [0, 0], [2, 0], [1, 0]], "<u4")
    bounds = bounds_of(counts)
    hashes = np.array([hash_rows(rows[a:b]) for a, b in itertools.pairwise(bounds)], "<u8").reshape(4, 2)
    edit(tmp_path, lambda m: m.update(buckets=["x", "y"]))
    for name, array in (("rows", rows), ("counts", counts), ("hashes", hashes)):
        put(tmp_path, f"{name}.npy", array)
    sign(tmp_path)
    with pytest.raises(SelectionError, match=r"row 0 of shard 'a.mds' is in the bucket 'y' and in another"):
        Selection.open(tmp_path).verify()


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda m: m.update(part=[0, 3]), "it says part 0 of 3"),
        (lambda m: m.update(part=[0, 1 << 60]), "it says part 0 of"),
        (lambda m: m.update(table="00"), "differs from that of part 0|not the shards"),
        (lambda m: m.update(first_shard=1), "shards"),
        (lambda m: m["shards"].pop(), "not the shards"),
        (lambda m: m.update(columns=[]), "no column|differs"),
        (lambda m: m.update(format="mixstream.scores/1"), "its format is"),
    ],
)
def test_hostile_parts(tmp_path, change, fact):
    write_parts(tmp_path, TABLE, np.arange(15.0), parts=2)
    edit(tmp_path / "parts/00000-of-00002", change)
    with pytest.raises(SelectionError, match=fact):
        Scores.open(tmp_path)


def test_where_there_is_nothing(tmp_path):
    with pytest.raises(SelectionError, match=r"no selection: looked for .*nowhere/manifest.json.*does not exist"):
        Selection.open(tmp_path / "nowhere")
    write_parts(tmp_path / "scores", TABLE, np.arange(15.0), parts=2)
    with pytest.raises(SelectionError, match="parts of scores, not a selection"):
        Selection.open(tmp_path / "scores")


def damaged(data: bytes, at: int, kind: int) -> bytes:
    at %= max(len(data), 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + 1 :]
    return data[:at] + bytes([data[at] ^ (1 << kind - 2)]) + data[at + 1 :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    select(root / "selection", TABLE, KEPT)
    write_parts(root / "parts", TABLE, np.arange(15.0), parts=2)
    write_scores(root / "scores", TABLE, np.arange(15.0))
    return root


@settings(max_examples=400)
@given(data=st.data())
def test_any_damage_is_refused_or_changes_no_row(whole, data):
    """Whatever happens to one byte of any file: the rows and values are what they were, or SelectionError."""
    path = data.draw(st.sampled_from(sorted(path for path in whole.rglob("*") if path.is_file())))
    good = path.read_bytes()
    path.write_bytes(damaged(good, data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 9))))
    try:
        with suppress(SelectionError):
            if path.is_relative_to(whole / "selection"):
                selection = Selection.open(whole / "selection")
                selection.verify()
                assert selection.ordinals().tolist() == KEPT
            else:
                kind = "parts" if path.is_relative_to(whole / "parts") else "scores"
                scores = Scores.open(whole / kind)
                scores.verify()
                (block,) = [block for _, block in scores.blocks("quality", "flags")]
                assert block["quality"].tolist() == list(range(15))
                assert block["flags"].all()
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "", ".", ".partial", "a\n\x1b[31m"])
def test_a_domain_that_would_lead_out_of_a_directory_is_refused(tmp_path, name):
    select(tmp_path / "given", table_of(3), [1], domain=name)
    for place in (tmp_path, tmp_path / "given"):
        with pytest.raises(SelectionError, match="cannot be the name of a directory"):
            find_artefacts(place, "selection")
