"""Start-up does not grow with samples: time and memory to the first batch's addresses.

    python bench/startup.py [--shards 1000] [--json PATH]

One domain whose index declares 10^5, 10^7 and 10^9 samples in the same number of shards; the shards themselves are not
there, and are not looked at. Timed from `StreamingDataset(...)` to the addresses of the first global batch, in a fresh
process each, imports not counted; the memory is what that allocates at its peak (tracemalloc).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

import mixstream as ms
from mixstream.formats import FileInfo, Index, ShardInfo, dump_index
from mixstream.plan.compiled import compile_at_once


def declare(path: Path, samples: int, shards: int) -> None:
    """Write an index of `samples` samples of 16 bytes in `shards` shards."""
    infos = []
    for i, count in enumerate(np.full(shards, samples // shards).tolist()):
        raw = FileInfo(basename=f"shard.{i:05}.mds", bytes=4 + 4 * (count + 1) + 200 + 16 * count, hashes={})
        infos.append(
            ShardInfo(
                samples=count,
                column_names=("tokens",),
                column_encodings=("ndarray:uint16:8",),
                column_sizes=(16,),
                compression=None,
                hashes=(),
                size_limit=None,
                raw=raw,
                zip=None,
            )
        )
    path.mkdir(parents=True)
    (path / "index.json").write_bytes(dump_index(Index(shards=tuple(infos), extra={})))


def first_addresses(path: str) -> None:
    """Open the dataset at `path` and print, as JSON, what that took."""
    compile_at_once()
    warm = ms.StreamingDataset(local=path, batch_size=512, shuffle=True)  # load compiled loops, which are not start-up
    warm.run.run_plan.addressing.locate(
        [rows for rows in [warm.run.walk(warm.run.start(), None).advance()] if rows], slice(0, 512)
    )
    results = {}
    for measure in ("seconds", "bytes"):
        if measure == "bytes":
            tracemalloc.start()
        began = time.perf_counter()
        dataset = ms.StreamingDataset(local=path, batch_size=512, shuffle=True)
        rows = dataset.run.walk(dataset.run.start(), None).advance()
        assert rows is not None
        (at,) = dataset.run.run_plan.addressing.locate([rows], dataset.run.run_plan.part)
        results["seconds" if measure == "seconds" else "_"] = time.perf_counter() - began
        results["samples"], results["rows"] = dataset.num_samples, len(at)
    results["bytes"] = tracemalloc.get_traced_memory()[1]
    print(json.dumps(results))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the curve to this file")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        first_addresses(options.open)
        return
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}; {options.shards} shards")
    print("      samples   ms to first addresses   ratio   peak MB   ratio")
    base: tuple[float, float] | None = None
    curve = []
    with tempfile.TemporaryDirectory() as scratch:
        for samples in (10**5, 10**7, 10**9):
            path = Path(scratch) / str(samples)
            declare(path, samples, options.shards)
            command = [sys.executable, __file__, "--open", str(path)]
            found = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(5)]
            seconds = statistics.median(f["seconds"] for f in found)
            size = statistics.median(f["bytes"] for f in found)
            base = base or (seconds, size)
            curve.append({"samples": samples, "ms": seconds * 1e3, "mb": size / 1e6})
            print(
                f"{samples:>13,}   {seconds * 1e3:>21.1f}   {seconds / base[0]:>5.2f}   {size / 1e6:>7.2f}   "
                f"{size / base[1]:>5.2f}"
            )
    if options.json:
        options.json.write_text(json.dumps({"samples": curve}) + "\n")


if __name__ == "__main__":
    main()
