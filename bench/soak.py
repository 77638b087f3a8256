"""Some minutes of everything at once: two processes, one tight cache, a store that fails at random, kill -9.

    python bench/soak.py [--minutes 3] [--seed 0]

A real S3 server (SeaweedFS, loopback) behind a proxy that resets, truncates, corrupts, stalls, throttles and refuses at
random. Two ranks of one run read epoch after epoch through one cache directory that holds a third of the data; now and
then one of them is killed with SIGKILL in whatever it is doing, and goes on from its last state. Every batch that was
handed out is compared with the batch that an undisturbed reader of the local files gets; the cache is measured all the
while. It fails if one row differs or is missing, or if the cache exceeds its limit by more than one shard.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import mixstream as ms

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/mixstream"))

from fault_proxy import FaultProxy  # pyright: ignore[reportMissingImports] - the path is set above
from faults import (  # pyright: ignore[reportMissingImports]
    corrupt,
    delay,
    ignore_range,
    refuse_with,
    reset,
    stall,
    trickle,
    truncate,
)
from servers import environment, seaweed  # pyright: ignore[reportMissingImports]
from table import Table

WIDTH, SHARD = 512, 1 << 18
DOMAINS = {"web": (9000, None), "code": (4000, "zstd"), "law": (1500, None)}
BATCH, RANKS = 8, 2


def write(root: Path) -> None:
    """Write the domains, one of them compressed; every row says who it is."""
    rng = np.random.default_rng(0)
    for domain, (samples, compression) in DOMAINS.items():
        columns, hashes = {"tokens": f"ndarray:uint16:{WIDTH}"}, ["xxh3_64"]
        options: dict[str, Any] = {"compression": compression, "hashes": hashes, "size_limit": SHARD}
        with ms.MDSWriter(columns=columns, out=str(root / domain), **options) as writer:
            for _ in range(samples):
                writer.write({"tokens": rng.integers(0, 1 << 16, WIDTH).astype(np.uint16)})


def loader_of(root: str, rank: int, **options: Any) -> ms.Loader:
    """Return a rank's loader over the domains below `root`."""
    local = options.pop("local", None)
    streams = [ms.Stream(remote=f"{root}/{name}", local=f"{local}/{name}" if local else None) for name in DOMAINS]
    dataset = ms.StreamingDataset(
        streams=streams,
        batch_size=BATCH,
        shuffle=True,
        shuffle_block_size=1000,
        validate_hash="xxh3_64",
        rank=rank,
        world_size=RANKS,
        **options,
    )
    return ms.Loader(dataset)


def digest(batch: Any) -> str:
    """Return a short hash of a batch's bytes."""
    import hashlib

    return hashlib.sha256(batch["tokens"].numpy().tobytes()).hexdigest()[:16]


def read_on(settings: dict[str, Any]) -> None:
    """Read until killed, from the state in a file if it is there; one line per batch, and the state after each."""
    state = Path(settings["state"])
    loader = loader_of(settings["root"], settings["rank"], **settings["options"])
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
    with Path(settings["log"]).open("a", buffering=1) as log:
        while True:
            for batch in loader:
                log.write(f"{batch.step} {digest(batch)}\n")
                aside = state.with_suffix(".new")
                aside.write_text(json.dumps(loader.state_dict()))
                aside.replace(state)


class Sampler:
    """Measures the cache until it is stopped: the sum of all sizes, partial files included."""

    def __init__(self, directory: Path) -> None:
        self.peak, self.samples = 0, 0
        self._directory, self._stop = directory, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            total = 0
            for folder, _, names in os.walk(self._directory):
                for name in names:
                    try:
                        total += os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118 - many and often
                    except FileNotFoundError:
                        continue
            self.peak, self.samples = max(self.peak, total), self.samples + 1

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()


def misbehave(proxy: FaultProxy, seed: int) -> None:
    """Let the store fail at random; about one request in five goes wrong in one way or another."""
    faults = [
        (reset(after=1000), 0.04),
        (reset(), 0.02),
        (truncate(after=5000), 0.03),
        (corrupt(at=-5), 0.02),
        (stall(after=2000, seconds=30), 0.01),
        (trickle(400_000), 0.02),
        (delay(0.3), 0.03),
        (refuse_with(503, "SlowDown", retry_after=1), 0.03),
        (refuse_with(500, "InternalError"), 0.02),
        (ignore_range(), 0.01),
    ]
    for number, (action, chance) in enumerate(faults):
        proxy.when(action, path="*.mds*", chance=chance, seed=1000 * seed + number)


