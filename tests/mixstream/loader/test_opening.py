"""In which threads the indexes of streams are read."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mixstream as ms


@pytest.fixture
def streams(tmp_path: Path) -> list[ms.Stream]:
    for name in "abcde":
        with ms.MDSWriter(columns={"x": "ndarray:uint16:4"}, out=str(tmp_path / name)) as writer:
            for _ in range(8):
                writer.write({"x": np.zeros(4, np.uint16)})
    return [ms.Stream(local=str(tmp_path / name)) for name in "abcde"]


def test_streams_on_a_local_disk_need_no_threads(streams: list[ms.Stream], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("mixstream.loader.opening.ThreadPoolExecutor", refuse)
    monkeypatch.setattr("mixstream.loader.opening._LONG", 60.0)  # however slow this machine is
    assert len(ms.StreamingDataset(streams=streams, batch_size=4)) == 40


@pytest.mark.parametrize("waits", [True, False])
def test_streams_that_are_waited_for_are_opened_in_threads(
    streams: list[ms.Stream], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: bool
) -> None:
    """Since their disk is slow, or what they are read from is a store."""
    opened, inner = dict[str, str](), ms.Stream.open

    def open_(self: ms.Stream, **options: Any) -> Any:
        opened[str(self.name)] = threading.current_thread().name
        time.sleep(0.02 * waits)
        return inner(self, **options)

    monkeypatch.setattr(ms.Stream, "open", open_)
    monkeypatch.setattr("mixstream.loader.opening._LONG", 0.01 if waits else 60.0)
    monkeypatch.setattr("mixstream.loader.opening._WAITS", 0)
    if not waits:
        monkeypatch.setattr("mixstream.loader.opening.is_local", lambda url: False)
        streams = [ms.Stream(remote=str(tmp_path / name)) for name in "abcde"]
    dataset = ms.StreamingDataset(streams=streams, batch_size=4)
    assert [domain.name for domain in dataset.domains.listed] == list("abcde")
    here = [name for name in "abcde" if opened[name] == threading.current_thread().name]
    assert here == (["a"] if waits else [])
    assert all(opened[name].startswith("mixstream-open") for name in "abcde" if name not in here)
