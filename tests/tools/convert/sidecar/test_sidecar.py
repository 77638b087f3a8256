"""What `mixstream convert` keeps of documents: where each lies in the shards, and what is known of it."""

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from mixstream.documents import Documents
from mixstream.errors import ConfigError, StateError
from mixstream.formats import decode_sample, parse_index, read_offsets
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion
from mixstream_tools.convert.sidecar import noted as sidecar
from mixstream_tools.convert.work import packer
from mixstream_tools.shared import sidecar_files

EOS = 256


def recipe(**options) -> Recipe:
    names = ("text", "domain", "id", "keep", "separator")
    fields = Fields(**{"text": "text", **{name: options.pop(name) for name in names if name in options}})
    return Recipe(**{"tokenizer": describe_tokenizer("bytes"), "fields": fields, "seq_len": 16, **options})


def jsonl(documents) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)


def lines_of(dataset: Path) -> list[dict]:
    """The lines of a dataset's sidecar, files in the order of the index."""
    return pa.Table.from_batches(Documents.open(str(dataset)).blocks()).to_pylist()


def samples_of(dataset: Path) -> list[np.ndarray]:
    index = parse_index((dataset / "index.json").read_bytes(), where="")
    found = []
    for info in index.shards:
        data = (dataset / info.raw.basename).read_bytes()
        offsets = read_offsets(data, info, where="")
        found += [decode_sample(data[begin:end], info, where="")["tokens"] for begin, end in pairwise(offsets)]
    return found


def texts_of(dataset: Path) -> dict[int, tuple[str | None, dict]]:
    """Document → its text by the tokens where its lines say (None if some of them were dropped), and its first line."""
    samples = samples_of(dataset)
    stream, starts = np.concatenate(samples), np.cumsum([0, *map(len, samples)])
    tokens: dict[int, list] = {}
    first: dict[int, dict] = {}
    for line in lines_of(dataset):
        number = line["document"]
        first.setdefault(number, line)
        assert line["begin"] == sum(map(len, tokens.setdefault(number, []))) or line["row"] is None
        begin = None if line["row"] is None else starts[line["row"]] + line["token"]
        tokens[number].append([-1] * line["tokens"] if begin is None else stream[begin : begin + line["tokens"]])
    found = {}
    for number, parts in tokens.items():
        whole = [int(token) for part in parts for token in part]
        assert len(whole) == first[number]["length"]
        dropped = -1 in whole
        assert dropped or (whole[-1] == EOS and EOS not in whole[:-1])
        found[number] = (None if dropped else bytes(whole[:-1]).decode(), first[number])
    return found


@pytest.fixture
def corpus(write_tree):
    """One file of JSON Lines, with blank lines, that becomes several parts; and texts."""
    one = [{"text": f"é{at} " * (at * 7 % 40 + 1), "id": f"a{at}"} for at in range(60)]
    two = [{"text": f"{at} two " * (at % 9 + 1), "id": f"b{at}"} for at in range(40)]
    return write_tree({"web/one.jsonl": jsonl(one).replace("\n", "\n\n", 5), "web/two.jsonl": jsonl(two)}), one, two


@pytest.mark.parametrize("rows", ["packed", "documents"])
def test_every_document_is_where_its_lines_say(corpus, tmp_path, rows):
    """Over several parts, slices of one file, tails and a validation split."""
    source, one, two = corpus
    made = recipe(rows=rows, part_bytes=900, val_fraction=0.25, id="id")
    summary = run_conversion([str(source / "web")], out=tmp_path / "out", recipe=made)
    expected = {each["id"]: each["text"] for each in [*one, *two]}
    dropped = 0
    for split in ("train", "val"):
        dataset = tmp_path / "out/web" / split
        found = texts_of(dataset)
        assert sorted(found) == list(range(summary["domains"]["web"][split]["documents"]))
        for text, line in found.values():
            whole = expected.pop(line["id"])
            dropped += text is None
            assert text in (None, whole)
            assert (line["bytes"], line["hash"]) == (len(whole.encode()), xxhash.xxh3_64_intdigest(whole.encode()))
            number = int(line["id"][1:])
            blank = min(number, 5) if line["id"][0] == "a" else 0  # blank lines are records too
            assert (line["file"], line["record"]) == (
                {"a": "one", "b": "two"}[line["id"][0]] + ".jsonl",
                number + blank,
            )
    assert not expected
    assert dropped <= (0 if rows == "documents" else 8)
    parts = sorted(path.name for path in (tmp_path / "out/web/train/documents").iterdir())
    assert len(parts) > 3
    assert ("part-tail.parquet" in parts) == (rows == "packed")