def main() -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        read_on(json.loads(arguments.child))
        return 0
    with ExitStack() as stack:
        return soak(stack, arguments.minutes, arguments.seed)


def soak(stack: ExitStack, minutes: float, seed: int) -> int:
    """Set up, disturb, compare."""
    table, dice = Table(seeds=range(seed, seed + 1)), random.Random(seed)
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mixstream-soak-")))
    write(directory / "origin")
    server = stack.enter_context(seaweed(directory))
    s3 = server.below("soak")
    s3.upload(directory / "origin")
    proxy = stack.enter_context(FaultProxy(server.endpoint))
    variables = {k: v for k, v in {**os.environ, **environment(proxy.endpoint)}.items() if v is not None}
    total = sum(path.stat().st_size for path in (directory / "origin").rglob("*.mds*"))
    limit, cache = total // 3, directory / "cache"
    largest = max(shard.raw.bytes for shard in loader_of(str(directory / "origin"), 0).dataset.shards)
    size = f"{total / 1e6:.1f} MB in {len(s3.names())} objects, a cache of {limit / 1e6:.1f} MB"
    table.title(f"{size}, {minutes:g} minutes, seed {seed}")

    options = {"cache_limit": limit, "local": str(cache), "download_retry": 20, "download_timeout": 5.0}
    options |= {"predownload": 400}

    def start(rank: int) -> subprocess.Popen[bytes]:
        arguments = {"rank": rank, "root": s3.url, "options": options, "state": str(directory / f"state{rank}")}
        arguments |= {"log": str(directory / f"log{rank}")}
        return subprocess.Popen([sys.executable, __file__, "--child", json.dumps(arguments)], env=variables)

    misbehave(proxy, seed)
    sampler = Sampler(cache)
    readers, kills, until = [start(rank) for rank in range(RANKS)], 0, time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < until:
            time.sleep(dice.uniform(8, 25))
            for rank, reader in enumerate(readers):
                if reader.poll() is not None:
                    raise RuntimeError(f"rank {rank} ended by itself with status {reader.returncode}")
            rank = dice.randrange(RANKS)
            readers[rank].send_signal(signal.SIGKILL)
            readers[rank].wait()
            kills, readers[rank] = kills + 1, start(rank)
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
        sampler.stop()
    return judge(table, directory, sampler, limit, largest, proxy, kills)


def judge(
    table: Table, directory: Path, sampler: Sampler, limit: int, largest: int, proxy: FaultProxy, kills: int
) -> int:
    """Compare with an undisturbed run, and print."""
    handed, wrong, epochs = 0, 0, []
    for rank in range(RANKS):
        lines = [line.split() for line in (directory / f"log{rank}").read_text().splitlines() if line.count(" ") == 1]
        reported = {(int(step), value) for step, value in lines if len(value) == 16}
        last = max(step for step, _ in reported)
        undisturbed: dict[int, str] = {}
        loader = loader_of(str(directory / "origin"), rank)
        while loader.step <= last:
            undisturbed.update((batch.step, digest(batch)) for batch in loader)
        handed += len(reported)
        wrong += sum(undisturbed[step] != value for step, value in reported)
        missing = set(range(last + 1)) - {step for step, _ in reported}
        wrong += len(missing)
        epochs.append(last / len(loader))
    faults = sum(rule.acted for rule in proxy._rules)
    left = [path.name for path in (directory / "cache").rglob(".*.partial")]
    table.line("batches handed out and compared", handed, form="7.0f", at_least=100)
    table.line("epochs read by each rank", min(epochs), at_least=1.0)
    table.line("batches that differ from the undisturbed run's, or are missing", wrong, form="7.0f", at_most=0)
    table.line("faults injected", faults, form="7.0f", at_least=50)
    table.line("requests", proxy.count("*.mds*"), form="7.0f")
    table.line("processes killed", kills, form="7.0f", at_least=5)
    table.line(f"peak of the cache / limit ({sampler.samples} samples)", sampler.peak / limit)
    table.line("peak of the cache above its limit, in shards", (sampler.peak - limit) / largest, at_most=1.0)
    print(f"  left by the killed, for the next start to remove: {len(left)} partial files")
    shutil.rmtree(directory / "cache")
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
