"""`mixstream merge`: datasets and whole outputs become one; what would be lost, doubled or mixed up is refused."""

import json
import shutil

import numpy as np
import pytest

import mixstream as ms
from mixstream.documents import Documents
from mixstream_tools.cli import main
from mixstream_tools.shared.output_job import OutputJob


@pytest.fixture
def convert(write_tree, tmp_path):
    """Convert documents `{domain}{at} …` of some numbers; returns the output."""

    def run(out, *domains, numbers=range(40), seq_len=16, options=()):
        lines = {
            f"{out}-src/{domain}.jsonl": "".join(
                json.dumps({"text": f"{domain}{at} " * (at % 9 + 1), "id": f"{domain}{at}", "n": at}) + "\n"
                for at in numbers
            )
            for domain in domains
        }
        source = write_tree(lines)
        sources = [str(source / name) for name in lines]
        command = ["convert", *sources, "--out", str(tmp_path / out), "--seq-len", str(seq_len), "--workers", "1"]
        assert main([*command, "--keep", "n", *options]) == 0
        return tmp_path / out

    return run


@pytest.fixture
def merge(capsys):
    def run(*arguments):
        capsys.readouterr()
        status = main(["merge", *map(str, arguments), "--json"])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


def documents_of(place, rows) -> dict[int, list[int]]:
    """`n` of a document → tokens, as the sidecar finds them in the rows; lines are checked to be in order."""
    found: dict[int, dict[int, int]] = {}
    numbers: dict[int, str] = {}
    stream, last = rows.ravel().tolist(), -1
    for block in Documents.open(str(place)).blocks():
        for line in block.to_pylist():
            assert numbers.setdefault(line["document"], line["id"]) == line["id"]
            at = line["row"] * rows.shape[1] + line["token"] if line["row"] is not None else len(stream)
            assert at >= last
            last = at
            tokens = stream[at : at + line["tokens"]]
            found.setdefault(line["n"], {}).update(enumerate(tokens, line["begin"]))
    return {key: [tokens[at] for at in sorted(tokens)] for key, tokens in found.items()}


def test_outputs_of_two_machines_become_one(convert, merge, tmp_path, read_rows, read_meta):
    one, two = convert("one", "web", "code"), convert("two", "books")
    status, told, _ = merge(one, two, "--out", tmp_path / "all")
    assert status == 0
    assert [(each["name"], each["members"]) for each in told["datasets"]] == [
        ("books/train", 1), ("code/train", 1), ("web/train", 1)
    ]  # fmt: skip
    for name, place in [("web", one), ("code", one), ("books", two)]:
        np.testing.assert_array_equal(read_rows(tmp_path / "all" / name / "train"), read_rows(place / name / "train"))
        before, after = read_meta(place / name / "train"), read_meta(tmp_path / "all" / name / "train")
        files, found = before.pop("documents_files"), after.pop("documents_files")
        assert sum(file["lines"] for file in files) == sum(file["lines"] for file in found)
        assert before == after
    summary = json.loads((tmp_path / "all/domains.json").read_bytes())
    assert [*summary["domains"]] == ["books", "code", "web"]
    assert summary["domains"]["web"] == json.loads((one / "domains.json").read_bytes())["domains"]["web"]
    assert [stream.name for stream in ms.streams(str(tmp_path / "all"))] == ["books", "code", "web"]
    assert main(["verify", str(tmp_path / "all")]) == 0
    assert merge(one, two, "--out", tmp_path / "all")[1]["status"] == "nothing to do"


def test_one_domain_of_two_outputs_is_refused_or_joined_with_its_documents(
    convert, merge, tmp_path, read_rows, read_meta
):
    one, two = convert("one", "web"), convert("two", "web", numbers=range(100, 130))
    status, told, _ = merge(one, two, "--out", tmp_path / "all")
    assert (status, "web/train is there several times" in told["error"]["message"]) == (2, True)
    assert not (tmp_path / "all").exists()
    assert merge(one, two, "--out", tmp_path / "all", "--same-domain", "join")[0] == 0
    rows = [read_rows(place / "web/train") for place in (one, two)]
    joined = read_rows(tmp_path / "all/web/train")
    np.testing.assert_array_equal(joined, np.concatenate(rows))
    want = {
        key: tokens
        for at, place in enumerate((one, two))
        for key, tokens in documents_of(place / "web/train", rows[at]).items()
    }
    assert documents_of(tmp_path / "all/web/train", joined) == want
    assert len(want) == 70
    about = read_meta(tmp_path / "all/web/train")
    metas = [read_meta(place / "web/train") for place in (one, two)]
    for key in ("documents", "rows", "tokens", "shards", "dropped_tokens"):
        assert about[key] == sum(meta[key] for meta in metas)
    assert (about["domain"], about["split"], about["seq_len"]) == ("web", "train", 16)
    assert Documents.open(str(tmp_path / "all/web/train")).rows == len(joined)


