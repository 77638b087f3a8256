"""`kill -9` while downloading, unpacking, evicting, publishing: the next start finds what is right, and no rest."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import cache_crash
import pytest
from cache_world import World


def crashed(root: Path, kind: str) -> str:
    """Return what `cache_crash.py` printed, when all went as it should."""
    ran = subprocess.run(
        [sys.executable, cache_crash.__file__, str(root), kind],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("kind", ["raw", "packed", "parts"])
def test_killed_before_every_change_to_the_disk(tmp_path, kind):
    assert int(crashed(tmp_path, kind).split()[0]) > 30


def test_a_child_does_not_keep_the_locks_of_its_parent(tmp_path):
    crashed(tmp_path, "orphan")


def test_another_process_takes_over_from_one_that_is_killed(tmp_path):
    world = World(tmp_path, shards=1, pause=30.0).build()
    slow = subprocess.Popen(world.job(sequence=[0]))
    partial = world.local / f".{world.name(0)}.partial"
    try:
        while not partial.exists():
            assert slow.poll() is None
            time.sleep(0.01)
    finally:
        slow.send_signal(signal.SIGKILL)
        slow.wait()
    assert partial.exists()
    assert World(tmp_path, shards=1).read(World(tmp_path, shards=1).files(), 0)
    assert not partial.exists()
