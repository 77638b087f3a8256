"""Sources in a store: which objects a URL names, what is read of them, and what happens when the store goes wrong."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from directory_server import directory_server  # pyright: ignore[reportMissingImports]
from faults import (  # pyright: ignore[reportMissingImports]
    before,
    ignore_range,
    refuse_with,
    reset,
    truncate,
)
from servers import PUBLIC  # pyright: ignore[reportMissingImports]

from mixstream.errors import ConfigError, StoreAccessError, StoreFaultError
from mixstream.storage import Retry
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files import object_stream, stored_bytes
from mixstream_tools.convert.files import source_files as files
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import SourceError, open_random, open_slice
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.parts import plan_parts
from mixstream_tools.convert.readers import jsonl
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.sources.sources import find_sources
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer

TREE = {
    "web/b.jsonl": "".join(json.dumps({"text": f"page {at} " * 9}) + "\n" for at in range(300)),
    "web/a/z.jsonl.gz": gzip.compress(b'{"text": "packed"}\n' * 50, mtime=0),
    "web/a.jsonl": '{"text": "x"}\n',
    "web/README.md": "about",
    "web/.hidden/x.jsonl": '{"text": "x"}\n',
    "web/_SUCCESS": "",
    "code/x.py": "x = 1\n" * 99,
}


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(stored_bytes, "RETRY", Retry(attempts=3, timeout=20, unit=0.001, knobs=("", "")))


@pytest.fixture
def tree(write_tree) -> Path:
    return write_tree(TREE)


@pytest.fixture
def bucket(s3, tree):
    s3.upload(tree)
    return s3


def found(out: Path, *sources, by_key=False, url=None, fields=None, **choice):
    options = {"by_key": by_key, "url": url, "fields": fields}
    return find_sources(list(map(str, sources)), out=out, choice=Choice(**choice), **options)


def names(corpus) -> dict[str, list[str]]:
    return {group.name: [file.name for file in group.files] for group in corpus.groups}


def convert(out: Path, *sources, **options):
    fixed = {"tokenizer": describe_tokenizer("bytes"), "fields": Fields(text="text"), "seq_len": 16, "part_bytes": 9000}
    return run_conversion(list(map(str, sources)), out=out, recipe=Recipe(**{**fixed, **options}), workers=1)


def shards(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.mds"))}


# Which objects a URL names


@pytest.mark.parametrize(
    "sources",
    [["."], ["web", "code"], ["web/*.jsonl"], ["web/**/*.jsonl*"], ["w*"], ["n=web/b.jsonl"], ["n=web/[ab]*"]],
)
def test_a_url_names_what_the_same_path_names(bucket, tree, tmp_path, sources, monkeypatch):
    def both(source):
        name, sign, path = source.rpartition("=")
        below = "" if path == "." else f"/{path}"
        return f"{name}{sign}{bucket.url}{below}", f"{name}{sign}{tree}{below}"

    stored, local = (found(tmp_path / "out", *each, by_key=False) for each in zip(*map(both, sources)))
    assert names(stored) == names(local)
    assert stored.skipped == local.skipped
    kinds = [[(file.size, file.format, file.compression) for file in group.files] for group in stored.groups]
    assert kinds == [[(file.size, file.format, file.compression) for file in group.files] for group in local.groups]


def test_include_and_exclude_hold_for_objects(bucket, tmp_path):
    assert names(found(tmp_path, f"{bucket.url}/web", include=("*.jsonl",), exclude=("a.*",))) == {"web": ["b.jsonl"]}


def test_an_empty_mark_of_a_directory_is_no_file(s3, tmp_path):
    s3.put("web/a.txt", b"text")
    assert names(found(tmp_path, f"{s3.url}/web/")) == names(found(tmp_path, f"{s3.url}/web")) == {"web": ["a.txt"]}


def test_a_url_that_names_nothing_is_refused_and_so_is_a_pattern(s3, tmp_path):
    with pytest.raises(ConfigError, match=r"SRC s3://mix/\w+/none: there is no object of this name, and none below"):
        found(tmp_path, f"{s3.url}/none")
    with pytest.raises(ConfigError, match=r"no object below .* matches this pattern"):
        found(tmp_path, f"{s3.url}/*.txt")
    with pytest.raises(ConfigError, match="cannot stand for a bucket"):
        found(tmp_path, "s3://*/x")


def test_the_output_cannot_lie_in_its_source(bucket, tmp_path):
    with pytest.raises(ConfigError, match="would be read as a source"):
        found(tmp_path, f"{bucket.url}/web", url=f"{bucket.url}//web/out")
    assert found(tmp_path, f"{bucket.url}/web", url=f"{bucket.url}/web-out").groups


def test_objects_and_local_files_may_be_one_domain_and_an_object_is_read_once(bucket, tree, tmp_path):
    corpus = found(tmp_path, f"web={bucket.url}/web", f"web={bucket.url}/web/b.jsonl", f"web={tree}/web/b.jsonl")
    assert names(corpus) == {"web": ["a/z.jsonl.gz", "a.jsonl", "b.jsonl", "b.jsonl"]}
    assert corpus.skipped["named twice, and read once", ""] == 1
    with pytest.raises(ConfigError, match="would be read twice"):
        found(tmp_path, f"{bucket.url}/web", f"x={bucket.url}/web/b.jsonl")


# What comes out


def test_a_store_gives_the_shards_that_a_directory_gives_and_a_restart_does_nothing(bucket, tree, tmp_path):
    told = convert(tmp_path / "stored", bucket.url)
    convert(tmp_path / "local", tree)
    assert shards(tmp_path / "stored") == shards(tmp_path / "local") != {}
    assert told["status"] == "converted"
    assert convert(tmp_path / "stored", bucket.url)["status"] == "nothing to do"
    bucket.put("code/x.py", b"y = 2\n" * 99)  # of the same size
    with pytest.raises(Exception, match="overwrite"):
        convert(tmp_path / "stored", bucket.url)


def test_processes_read_from_the_store(bucket, tree, tmp_path, convert_json):
    status, told, _ = convert_json(bucket.url, "--out", tmp_path / "out", "--seq-len", "16", "--workers", "2")
    assert (status, told["status"]) == (0, "converted")
    assert convert_json(tree, "--out", tmp_path / "local", "--seq-len", "16")[0] == 0
    assert shards(tmp_path / "out") == shards(tmp_path / "local")


def test_a_web_server_gives_single_files_and_its_credentials_are_never_told(tree, tmp_path, capfd):
    (tree / "web/c d.jsonl").write_text('{"text": "' + "y" * 99 + '"}\n{"no": 1}\n')
    with directory_server(tree / "web", head=False) as url:
        secret = url.replace("://", "://user:hush@")
        convert(tmp_path / "out", f"{secret}/b.jsonl?token=hush", f"packed={secret}/a/z.jsonl.gz?token=hush")
        convert(tmp_path / "local", tree / "web/b.jsonl", f"packed={tree}/web/a/z.jsonl.gz")
        assert shards(tmp_path / "out") == shards(tmp_path / "local")
        with pytest.raises(SourceError) as wrong:
            convert(tmp_path / "bad", f"{secret}/c%20d.jsonl?token=hush")
        assert f"{url}/c d.jsonl, line 2: no field 'text'" in str(wrong.value)
        with pytest.raises(ConfigError, match=r"none\.txt: there is no object"):
            convert(tmp_path / "bad", f"{secret}/none.txt?token=hush")
        with pytest.raises(ConfigError, match="cannot list a directory"):
            convert(tmp_path / "bad", f"{secret}/")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hush" not in written
    assert "hush" not in "".join(capfd.readouterr())
    assert "hush" not in str(wrong.value) + "".join(wrong.value.__notes__)


def test_fsspec_file_systems_are_sources(tmp_path, tree):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    try:
        for name, content in TREE.items():
            memory.pipe_file(f"{root}/{name}", content.encode() if isinstance(content, str) else content)
        convert(tmp_path / "out", f"memory:/{root}")
    finally:
        memory.rm(root, recursive=True)
    convert(tmp_path / "local", tree)
    assert shards(tmp_path / "out") == shards(tmp_path / "local")


# How objects are read


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(object_stream, "_FIRST", 1000)
    monkeypatch.setattr(object_stream, "_LARGEST", 4000)


def one_file(s3, tmp_path, data: bytes, name: str = "big.txt"):
    s3.put(name, data)
    (group,) = found(tmp_path, f"{s3.url}/{name}").groups
    return group.files[0]


DATA = random.Random(1).randbytes(30_000).hex().encode()


def test_an_object_is_read_like_a_file_at_any_byte(small, s3, tmp_path):
    file = one_file(s3, tmp_path, DATA)
    taken = Counter()
    dice, model = random.Random(7), io.BytesIO(DATA)
    with open_random(file, lambda size: taken.update(bytes=size)) as stream:
        for _ in range(40):
            if dice.random() < 0.5:
                to = dice.choice([(dice.randrange(60_001), 0), (-dice.randrange(60_001), 2)])
                assert stream.seek(*to) == model.seek(*to)
            size = dice.choice([0, 1, 700, 5000, -1])
            assert stream.read(size) == model.read(size)
        assert stream.tell() == model.tell()
        with pytest.raises(ValueError, match="before its beginning"):
            stream.raw.seek(-1)
    assert taken["bytes"] > 0


def test_a_file_is_read_in_ranges_that_grow_and_no_byte_twice(small, s3, tmp_path, proxy):
    file = one_file(s3, tmp_path, DATA)
    sent = proxy.sent("*/big.txt")
    with open_slice(file.whole) as stream:
        assert stream.read() == DATA
    assert proxy.sent("*/big.txt") - sent == len(DATA)
    ranges = [seen.range for seen in proxy.seen if seen.range and seen.path.endswith("big.txt")][-20:]
    widths = {int(end) - int(begin) + 1 for begin, end in (each.removeprefix("bytes=").split("-") for each in ranges)}
    assert max(widths) == 4000


def test_a_start_asks_for_each_object_twice_and_parts_do_not_read_each_others_bytes(s3, tmp_path, proxy):
    line = json.dumps({"text": "word " * 40}) + "\n"
    for at in range(4):
        s3.put(f"web/{at}.jsonl", line.encode() * 2000)
    s3.put("web/packed.jsonl.gz", gzip.compress(line.encode() * 9))
    corpus = found(tmp_path, f"{s3.url}/web", fields=Fields(text="text"))
    assert (proxy.count("*/web/*", "HEAD"), proxy.count("*/web/*")) == (5, 5)
    sent = proxy.sent("*/web/*")
    for part in plan_parts(corpus.groups[0], 100_000):
        for piece in part.slices:
            for _ in jsonl.read_jsonl(piece, {"text"}, pytest.fail, lambda size: None):
                pass
    size = corpus.groups[0].bytes
    assert size <= proxy.sent("*/web/*") - sent < 2.8 * size  # 128 kB behind each 100 kB, and no more


@pytest.mark.parametrize("fault", [reset(), reset(500), truncate(700), refuse_with(503, "SlowDown")])
def test_a_transient_error_in_mid_file_is_survived(small, s3, tmp_path, proxy, fault):
    file = one_file(s3, tmp_path, DATA)
    rule = proxy.when(fault, path="*/big.txt", skip=3, times=2)
    with open_slice(file.whole) as stream:
        assert stream.read() == DATA
    assert rule.acted == 2


def test_an_object_that_changes_or_vanishes_while_it_is_read_is_an_error(small, s3, tmp_path, proxy):
    file = one_file(s3, tmp_path, DATA)
    proxy.when(before(lambda: s3.put("big.txt", DATA[::-1])), path="*/big.txt", skip=3, times=1)
    with pytest.raises(SourceError, match="another version of its 60000 bytes"), open_slice(file.whole) as stream:
        stream.read()
    with open_random(file) as stream:
        stream.seek(5000)  # the head may still be held, of the version that was listed
        with pytest.raises(SourceError, match="changed"):
            stream.read(1)
    s3.remove("big.txt")
    with pytest.raises(SourceError, match="is gone now"), open_slice(file.whole) as stream:
        stream.read()


def test_a_refusal_and_a_server_without_ranges_are_named(s3, tmp_path, proxy):
    file = one_file(s3, tmp_path, DATA)
    refused = proxy.when(refuse_with(403, "AccessDenied"), path="*/big.txt")
    with pytest.raises(StoreAccessError, match=r"big\.txt"), open_slice(file.whole) as stream:
        stream.read()
    assert refused.acted
    proxy.clear()
    public = replace(s3, bucket=PUBLIC)
    public.put("x.txt", DATA)
    proxy.when(ignore_range())
    with pytest.raises(SourceError, match=r"no range requests.*curl -fL URL \| mixstream convert NAME=-"):
        found(tmp_path, f"{proxy.endpoint}/{PUBLIC}/{s3.prefix}/x.txt")


def test_what_is_finished_stays_when_the_store_fails_in_between(s3, tmp_path, proxy):
    tree = {f"web/{at}.txt": f"{at} text " * 900 for at in range(6)}
    for name, content in tree.items():
        s3.put(name, content.encode())
    proxy.when(reset(), path="*/web/4.txt", skip=1)  # after it was looked at
    with pytest.raises(StoreFaultError) as fault:
        convert(tmp_path / "out", f"{s3.url}/web")
    assert any("Finished parts are kept (4 of 6)" in note for note in fault.value.__notes__)
    proxy.clear()
    before = proxy.sent("*/web/*")
    assert convert(tmp_path / "out", f"{s3.url}/web")["converted_bytes"] == 2 * len(tree["web/0.txt"])
    assert proxy.sent("*/web/*") - before < 9 * len(tree["web/0.txt"])  # all are looked at, two are read
    for name, content in tree.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    convert(tmp_path / "local", tmp_path / "web")
    assert shards(tmp_path / "out") == shards(tmp_path / "local") != {}


def test_far_inside_an_object_a_bad_line_is_counted_from_its_slice(bucket, tmp_path, monkeypatch):
    lines = TREE["web/b.jsonl"].splitlines(keepends=True)
    bucket.put("web/b.jsonl", "".join([*lines[:250], "{}\n", *lines[250:]]).encode())
    with pytest.raises(SourceError, match=r"/web/b\.jsonl, line 251: no field 'text'"):
        convert(tmp_path / "out", f"{bucket.url}/web/b.jsonl")
    monkeypatch.setattr(files, "_COUNTED", 1000)
    jsonl._lines_before.cache_clear()
    with pytest.raises(SourceError, match=r"/web/b\.jsonl, line \d+ of those from byte \d+ on: no field 'text'"):
        convert(tmp_path / "out", f"{bucket.url}/web/b.jsonl")


def test_an_object_with_separators_is_cut_as_a_file_is(s3, tmp_path):
    data = "\n\n".join(f"{at} words and words " * 20 for at in range(200)).encode()
    s3.put("a.txt", data)
    (tmp_path / "a.txt").write_bytes(data)
    options = {"fields": Fields(text="text", separator="\n\n")}
    told = convert(tmp_path / "out", f"{s3.url}/a.txt", **options)
    convert(tmp_path / "local", tmp_path / "a.txt", **options)
    assert told["domains"]["a"]["train"]["documents"] == 200
    assert shards(tmp_path / "out") == shards(tmp_path / "local")
    assert len(shards(tmp_path / "out")) > 3