def test_datasets_below_the_output_stay_where_they_are(convert, merge, tmp_path, read_rows):
    one, two = convert("one", "web"), convert("two", "web", numbers=range(100, 130))
    for name, place in (("a", one), ("b", two)):
        shutil.copytree(place / "web/train", tmp_path / "all" / name)
    rows = [read_rows(tmp_path / "all" / name) for name in "ba"]
    status, told, _ = merge(tmp_path / "all/b", tmp_path / "all/a", "--out", tmp_path / "all")
    assert (status, told["copied_bytes"]) == (0, 0)
    joined = read_rows(tmp_path / "all")
    np.testing.assert_array_equal(joined, np.concatenate(rows))
    assert len(documents_of(tmp_path / "all", joined)) == 70
    assert not list((tmp_path / "all").glob("shard.*"))
    assert merge(tmp_path / "all/b", tmp_path / "all/a", "--out", tmp_path / "all")[1]["status"] == "nothing to do"
    status, told, _ = merge(tmp_path / "all/a", "--out", tmp_path / "all")
    assert (status, "may name other rows" in told["error"]["message"]) == (2, True)


def test_what_does_not_belong_together_is_refused(convert, merge, tmp_path):
    one = convert("one", "web")
    wide = convert("wide", "code", seq_len=32)
    whole = convert("whole", "code", options=("--rows", "documents"))
    with ms.MDSWriter(out=str(tmp_path / "foreign/train"), columns={"tokens": "ndarray:int64:16"}) as writer:
        writer.write({"tokens": np.arange(16)})
    shutil.copytree(one, tmp_path / "other")
    index = json.loads((tmp_path / "other/web/train/index.json").read_bytes())
    index["mixstream"]["tokenizer"] |= {"hash": "another"}
    index.pop("mixstream_hashes", None)
    (tmp_path / "other/web/train/index.json").write_text(json.dumps(index))
    web = one / "web/train"
    for arguments, told in [
        ((one, wide), "has the columns"),
        ((one, whole), "has the columns"),
        ((web, tmp_path / "other/web/train"), "has the tokenizer {"),
        ((web, tmp_path / "foreign/train"), "`mixstream reshard --dtype`"),
        ((web, web), "is given twice"),
        ((web, one), "Give URLs of one kind"),
        ((one / "web/train/part-00000",), ""),
        ((one, "--out-of-range"), ""),
    ]:
        status, found, _ = merge(*arguments, "--out", tmp_path / "new")
        assert (status in (1, 2), told in found["error"]["message"]) == (True, True), found
    assert not (tmp_path / "new").exists()
    status, found, _ = merge(one, wide, "--out", one / "new")
    assert status == 2
    (tmp_path / "new").mkdir()
    (tmp_path / "new/thesis.tex").write_text("years of work")
    status, found, _ = merge(web, "--out", tmp_path / "new")
    assert (status, "thesis.tex" in found["error"]["message"]) == (2, True)


def test_documents_of_some_members_only_are_left_out_if_one_says_so(merge, tmp_path, read_rows):
    columns = {"tokens": "ndarray:int64:4"}
    for at in range(2):
        about = {"mixstream": {"documents_files": [], "documents": 3, "seq_len": 4, "row_kind": "packed"} if at else {}}
        with ms.MDSWriter(out=str(tmp_path / f"in{at}"), columns=columns, metadata=about) as writer:
            for row in range(3):
                writer.write({"tokens": np.full(4, at * 3 + row)})
    both = (tmp_path / "in0", tmp_path / "in1", "--out", tmp_path / "all")
    status, told, _ = merge(*both)
    assert (status, "--without-documents" in told["error"]["message"]) == (2, True)
    assert merge(*both, "--without-documents")[0] == 0
    assert read_rows(tmp_path / "all")[:, 0].tolist() == [*range(6)]
    assert not (tmp_path / "all/documents").exists()


def test_shards_of_two_files_are_copied_too(merge, tmp_path):
    for at in range(2):
        with ms.JSONWriter(out=str(tmp_path / f"in{at}"), columns={"n": "int"}) as writer:
            writer.write({"n": at})
    merge(tmp_path / "in0", tmp_path / "in1", "--out", tmp_path / "all")
    assert [path.read_text() for path in sorted((tmp_path / "all").glob("shard.*.json"))] == [
        '{"n": 0}\n',
        '{"n": 1}\n',
    ]
    assert main(["verify", str(tmp_path / "all")]) == 0


def test_killed_between_any_two_writes_it_goes_on_to_the_same_bytes(convert, merge, tmp_path, snapshot, monkeypatch):
    class Killed(BaseException):
        pass

    one, two = convert("one", "web"), convert("two", "web", "code", numbers=range(100, 130))
    arguments = (one, two, "--same-domain", "join", "--workers", 1, "--out")
    merge(*arguments, tmp_path / "whole")
    whole = snapshot(tmp_path / "whole")
    real = OutputJob.write
    for at in range(20):
        left = [at]

        def write(self, name, data, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            real(self, name, data)

        monkeypatch.setattr(OutputJob, "write", write)
        try:
            merge(*arguments, tmp_path / f"out{at}")
        except Killed:
            for place in (tmp_path / f"out{at}").glob("*/*/index.json"):
                assert whole[place.relative_to(tmp_path / f"out{at}").as_posix()] == place.read_bytes()
            monkeypatch.setattr(OutputJob, "write", real)
            merge(*arguments, tmp_path / f"out{at}")
            assert snapshot(tmp_path / f"out{at}") == whole
        else:
            break
    assert at > 4


def test_a_damaged_shard_is_not_copied(convert, merge, tmp_path):
    one = convert("one", "web")
    shard = one / "web/train/part-00000/shard.00000.mds"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    status, told, _ = merge(one, "--out", tmp_path / "all")
    assert (status, told["error"]["type"]) == (1, "ShardCorruptError")
    assert not (tmp_path / "all/web/train/index.json").exists()