def test_rows_of_documents_are_the_documents(corpus, tmp_path):
    source, one, two = corpus
    made = recipe(rows="documents", part_bytes=900)
    summary = run_conversion([str(source / "web")], out=tmp_path / "out", recipe=made, workers=1)
    samples = samples_of(tmp_path / "out/web/train")
    assert [bytes(row[:-1].tolist()).decode() for row in samples] == [each["text"] for each in [*one, *two]]
    assert all(row[-1] == EOS and row.dtype == np.uint16 for row in samples)
    counts = summary["domains"]["web"]["train"]
    assert (counts["rows"], counts["dropped_tokens"]) == (100, 0)
    assert counts["tokens"] == sum(map(len, samples))
    index = parse_index((tmp_path / "out/web/train/index.json").read_bytes(), where="")
    assert index.shards[0].columns == {"tokens": "ndarray:uint16"}
    assert "seq_len" not in index.extra["mixstream"]


def test_bytes_do_not_depend_on_workers_or_a_kill(corpus, tmp_path, snapshot, monkeypatch):
    """Killed in a part, and while the sidecar is written; test_ledger.py kills processes."""
    source, made = str(corpus[0] / "web"), recipe(part_bytes=900, keep=("name=id",), val_fraction=0.2)
    run_conversion([source], out=tmp_path / "three", recipe=made, workers=3)
    whole = snapshot(tmp_path / "three")
    assert any(name.endswith("train/documents/part-00001.parquet") for name in whole)
    for place, name in ((sidecar.SidecarWriter, "finish"), (sidecar_files.SidecarFile, "finish")):
        calls, kept = iter(range(9)), getattr(place, name)

        def killed(each, *, calls=calls, kept=kept):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return kept(each)

        with monkeypatch.context() as patched:
            patched.setattr(place, name, killed)
            with pytest.raises(KeyboardInterrupt):
                run_conversion([source], out=tmp_path / "killed", recipe=made)
    assert list((tmp_path / "killed/web/train/documents").iterdir())
    run_conversion([source], out=tmp_path / "killed", recipe=made)
    assert snapshot(tmp_path / "killed") == whole


def test_an_id_of_its_own_or_a_hash_of_the_text(write_tree, tmp_path):
    """Texts have no fields; equal texts have equal ids then. A whole number is an id too."""
    source = write_tree(
        {"d/a.txt": "same " * 20, "d/b.txt": "same " * 20, "e.jsonl": jsonl([{"text": "x" * 40, "n": 7}])}
    )
    run_conversion([str(source / "d"), str(source / "e.jsonl")], out=tmp_path / "out", recipe=recipe(id="n"))
    ids = {line["id"] for line in lines_of(tmp_path / "out/d/train")}
    assert ids == {xxhash.xxh3_128_hexdigest(b"same " * 20)}
    assert {line["id"] for line in lines_of(tmp_path / "out/e/train")} == {"7"}


