"""A job on a cache that is killed before everything that it does to the disk, and at random instants.

Started by `storage/cache/test_crash.py` as a process of one thread, so that it can fork: `cache_crash.py ROOT KIND`.
Every life is a forked child that dies by SIGKILL; after each, what is on disk is looked at as the next start would.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache_world import World, content

from mixstream.storage import DatasetFiles
from mixstream.storage.cache.locks import parent_of, try_lock

LIMIT_SHARDS = 2
CALLS = ("open", "mkdir", "rename", "unlink", "ftruncate", "posix_fallocate", "pwrite", "write")  # what changes a disk


def files_of(world: World) -> DatasetFiles:
    limit = LIMIT_SHARDS * (world.size + (world.packed_size if world.packed else 0)) + 17 + 9 * world.parts
    return world.files(limit=limit, keep_compressed=world.packed)


def live(world: World) -> None:
    """Fetch, unpack, evict and renew, as a job does."""
    files = files_of(world)
    if world.parts:
        assert files.companion("corpus.idx", 9).tobytes() == b"companion"
    files.cache_limit.announce([files.path(world.name(1))], [1.0])
    for number in (0, 1, 2):
        assert world.read(files, number)
    damaged = world.local / world.name(2)
    damaged.write_bytes(b"!" * world.size)
    assert world.read(files_of(world), 2)


def dies(act: Callable[[], None], after: float | None = None) -> bool:
    """Run `act` in a child; return whether it was killed, by itself or by us after some seconds."""
    if not (child := os.fork()):
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the job failed by itself"
    return os.WIFSIGNALED(status)


def killed_at(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Return `act`, killed before the change number `number` that it makes to the disk."""
    left, opens = number, os.open

    def wrapped(call: Any) -> Any:
        def counted(*args: Any, **kw: Any) -> Any:
            nonlocal left
            left -= call is not opens or bool(args[1] & os.O_CREAT)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kw)

        return counted

    def run() -> None:
        for name in CALLS:
            setattr(os, name, wrapped(getattr(os, name)))
        act()

    return run


def look(world: World, when: str) -> None:
    """See that nothing wrong has a name, that the next start removes what is half, and that it gets on."""
    for number in range(world.shards):
        path = world.local / world.name(number)
        # The job itself damages shard 2.
        assert not path.exists() or number == 2 or path.read_bytes() == content(number, world.size), f"{when}: {path}"
    files = files_of(world)
    if world.parts:
        assert files.companion("corpus.idx", 9).tobytes() == b"companion", when
    left = [path for path in world.local.rglob(".*.partial") if path.name != ".index.json.partial"]
    assert not left, f"{when}: {left} left"
    for number in range(world.shards):
        assert world.read(files, number), when
    assert files.cache_limit.usage() <= (files.cache_limit.limit or 0), when
    known = {*world.names, *(f"{name}.z" for name in world.names), "corpus.idx.whole"}
    assert world.on_disk() <= known, f"{when}: {world.on_disk() - known}"
    needs = world.local / ".mixstream-needs"
    assert not needs.exists() or not list(needs.iterdir()), when


def orphan(world: World) -> None:
    """See that the lock of a process that is killed is free, though a child of it lives on."""
    world.local.mkdir()

    def hold() -> None:
        with parent_of(world.local, "x") as (parent, leaf):
            assert try_lock(parent, leaf) is not None
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        (world.local / "child").write_text(str(os.getpid()))
        time.sleep(60)

    assert dies(hold)
    while not (child := world.local / "child").exists() or not child.read_text():
        time.sleep(0.01)
    try:
        with parent_of(world.local, "x") as (parent, leaf):
            assert try_lock(parent, leaf) is not None
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)


def main(root: Path, kind: str) -> None:
    if kind == "orphan":
        orphan(World(root))
        return
    packed, parts, sub = kind == "packed", kind == "parts", "" if kind == "raw" else "00/"
    world = World(root, shards=3, size=3000, packed=packed, parts=parts, sub=sub).build()
    number = 0
    while True:
        number += 4 if parts else 1  # of most of its code, "raw" has shown the same
        shutil.rmtree(world.local, ignore_errors=True)
        if not dies(killed_at(number, lambda: live(world))):
            break
        look(world, f"killed before change {number}")
    sys.stdout.write(f"{number - 1} changes\n")
    chance = random.Random(0)
    shutil.rmtree(world.local, ignore_errors=True)
    world = World(root, shards=3, size=2_000_000, packed=packed, parts=parts, sub=sub, check=False).build()
    for _ in range(2 if parts else 6):
        after = chance.uniform(0.0, 0.03)
        dies(lambda: [live(world) for _ in range(100)], after)
        look(world, f"killed after {after} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
