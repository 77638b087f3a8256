"""Caches that the version before a rebuild filled: this version reads them as they are, and fills new ones alike.

tests/data/previous/caches has them, made by the make.py beside; caches.json has the names of all their files. The store
is an S3 server in this process, so that URLs, which caches are bound to, are the same everywhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2s
from pathlib import Path
from typing import Any

import pytest
from bucket_server import BucketServer, Request, bucket_server, failure
from harness import row_ids
from previous import PREVIOUS, stored
from servers import environment

import mixstream as ms

NAMES = ("web", "law")
LIMIT, NOTES = 7000, 5000
"""Bytes of shards and indexes, and of what lies beside and does not count."""

ADDED = (".mixstream-objects", ".mixstream-original")
"""What this version writes beside the files of the version before, which takes no notice of it."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """How a cache is filled.

    Attributes:
        source: the datasets, below `PREVIOUS` as in the store.
        split: of the streams.
        local: whether the cache has a place of its own, or the default one below the temporary directory.
        options: of the dataset.
    """

    source: str = "packed"
    split: str | None = None
    local: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


CACHES = {
    "raw": Cache(source="library", split="train"),
    "unpacked": Cache(),
    "kept": Cache(options={"keep_zip": True, "validate_hash": "xxh64"}),
    "limited": Cache(options={"keep_zip": True, "cache_limit": LIMIT}),
    "default": Cache(local=False),
    "killed": Cache(options={"keep_zip": True, "cache_limit": LIMIT}),
}
PACKED, ZIPS = sorted((PREVIOUS / "packed").rglob("*.zstd")), ("", ".zstd")
WHOLE = ["raw", "unpacked", "kept"]


def upload(server: BucketServer) -> None:
    """Put the datasets into the bucket "previous"."""
    for source in ("library", "packed"):
        for path in (PREVIOUS / source).rglob("*"):
            if path.is_file():
                server.objects[f"previous/{path.relative_to(PREVIOUS).as_posix()}"] = path.read_bytes()


def read(cache: Cache, place: Path, *, url: str = "s3://previous", **options: Any) -> list[list[int]]:
    """Read an epoch through the cache at `place`; return its rows."""
    streams = [
        ms.Stream(
            remote=f"{url}/{cache.source}/{name}",
            local=str(place / name) if cache.local else None,
            split=cache.split,
            name=name,
        )
        for name in NAMES
    ]
    options = {"batch_size": 8, "shuffle": True, "predownload": 16, **cache.options, **options}
    before, tempfile.tempdir = tempfile.tempdir, str(place)
    try:
        with ms.Loader(ms.StreamingDataset(streams=streams, **options), prefetch=0) as loader:
            return [row_ids(batch) for batch in loader]
    finally:
        tempfile.tempdir = before


def names_in(place: Path) -> list[str]:
    """Return the names of all files, and of empty directories with a / behind them, below `place`, without `ADDED`."""
    found = []
    for path in place.rglob("*"):
        name = path.relative_to(place).as_posix().replace(f"mixstream-{os.getuid()}", "mixstream-UID")
        if any(part in ADDED for part in path.parts):
            continue
        if path.is_file():
            found.append(name)
        elif path.is_dir() and not any(path.iterdir()):
            found.append(f"{name}/")
    return sorted(found)


def copied(kind: str, place: Path) -> Path:
    """Return a copy of a stored cache, as its process left it."""
    for name in stored("caches.json")[kind]["names"]:
        path = place / name.replace("mixstream-UID", f"mixstream-{os.getuid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            shutil.copyfile(PREVIOUS / "caches" / kind / name, path)
    for path in place.glob("mixstream-*/"):
        path.chmod(0o700)
    return place


def fetched(server: BucketServer) -> list[str]:
    """Return the names of the shards whose bytes were asked for."""
    asked = {request.path for request in server.requests if request.method == "GET"}
    return sorted({path.split("/", 3)[-1] for path in asked if ".mds" in path})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    """Yield the store."""
    with bucket_server() as server:
        for name, value in environment(server.url).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        upload(server)
        yield server


@pytest.mark.parametrize("kind", WHOLE)
def test_a_cache_of_the_version_before_is_read_without_fetching_a_shard(server, kind, tmp_path):
    place, expected = copied(kind, tmp_path / "cache"), stored("caches.json")[kind]
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*.mds*")}
    assert read(CACHES[kind], place) == expected["rows"]
    assert fetched(server) == []
    assert names_in(place) == expected["names"]
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.mds*")} == before


@pytest.mark.parametrize("kind", [kind for kind in CACHES if kind != "default"])
def test_a_cache_is_filled_with_the_same_names_and_bytes(server, kind, tmp_path):
    expected = stored("caches.json")[kind]
    assert read(CACHES[kind], tmp_path) == expected["rows"]
    if kind in WHOLE:
        assert names_in(tmp_path) == expected["names"]
        for name in expected["names"]:
            if not name.endswith("/"):
                path = tmp_path / name.replace("mixstream-UID", f"mixstream-{os.getuid()}")
                assert path.read_bytes() == (PREVIOUS / "caches" / kind / name).read_bytes(), name
    else:  # which shards are left depends on timing
        assert notes(names_in(tmp_path)) == notes(stored("caches.json")["limited"]["names"])


def notes(names: list[str]) -> list[str]:
    """Return those of `names` that are no shards."""
    return [name for name in names if ".mds" not in name]


def test_a_limited_cache_of_the_version_before_is_gone_on_with(server, tmp_path):
    place, expected = copied("limited", tmp_path / "cache"), stored("caches.json")["limited"]
    there = [name for name in expected["names"] if name.endswith(".mds")]
    assert 0 < len(there) < len([name for name in stored("caches.json")["kept"]["names"] if name.endswith(".mds")])
    assert read(CACHES["limited"], place, cache_limit="1mb") == expected["rows"]
    assert fetched(server)
    assert not {f"{name}.zstd" for name in there} & set(fetched(server))
    place = copied("limited", tmp_path / "other")
    assert read(CACHES["limited"], place) == expected["rows"]
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) <= LIMIT + NOTES


def test_what_a_killed_process_of_the_version_before_left_is_cleared(server, tmp_path):
    place, expected = copied("killed", tmp_path / "cache"), stored("caches.json")["killed"]
    partials = [name for name in expected["names"] if name.endswith(".partial")]
    needs = [name for name in expected["names"] if ".mixstream-needs/" in name]
    assert partials
    assert needs
    there = [name for name in expected["names"] if name.endswith(".mds")]
    assert there
    other = copied("killed", tmp_path / "other")
    assert read(CACHES["killed"], other, cache_limit="1mb") == expected["rows"]  # where nothing has to make room
    assert not {f"{name}.zstd" for name in there} & set(fetched(server))
    assert not [name for name in names_in(other) if name.endswith(".partial")]
    assert read(CACHES["killed"], place) == expected["rows"]
    left = names_in(place)
    assert not [name for name in left if name.endswith(".partial")]
    assert notes(left) == notes(stored("caches.json")["limited"]["names"])


def test_what_lies_in_a_cache_while_it_is_filled_has_the_same_names(server, tmp_path):
    """Processes of both versions may share a cache: each has to know the other's files for what they are."""
    seen: set[str] = set()

    def watch(request: Request) -> None:
        if ".mds" in request.path:
            seen.update(names_in(tmp_path))

    server.odd = watch
    read(CACHES["killed"], tmp_path)
    needs = {name for name in seen if ".mixstream-needs/" in name and not name.endswith("/")}
    assert needs
    assert all(re.fullmatch(rf"law/\.mixstream-needs/{os.getpid()}\.[0-9a-f]{{8}}", name) for name in needs)
    partials = {name for name in seen if "partial" in name}
    assert partials <= {f"{p.parent.name}/.{p.name.removesuffix('.zstd')}{z}.partial" for p in PACKED for z in ZIPS}
    assert {name for name in stored("caches.json")["killed"]["names"] if name.endswith(".partial")} <= partials