def test_a_document_of_several_pieces_has_one_hash(write_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("mixstream_tools.convert.readers.reader.PIECE_CHARS", 64)
    text = "words and more words\n" * 50
    source = write_tree({"d/a.txt": text})
    for rows in ("packed", "documents"):
        run_conversion([str(source / "d")], out=tmp_path / rows, recipe=recipe(rows=rows))
        (line, *_) = lines_of(tmp_path / rows / "d/train")
        assert line["hash"] == xxhash.xxh3_64_intdigest(text.encode())
        assert line["id"] == xxhash.xxh3_128_hexdigest(text.encode())
        assert (line["bytes"], line["length"]) == (len(text), len(text) + 1)
    (row,) = samples_of(tmp_path / "documents/d/train")
    assert bytes(row[:-1].tolist()).decode() == text


def test_kept_columns_have_one_type_in_all_parts(write_tree, tmp_path):
    """Types follow from all parts: the first ones hold whole numbers only, the last ones fractions and texts."""
    values = {
        "score": [1, 2, None, 2.5],
        "count": [1, 2, 3, None],
        "flag": [True, None, False, True],
        "url": ["a", "b", None, "d"],
        "mixed": [1, True, "three", {"four": 4}],
        "tags": [["a"], [], None, ["b", 1]],
        "big": [1 << 60, 3, None, 1],
        "void": [None] * 4,
    }
    documents = [{"text": "x" * 40, "meta": {"n": at}} | {k: v[at] for k, v in values.items()} for at in range(4)]
    source = write_tree({f"d/{at}.jsonl": jsonl([each]) for at, each in enumerate(documents)})
    made = recipe(part_bytes=10, keep=(*values, "n=meta.n"), rows="documents")
    summary = run_conversion([str(source / "d")], out=tmp_path / "out", recipe=made)
    table = pa.Table.from_batches(Documents.open(str(tmp_path / "out/d/train")).blocks())
    types = [str(table.schema.field(name).type) for name in [*values, "n"]]
    assert types == ["double", "int64", "bool", "string", "string", "string", "int64", "string", "int64"]
    for name in ("score", "count", "flag", "url", "big", "void"):
        assert table[name].to_pylist() == values[name]
    assert table["mixed"].to_pylist() == ["1", "true", "three", '{"four": 4}']
    assert table["tags"].to_pylist() == ['["a"]', "[]", None, '["b", 1]']
    assert [warning.partition(":")[0] for warning in summary["warnings"]] == ["--keep mixed"]


@pytest.mark.parametrize("keep", [("hash",), ("a", "a"), ("",)])
def test_a_kept_column_needs_a_name_of_its_own(keep):
    with pytest.raises(ConfigError, match=r"--keep .*NAME="):
        recipe(keep=keep)


def test_files_of_one_name_are_told_apart(write_tree, tmp_path):
    source = write_tree({f"{at}/x/part.jsonl": jsonl([{"text": f"{at}" * 40}]) for at in "ab"})
    sources = [f"web={source / at / 'x'}" for at in "ab"]
    run_conversion(sources, out=tmp_path / "out", recipe=recipe())
    assert {line["file"] for line in lines_of(tmp_path / "out/web/train")} == {"a/x/part.jsonl", "b/x/part.jsonl"}


def test_a_name_that_is_not_utf8_is_written_alike_everywhere(write_tree, tmp_path):
    """Names of files are bytes."""
    source = write_tree({"a.jsonl": jsonl([{"text": "good " * 9}]) + "bad\n"})
    (source / "a.jsonl").rename(source / "b\udcff.jsonl")
    made = recipe(id="__file__", keep=("name=__file__",), on_bad_document="skip")
    run_conversion([f"web={source}"], out=tmp_path / "out", recipe=made)
    line, *_ = lines_of(tmp_path / "out/web/train")
    reject = json.loads((tmp_path / "out/web/rejects.jsonl").read_bytes())
    assert {line["id"], line["name"], line["file"], reject["file"]} == {r"b\udcff.jsonl"}


def test_bad_records_count_where_a_record_is(write_tree, tmp_path):
    lines = [json.dumps({"text": f"{at} " * 9}) if at % 3 else "broken" for at in range(60)]
    source = write_tree({"d.jsonl": "\n".join(lines)})
    made = recipe(part_bytes=300, on_bad_document="skip")
    run_conversion([str(source / "d.jsonl")], out=tmp_path / "out", recipe=made)
    found = texts_of(tmp_path / "out/d/train").values()
    assert {line["record"] for _, line in found} == {at for at in range(60) if at % 3}
    assert all(text is None or text == f"{line['record']} " * 9 for text, line in found)


def test_domains_of_a_key_have_documents_of_their_own(write_tree, tmp_path):
    documents = [{"text": f"{at} " * 9, "d": "abc"[at % 3]} for at in range(90)]
    source = write_tree({"all.jsonl": jsonl(documents)})
    run_conversion([str(source / "all.jsonl")], out=tmp_path / "out", recipe=recipe(domain="d", part_bytes=500))
    for at, domain in enumerate("abc"):
        found = texts_of(tmp_path / "out" / domain / "train")
        assert [found[number][1]["record"] for number in sorted(found)] == list(range(at, 90, 3))
        assert all(text in (None, documents[line["record"]]["text"]) for text, line in found.values())


def test_a_document_longer_than_a_sample_is_refused_by_name(write_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(packer, "_MOST_BYTES", 100)
    source = write_tree({"d.jsonl": jsonl([{"text": "a" * 30}, {"text": "b" * 60}, {"text": "c" * 30}]), "e.txt": "e"})
    with pytest.raises(ValueError, match=r"d\.jsonl, record 1: it has 61 tokens.*--rows packed"):
        run_conversion([str(source / "d.jsonl")], out=tmp_path / "out", recipe=recipe(rows="documents"))
    made = recipe(rows="documents", on_bad_document="skip")
    summary = run_conversion([f"d={source}"], out=tmp_path / "out", recipe=made)
    assert summary["skipped"]["documents"] == 1
    assert [(row[0], len(row)) for row in samples_of(tmp_path / "out/d/train")] == [(97, 31), (99, 31), (101, 2)]
    assert [line["record"] for line in lines_of(tmp_path / "out/d/train")] == [0, 2, 0]
    reject = json.loads((tmp_path / "out/d/rejects.jsonl").read_bytes())  # by now, another file is read
    assert (reject["file"], reject["record"], reject["excerpt"]) == ("d.jsonl", 1, "b" * 60)


def as_before(out: Path) -> None:
    """Make an output what an earlier version, which kept no documents, would have made."""
    for path in (out / ".convert/parts").rglob("*.json"):
        record = json.loads(path.read_bytes())
        del record["sidecar"], record["hashes"][".documents"]
        for output in record["outputs"]:
            del output["noted"], output["tokens"]
        path.write_text(json.dumps(record))
        path.with_suffix(".documents").unlink()
    for index in out.glob("*/*/index.json"):
        content = json.loads(index.read_bytes())
        del content["mixstream"]["documents_files"], content["mixstream"]["row_kind"]
        index.write_text(json.dumps(content))
    for path in out.glob("*/*/documents/*"):
        path.unlink()
        if not list(path.parent.iterdir()):
            path.parent.rmdir()
    run = json.loads((out / ".convert/run.json").read_bytes())
    for key in ("rows", "id-key", "keep"):
        del run["recipe"][key]
    data = json.dumps(run, indent=1, sort_keys=True).encode()
    (out / ".convert/run.json").write_bytes(data)
    summary = json.loads((out / "domains.json").read_bytes())
    summary["identity"] = hashlib.sha256(data).hexdigest()
    (out / "domains.json").write_text(json.dumps(summary, indent=1))


def test_an_output_of_an_earlier_version_is_finished_and_says_that_it_keeps_no_documents(corpus, tmp_path):
    source, out = str(corpus[0] / "web"), tmp_path / "out"
    run_conversion([source], out=out, recipe=recipe(part_bytes=900))
    as_before(out)
    shards = {path: path.stat().st_mtime_ns for path in out.rglob("*.mds")}
    assert run_conversion([source], out=out, recipe=recipe(part_bytes=900))["status"] == "nothing to do"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.mds")} == shards
    with pytest.raises(ConfigError, match=r"keeps no documents.*--overwrite"):
        Documents.open(str(out / "web/train"))
    with pytest.raises(StateError, match='--rows was "packed", is "documents"'):
        run_conversion([source], out=out, recipe=recipe(part_bytes=900, rows="documents"))


def test_what_an_earlier_version_left_unfinished_gets_documents_for_all_parts(corpus, tmp_path, snapshot):
    source, out = str(corpus[0] / "web"), tmp_path / "out"
    run_conversion([source], out=out, recipe=recipe(part_bytes=900))
    whole = snapshot(out)
    as_before(out)
    (out / ".convert/parts/web/00001.json").unlink()
    for name in ("web/train/index.json", "domains.json", ".convert/published.json"):
        (out / name).unlink()
    run_conversion([source], out=out, recipe=recipe(part_bytes=900))
    again = snapshot(out)
    assert again.keys() == whole.keys()
    recipes = {".convert/run.json", "domains.json"}  # they say what the first command said
    assert {name for name in whole if again[name] != whole[name]} <= recipes


def test_a_lost_or_cut_file_of_documents_is_made_again(corpus, tmp_path, snapshot):
    source, out = str(corpus[0] / "web"), tmp_path / "out"
    run_conversion([source], out=out, recipe=recipe(part_bytes=900))
    whole = snapshot(out)
    (out / "web/train/documents/part-00001.parquet").unlink()
    os.truncate(out / "web/train/documents/part-tail.parquet", 30)
    os.truncate(out / ".convert/parts/web/00002.documents", 30)
    assert run_conversion([source], out=out, recipe=recipe(part_bytes=900))["status"] == "converted"
    assert snapshot(out) == whole


def test_a_removed_or_replaced_domain_takes_its_documents_along(corpus, write_tree, tmp_path, snapshot):
    source, out = corpus[0], tmp_path / "out"
    write_tree({"books/a.txt": "b" * 500})
    both = [str(source / "web"), str(source / "books")]
    run_conversion(both, out=out, recipe=recipe(part_bytes=900))
    run_conversion([], out=out, recipe=recipe(part_bytes=900), remove=["web"])
    assert [path.name for path in out.iterdir() if path.is_dir() and path.name != ".convert"] == ["books"]
    run_conversion([f"books={source / 'web'}"], out=out, recipe=recipe(part_bytes=900), overwrite=True)
    run_conversion([f"books={source / 'web'}"], out=tmp_path / "alone", recipe=recipe(part_bytes=900))
    assert {k: v for k, v in snapshot(out).items() if k.startswith("books")} == {
        k: v for k, v in snapshot(tmp_path / "alone").items() if k.startswith("books")
    }


def test_a_file_is_no_longer_than_its_row_groups(write_tree, tmp_path, monkeypatch):
    """Memory is bounded by a row group and a batch of notes."""
    monkeypatch.setattr("mixstream_tools.shared.sidecar_files._GROUP_LINES", 50)
    monkeypatch.setattr("mixstream_tools.convert.sidecar.noted._BATCH", 5000)
    source = write_tree({"d.jsonl": jsonl([{"text": f"{at} " * 9} for at in range(1000)])})
    run_conversion([str(source / "d.jsonl")], out=tmp_path / "out", recipe=recipe())
    with pq.ParquetFile(tmp_path / "out/d/train/documents/part-00000.parquet") as file:
        assert file.num_row_groups > 10
    documents = Documents.open(str(tmp_path / "out/d/train"))
    whole = documents.borders(0, documents.rows)
    some = documents.borders(300, 420)
    chosen = (whole.row_N >= 300) & (whole.row_N < 420)
    for name in ("row_N", "token_N", "document_N", "begin_N"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[chosen])


def test_duckdb_reads_it(corpus, tmp_path):
    """The files of several parts and splits are one table."""
    import duckdb

    source, one, two = corpus
    run_conversion(
        [str(source / "web")], out=tmp_path / "out", recipe=recipe(part_bytes=900, id="id", val_fraction=0.2)
    )
    files = f"'{tmp_path}/out/web/*/documents/*.parquet'"
    (found,) = duckdb.sql(f"SELECT count(DISTINCT id), sum(bytes), sum(tokens) FROM {files}").fetchall()
    texts = [each["text"].encode() for each in [*one, *two]]
    assert found == (100, sum(map(len, texts)), sum(map(len, texts)) + 100)
    query = f"SELECT id, hash FROM {files} WHERE file = 'two.jsonl' AND record = 3 AND begin = 0"
    assert duckdb.sql(query).fetchall() == [("b3", xxhash.xxh3_64_intdigest(two[3]["text"].encode()))]
