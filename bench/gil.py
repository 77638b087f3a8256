"""What a trainer that holds the GIL most of the time waits for batches, at several rates of batches.

    python bench/gil.py [--rates 10 50 200 1000] [--seconds 3] [--prefetch 4] [--rounds 3]

A step of the trainer takes 1 / rate seconds. For 90 % of it the trainer's thread holds the GIL, in one of two ways: a
loop of Python, from which another thread gets the GIL after the switch interval (5 ms) if it asks for it; or one call
of C that keeps the GIL until it returns, as some extensions do. For the rest it sleeps, as in a wait for the GPU. The
loader's thread makes its batches in between: 64 rows of 2,048 uint16 tokens, of 8 domains, shuffled, int64 delivered.
Printed are, from `loader.stats()`, the share of the time that `next()` takes, the batches that were ready when they
were asked for, on average, and how long the loader's thread takes to make one, its waits for the GIL included. Ways,
rates and depths take turns.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import mixstream as ms

DOMAINS, ROWS, SEQ, BATCH = 8, 1000, 2048, 64
HELD = 0.9  # of a step


def corpus(place: Path) -> list[ms.Stream]:
    """Write the domains; return their streams."""
    for d in range(DOMAINS):
        rng = np.random.default_rng(d)
        with ms.MDSWriter(
            columns={"tokens": f"ndarray:uint16:{SEQ}"}, out=str(place / f"{d}"), size_limit=1 << 21
        ) as out:
            for _ in range(ROWS):
                out.write({"tokens": rng.integers(0, 50_000, SEQ, dtype=np.uint16)})
    return [ms.Stream(local=str(place / f"{d}")) for d in range(DOMAINS)]


def loop(seconds: float) -> None:
    """Run Python for so long."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for _ in range(50):
            pass


def call(seconds: float) -> None:
    """Keep the GIL in one call of C for so long."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def train(batches: Callable[[], object], hold: Callable[[float], None], *, rate: float, seconds: float) -> None:
    """Take batches at `rate` for so long."""
    for _ in range(max(int(rate * seconds), 10)):
        batches()
        hold(HELD / rate)
        time.sleep((1 - HELD) / rate)


def main() -> int:
    """Run the benchmark."""
    given = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    given.add_argument("--rates", type=float, nargs="+", default=[10, 50, 200, 1000])
    given.add_argument("--seconds", type=float, default=3.0)
    given.add_argument("--prefetch", type=int, nargs="+", default=[4])
    given.add_argument("--rounds", type=int, default=3)
    options = given.parse_args()
    ways = {"loop of Python": loop, "one call of C": call}
    shares: dict[tuple[str, int, float], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        streams = corpus(Path(place))
        for turn in range(options.rounds):
            for prefetch in options.prefetch:
                dataset = ms.StreamingDataset(streams=streams, batch_size=BATCH, shuffle=True)
                with ms.Loader(dataset, prefetch=prefetch) as loader:
                    batches = endless(loader)
                    for _ in range(50):
                        next(batches)
                    for way, hold in ways.items():
                        for rate in options.rates:
                            before = loader.stats()
                            train(batches.__next__, hold, rate=rate, seconds=options.seconds)
                            done = loader.stats() - before
                            making = (done.seconds - (done.trainer or 0.0)) / done.batches
                            shares.setdefault((way, prefetch, rate), []).append(
                                (done.wait_share, done.mean_ready or 0.0, making)
                            )
            print(f"turn {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print(
        f"\n{'the GIL is held by':20} {'prefetch':>8} {'batches/s':>10} {'waited':>16} {'ready':>6} {'making one':>11}"
    )
    for (way, prefetch, rate), found in shares.items():
        waited, ready, making = (list(column) for column in zip(*found))
        spread = f"{statistics.median(waited):.1%} ({min(waited):.1%}-{max(waited):.1%})"
        line = f"{way:20} {prefetch:>8} {rate:>10g} {spread:>18} {statistics.median(ready):>6.1f}"
        print(f"{line} {1000 * statistics.median(making):>8.2f} ms")
    return 0


def endless(loader: ms.Loader) -> Iterator[ms.Batch]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from loader


if __name__ == "__main__":
    sys.exit(main())
