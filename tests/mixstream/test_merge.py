"""`merge_index`: one index over what several writers wrote; what would be lost or doubled is refused by name."""

import json
import shutil

import pytest

import mixstream as ms
from mixstream.errors import ConfigError, MixstreamError, OutputExistsError, ShardNotFoundError, UnfinishedError


def write(out, xs, columns=None, **options):
    with ms.MDSWriter(columns=columns or {"x": "int"}, out=str(out), size_limit=100, **options) as writer:
        for x in xs:
            writer.write(dict.fromkeys(columns or ["x"], x))


def read(remote, **options):
    dataset = ms.StreamingDataset(remote=str(remote), batch_size=1, **options)
    return [sample["x"] for sample in dataset]


@pytest.fixture
def out(tmp_path):
    for part in range(12):
        write(tmp_path / "out" / str(part), range(part * 3, part * 3 + 3), compression="zstd" if part % 2 else None)
    return tmp_path / "out"


def test_all_rows_of_all_parts_in_the_order_of_their_numbers(out):
    for _ in range(2):  # a second time changes nothing
        ms.merge_index(str(out))
        assert read(out) == list(range(36))
    shards = json.loads((out / "index.json").read_bytes())["shards"]
    assert shards[0]["raw_data"]["basename"] == "0/shard.00000.mds"
    assert (out / "3/index.json").exists()


@pytest.mark.parametrize("form", ["paths", "file urls", "pairs", "nested"])
def test_the_indexes_that_are_named_in_their_order(out, tmp_path, form):
    at = out
    if form == "nested":
        at = out.parent / "above"
        out.rename(at / "a") if (at.mkdir() or True) else None
    place = at / "a" if form == "nested" else out
    urls = [f"{place}/{part}/index.json" for part in (5, 2)]
    urls = [f"file://{url}" for url in urls] if form == "file urls" else urls
    urls = [(url, "") for url in urls] if form == "pairs" else urls
    ms.merge_index(urls, str(at), keep_local=True, download_timeout=60)
    assert read(at) == [15, 16, 17, 6, 7, 8]


def test_a_store(out, s3, tmp_path):
    for path in out.rglob("*.*"):
        s3.put(path.relative_to(out).as_posix(), path.read_bytes())
    ms.merge_index([f"{s3.url}/{part}/index.json" for part in range(12)], s3.url)
    assert read(s3.url, local=str(tmp_path / "cache")) == list(range(36))
    ms.merge_index((str(tmp_path / "local"), s3.url))
    assert (tmp_path / "local/index.json").read_bytes() == s3.get("index.json")


def damaged(out, how):
    if how == "unfinished":
        (out / "4/index.json").unlink()
    elif how == "lost":
        (out / "4/shard.00000.mds").unlink()
    elif how == "columns":
        write(out / "x", [1], {"x": "int", "y": "int"})
    elif how == "dtype":
        write(out / "x", [1], {"x": "int32"})
    elif how == "own":
        shutil.copy(out / "4/shard.00000.mds", out)
    elif how == "writing":
        return ms.MDSWriter(columns={"x": "int"}, out=out / "new")
    return None


@pytest.mark.parametrize(
    ("how", "kind", "match"),
    [
        ("unfinished", UnfinishedError, r"/4: unfinished, it has shard\.00000\.mds but no index\.json"),
        ("writing", UnfinishedError, r"/new: unfinished"),
        ("lost", ShardNotFoundError, r"4/shard\.00000\.mds: the index of 4 names it"),
        ("columns", ConfigError, r"x has the columns .*, and 0 has"),
        ("dtype", ConfigError, r"x has the columns .*int32"),
        ("own", OutputExistsError, r"shard of its own"),
    ],
)
def test_what_would_be_lost_or_does_not_stack_is_refused(out, how, kind, match):
    writer = damaged(out, how)
    with pytest.raises(kind, match=match):
        ms.merge_index(str(out))
    assert not (out / "index.json").exists()
    if writer is not None:
        writer.cancel_future_jobs()


@pytest.mark.parametrize(
    ("urls", "match"),
    [
        (["1/index.json", "2/index.json", "1/index.json"], "'1' is given twice"),
        (["../elsewhere/index.json"], "does not lie below"),
        (["99/index.json"], "it is not there"),
        ([], "is empty"),
    ],
)
def test_lists_that_do_not_fit(out, urls, match):
    with pytest.raises(MixstreamError, match=match):
        ms.merge_index([str((out / url).resolve()) for url in urls], str(out))
    assert not (out / "index.json").exists()
    with pytest.raises(ConfigError, match="merge_index takes"):
        ms.merge_index(str(out), keep=True)
    with pytest.raises(UnfinishedError, match="there is no dataset below it"):
        ms.merge_index(str(out / "1"))


@pytest.mark.parametrize(
    ("parts", "urls", "match"),
    [
        (["a/0", "a/1"], ["a/index.json", "a/0/index.json"], "'a/0/shard.00000.mds', which another file"),
        (["A", "a"], None, "which is the same on some systems.*rename its directory"),
        (["a\\b"], None, "without '..', backslash"),
        (["a\nb"], None, "control characters"),
    ],
)
def test_an_index_that_no_reader_would_take_is_not_written(tmp_path, parts, urls, match):
    """It took the place of one that was well."""
    write(tmp_path / "out/9", [7])
    for at, part in enumerate(parts):
        write(tmp_path / "out" / part, [at])
    if "a/0" in parts:
        ms.merge_index(str(tmp_path / "out/a"))
    ms.merge_index([f"{tmp_path}/out/9/index.json"], str(tmp_path / "out"))
    named = () if urls is None else ([f"{tmp_path}/out/{url}" for url in urls],)
    with pytest.raises(ConfigError, match=rf"(?s)nothing was written.*{match}"):
        ms.merge_index(*named, str(tmp_path / "out"))
    assert read(tmp_path / "out") == [7]


@pytest.mark.parametrize("places", [0, 1, 3])
def test_a_pair_of_places_has_two(out, places):
    with pytest.raises(ConfigError, match=r"give a directory, a URL, or a tuple \(local, remote\)"):
        ms.merge_index([f"{out}/0/index.json", f"{out}/1/index.json"], (str(out),) * places)


def test_lists_that_are_none(out):
    with pytest.raises(ConfigError, match=r"keep_local is '/.*a list"):
        ms.merge_index((f"{out}/0/index.json", f"{out}/1/index.json"), str(out))
    with pytest.raises(ConfigError, match=r"index_file_urls is '/.*give a list"):
        ms.merge_index(index_file_urls=f"{out}/0/index.json", out=str(out))


def test_metadata_stands_in_the_index_beside_the_shards(tmp_path) -> None:
    for part in range(2):
        with ms.MDSWriter(columns={"x": "int"}, out=str(tmp_path / str(part)), metadata={"mine": part}) as writer:
            writer.write({"x": part})
    ms.merge_index(str(tmp_path), metadata={"mine": [0, 1]})
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert (index["mine"], len(index["shards"])) == ([0, 1], 2)
    for wrong in ({"shards": []}, {"x": {1, 2}}, "text"):
        with pytest.raises(ConfigError, match="metadata"):
            ms.merge_index(str(tmp_path), metadata=wrong)
    assert json.loads((tmp_path / "index.json").read_bytes()) == index