@pytest.mark.parametrize("kind", ["raw"])
def test_the_kept_index_is_read_while_the_store_is_away(server, kind, tmp_path):
    place = copied(kind, tmp_path / "cache")
    server.odd = away
    with pytest.warns(RuntimeWarning, match="going on with the copy that was kept"):
        assert read(CACHES[kind], place, download_retry=1) == stored("caches.json")[kind]["rows"]


def away(request: Request) -> Any:
    del request
    return failure(500, "InternalError")


def test_a_cache_of_the_version_before_is_refused_to_other_data(server, tmp_path):
    place = copied("unpacked", tmp_path / "cache")
    with pytest.raises(ms.errors.ConfigError, match="Reused local directory"):
        read(Cache(), place, url=f"{server.url}/previous")


def test_the_default_place_is_named_after_the_url_as_ever(server, tmp_path):
    """Below the temporary directory: mixstream-UID/(hash of the URL)/(hash of the index)."""
    above = tmp_path / f"mixstream-{os.getuid()}"
    url = f"{server.url}/previous"
    read(CACHES["default"], tmp_path, url=url)
    origins = [f"{url}/packed/{name}" for name in NAMES]
    expected = {f"{digest(origin.encode())}/{version_of(Path(origin).name)}" for origin in origins}
    assert {path.parent.relative_to(above).as_posix() for path in above.rglob("index.json")} == expected


def test_a_default_place_that_was_named_after_less_than_the_original_is_not_used(server, tmp_path):
    """The version before took no notice of the endpoint, so the place may have another dataset's shards."""
    place = copied("default", tmp_path / "cache")
    with pytest.warns(RuntimeWarning, match="took no notice of the query, user, account or endpoint.*can be removed"):
        rows = read(CACHES["default"], place)
    assert rows == stored("caches.json")["default"]["rows"]
    assert fetched(server)
    server.requests.clear()
    assert read(CACHES["default"], place) == rows  # and says no more
    assert not fetched(server)


def test_the_default_place_of_packed_local_shards_is_named_after_path_and_time(tmp_path):
    source = Path(os.path.realpath(shutil.copytree(PREVIOUS / "packed", tmp_path / "packed")))
    for name in NAMES:
        os.utime(source / name / "index.json", ns=(time.time_ns(), 1_700_000_000_123_456_789))
    read(CACHES["default"], tmp_path, url=str(tmp_path))
    above = tmp_path / f"mixstream-{os.getuid()}"
    expected = {f"{digest(f'{source / name}:1700000000123456789'.encode())}/{version_of(name)}" for name in NAMES}
    assert {path.parent.relative_to(above).as_posix() for path in above.rglob(".mixstream-origin")} == expected


def version_of(name: str) -> str:
    """Return what stands for the index of a packed dataset."""
    return digest((PREVIOUS / "packed" / name / "index.json").read_bytes())


def digest(data: bytes) -> str:
    """Return 128 bits in hexadecimal."""
    return blake2s(data, digest_size=16).hexdigest()


def test_the_notes_say_which_dataset_it_is():
    for kind, cache in CACHES.items():
        for path in (PREVIOUS / "caches" / kind).rglob(".mixstream-origin"):
            url, _, index = path.read_text().rpartition(" ")
            assert url.startswith(f"s3://previous/{cache.source}/")
            assert index == digest((path.parent / "index.json").read_bytes())
            assert json.loads((path.parent / "index.json").read_text())["version"] == 2
