"""`mixstream.documents`: what the index says of a sidecar, and reading it from any store."""

import json
from itertools import pairwise

import numpy as np
import pytest

from mixstream.documents import COLUMNS, Documents, dump_files, parse_files
from mixstream.errors import (
    ConfigError,
    IndexCorruptError,
    IndexNotFoundError,
    NoRangesError,
    ShardCorruptError,
    ShardNotFoundError,
)
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion
from tests.mixstream.shelf import Shelf

SEQ_LEN = 16


@pytest.fixture(scope="module", params=["packed", "documents"])
def objects(request, tmp_path_factory):
    """The files of a dataset of several parts."""
    top = tmp_path_factory.mktemp("reading")
    lines = [json.dumps({"text": "x" * (at * 13 % 70 + 1), "lang": "en"}) for at in range(200)]
    (top / "web.jsonl").write_text("\n".join(lines))
    fields = Fields(text="text", keep=("lang",))
    made = Recipe(
        tokenizer=describe_tokenizer("bytes"), rows=request.param, seq_len=SEQ_LEN, fields=fields, part_bytes=2000
    )
    run_conversion([str(top / "web.jsonl")], out=top / "out", recipe=made)
    dataset = top / "out/web/train"
    return {path.relative_to(dataset).as_posix(): path.read_bytes() for path in dataset.rglob("*") if path.is_file()}


def about(objects):
    return json.loads(objects["index.json"])["mixstream"]


def test_a_store_is_read_by_ranges(objects):
    """Only the file that has the rows, and only the columns that say where documents lie."""
    store = Shelf(objects)
    documents = Documents.of(store, about(objects))
    whole = documents.borders(0, documents.rows)
    store.log.clear()
    read = []
    store.before["read *"] = read.append
    second = documents.files[1]
    some = documents.borders(second.first_row, second.first_row + 3)
    assert {name.removeprefix("read ") for name in read} == {second.basename}
    chosen = (whole.row_N >= second.first_row) & (whole.row_N < second.first_row + 3)
    for name in ("row_N", "token_N", "document_N", "begin_N"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[chosen])
    assert list(documents.columns)[: len(COLUMNS)] == list(COLUMNS)
    assert documents.columns.keys() - COLUMNS.keys() == {"lang"}


def test_a_server_without_ranges_is_read_whole(objects):
    class Plain(Shelf):
        def read(self, name, begin=0, end=None, *, version=None):
            if end is not None:
                raise NoRangesError("no ranges")
            return super().read(name, begin, end, version=version)

    documents = Documents.of(Plain(objects), about(objects))
    assert sum(block.num_rows for block in documents.blocks(["id"])) == sum(file.lines for file in documents.files)


def test_borders_of_each_row_begin_at_its_first_token(objects):
    """Laid side by side they are one stream: within a document, `begin` goes on where the last one ended."""
    documents = Documents.of(Shelf(objects), about(objects))
    found = documents.borders(0, documents.rows)
    assert found.row_N[found.token_N == 0].tolist() == list(range(documents.rows))
    if documents.row_kind == "packed":
        place = found.row_N * SEQ_LEN + found.token_N
        last: dict[int, int] = {}
        for number, (at, end) in enumerate(pairwise([*place.tolist(), documents.rows * SEQ_LEN])):
            document = int(found.document_N[number])
            assert found.begin_N[number] == last.get(document, 0)
            last[document] = last.get(document, 0) + end - at
    assert documents.borders(3, 3).row_N.tolist() == []
    with pytest.raises(IndexError, match=f"of {documents.rows} rows"):
        documents.borders(0, documents.rows + 1)


def test_what_is_gone_damaged_or_of_another_size_is_named(objects):
    broken = {**objects}
    documents = Documents.of(Shelf(broken), about(objects))
    name = documents.files[0].basename
    del broken[name]
    with pytest.raises(ShardNotFoundError, match=name):
        next(Documents.of(Shelf(broken), about(objects)).blocks())
    for data, text in ((objects[name][:-1], "the index says"), (bytes(len(objects[name])), "no Parquet file")):
        with pytest.raises(ShardCorruptError, match=text):
            next(Documents.of(Shelf({**objects, name: data}), about(objects)).blocks())
    with pytest.raises(ConfigError, match="no column 'colour'"):
        next(documents.blocks(["colour"]))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(basename="../../secret.parquet"),
        lambda entry: entry.update(basename="documents/other.parquet"),
        lambda entry: entry.update(bytes=-1),
        lambda entry: entry.update(rows=True),
        lambda entry: entry.update(first_row=7),
        lambda entry: entry.pop("hashes"),
    ],
)
def test_an_index_is_not_believed(objects, change):
    found = about(objects)
    assert dump_files(parse_files(found, where="")) == found["documents_files"]
    change(found["documents_files"][0])
    with pytest.raises(IndexCorruptError, match="documents"):
        parse_files(found, where="index.json")


def test_no_documents_and_no_dataset_are_told_apart(objects, tmp_path):
    assert Documents.of(Shelf(objects), {}) is None
    with pytest.raises(IndexNotFoundError):
        Documents.open(str(tmp_path))
    with pytest.raises(ConfigError, match="which this version does not know"):
        Documents.of(Shelf(objects), {**about(objects), "row_kind": "sentences"})
