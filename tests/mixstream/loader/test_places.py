"""Relative paths are of the directory in which they were given, wherever the process goes afterwards."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import row_ids, write_tokens
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError

ROWS = list(range(100, 160))


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a packed dataset, in which the process is, and one that it may go to."""
    write_tokens(tmp_path / "there/data/web", ROWS, compression="zstd")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def away(there: Path) -> None:
    os.chdir(there.parent / "elsewhere")


def tokens(batch: Any) -> list[int]:
    return sorted(row_ids(batch))


@pytest.mark.parametrize("when", ["stream", "dataset", "batch"])
@pytest.mark.parametrize("local", ["cache", "./cache", Path("cache")])
def test_a_loader_reads_on_after_a_change_of_directory(there, when, local):
    stream = ms.Stream(remote="data/web", local=local)
    if when == "stream":
        away(there)
    dataset = ms.StreamingDataset(streams=[stream], batch_size=6)
    if when == "dataset":
        away(there)
    found: list[int] = []
    with ms.Loader(dataset, prefetch=0, log=None) as loader:
        for batch in loader:
            away(there)
            found += tokens(batch)
    assert sorted(found) == ROWS
    assert (there / "cache/index.json").exists() or list((there / "cache").glob("*.mds"))
    assert list((there.parent / "elsewhere").iterdir()) == []
    assert dataset.streams[0].name == "web"


def test_names_and_so_the_order_of_rows_do_not_depend_on_the_directory(there):
    for number in (1, 2):
        write_tokens(there / f"v{number}/web", range(10))
    streams = [ms.Stream(remote=f"v{number}/web") for number in (1, 2)]
    away(there)
    assert ms.StreamingDataset(streams=streams, batch_size=2).domain_names == ["v1/web", "v2/web"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_on_after_a_change_of_directory(warm_spawn, there, method):
    dataset = ms.StreamingDataset(remote="data/web", local="cache", batch_size=6)
    away(there)
    context = multiprocessing.get_context(method)
    loader = DataLoader(dataset, batch_size=6, num_workers=1, multiprocessing_context=context)
    assert sorted(token for batch in loader for token in tokens(batch)) == ROWS
    assert list((there.parent / "elsewhere").iterdir()) == []


def test_a_writer_and_a_log_stay_where_they_were_given(there):
    with ms.MDSWriter(out="new", columns={"x": "int"}, size_limit=100) as writer:
        away(there)
        for number in range(50):
            writer.write({"x": number})
    assert (there / "new/index.json").exists()
    os.chdir(there)
    with ms.MDSWriter(out=("one", "two"), columns={"x": "int"}, keep_local=True) as writer:
        away(there)
        writer.write({"x": 1})
    assert (there / "one/index.json").exists()
    assert (there / "two/index.json").exists()
    os.chdir(there)
    dataset = ms.StreamingDataset(remote="data/web", batch_size=6, mixer=ms.mixers.ADO())
    with ms.Loader(dataset, log="log", prefetch=0) as loader:
        away(there)
        batch = next(iter(loader))
        loader.report(batch, torch.zeros(6))
    assert (there / "log/mixture.jsonl").exists()
    assert list((there.parent / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["remote", "local"])
@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize("make", [ms.Stream, ms.StreamingDataset])
def test_an_empty_place_is_refused(make, name, value):
    with pytest.raises(ConfigError, match=f"{name}=.* is empty"):
        make(**{"remote": "s3://bucket/web", name: value})


@pytest.mark.parametrize("out", ["", " ", ("", "s3://bucket/web"), ("here", "")])
def test_an_empty_output_is_refused(out):
    with pytest.raises(ConfigError, match="give a directory"):
        ms.MDSWriter(out=out, columns={"x": "int"})


def test_the_home_directory_and_this_directory_may_be_named(there, monkeypatch):
    monkeypatch.setenv("HOME", str(there))
    assert len(ms.StreamingDataset(remote="~/data/web", local="~/cache")[:]) == len(ROWS)
    assert list((there / "cache").glob("*.mds"))
    os.chdir(there / "data/web")
    stream = ms.Stream(remote=".", local="../../other", name="web")
    away(there)
    assert len(ms.StreamingDataset(streams=[stream])[:]) == len(ROWS)
    assert list((there / "other").glob("*.mds"))
