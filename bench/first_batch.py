"""How long a fresh process waits for its first batch, and for its first hundred.

    python bench/first_batch.py [--rounds 7] [--against DIRECTORY]

8 domains x 1,000 rows x 2,048 uint16 tokens on the local disk (written once below bench/data), shuffled, batches of 256
rows. Every figure is of a process of its own: it imports torch, which is not counted, then mixstream, makes a dataset
and reads. Faces and versions take turns; printed are medians with [min, max].

    import        importing mixstream, to the classes that are used
    dataset       `StreamingDataset(...)` and the loader
    first batch   from `iter(loader)` to the first batch
    all           the sum: what is waited after `import torch`
    CPU           the CPU time of this process in all that, of all its threads: it depends less on what else runs
    100 batches   from `StreamingDataset(...)` to the hundredth batch, as fast as they come
    compiled      from `StreamingDataset(...)` until all batches are made by compiled loops, if the process goes on
                  reading as fast as it can, for at most 8 s; without workers

With byte code, as what is installed has it: it is written before, by `compileall`.

"cached" is with numba's cache of compiled loops, as from the second start on; "no cache" with an empty one, as in the
first start after an installation. With `--against`, the tree of another version in DIRECTORY (it has `mixstream/`)
takes turns with this one.
"""

from __future__ import annotations

import argparse
import compileall
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DOMAINS, ROWS, SEQ, BATCH = 8, 1000, 2048, 256
DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[1]
FACES = {
    "Loader": "ms.Loader(dataset)",
    "DataLoader": "DataLoader(dataset, batch_size=BATCH)",
    "DataLoader, 2 workers": "DataLoader(dataset, batch_size=BATCH, num_workers=2)",
}
CHILD = """
import json, sys, time
BATCH, paths = {batch}, {paths}
import torch
from torch.utils.data import DataLoader
torch.ones(2) + 1
began, cpu = time.perf_counter(), time.process_time()
import mixstream as ms
ms.StreamingDataset, ms.Stream, ms.Loader
imported = time.perf_counter()
if __name__ == "__main__":
    if {settle}:
        try:
            from mixstream.plan.compiled import compile_at_once
            compile_at_once()
        except ImportError:
            pass
    dataset = ms.StreamingDataset(
        streams=[ms.Stream(local=path) for path in paths], batch_size=BATCH, shuffle=True, epoch_size=10**6 * BATCH
    )
    loader = {face}
    made = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first, first_cpu = time.perf_counter(), time.process_time()
    for _ in range(99):
        next(batches)
    last = time.perf_counter()
    found = [imported - began, made - imported, first - made, first - began, first_cpu - cpu, last - imported]
    from mixstream.plan import compiled
    def all_compiled():
        return compiled._state.started and not compiled._state.wanted
    while not {workers} and not all_compiled() and time.perf_counter() < imported + 8:
        next(batches)
    found.append(time.perf_counter() - imported if not {workers} and all_compiled() else float("nan"))
    print(json.dumps(found))
"""


def corpus() -> list[str]:
    """Write the domains once; return their directories."""
    import numpy as np

    import mixstream as ms

    paths = []
    for d in range(DOMAINS):
        path = DATA / "first-batch" / f"domain{d}"
        paths.append(str(path))
        if not (path / "index.json").exists():
            rng = np.random.default_rng(d)
            with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{SEQ}"}, out=str(path), exist_ok=True) as writer:
                for _ in range(ROWS):
                    writer.write({"tokens": rng.integers(0, 50_000, SEQ, dtype=np.uint16)})
    return paths


def measure(tree: Path, face: str, paths: list[str], cache: Path, *, settle: bool = False) -> list[float]:
    """Return the seven times of a process of its own, in seconds."""
    code = CHILD.format(face=FACES[face], batch=BATCH, paths=paths, settle=settle, workers="workers" in face)
    environment = {**os.environ, "PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has byte code
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment, cwd=cache.parent
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


def shown(seconds: tuple[float, ...]) -> str:
    """Return median [min, max]; "-" if one was not measured."""
    if any(map(math.isnan, seconds)):
        return "-"
    return f"{statistics.median(seconds):.3f} [{min(seconds):.2f}, {max(seconds):.2f}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--against", type=Path, help="a tree with another version of mixstream/")
    parser.add_argument("--faces", nargs="+", choices=list(FACES), default=list(FACES))
    options = parser.parse_args()
    trees = {"this": ROOT} | ({"other": options.against.resolve()} if options.against else {})
    paths = corpus()
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}; seconds")
    names = "  ".join(
        f"{name:>17}" for name in ("import", "dataset", "first batch", "all", "CPU", "100 batches", "compiled")
    )
    print(f"{'numba':8}  {'face':22}  {'version':7}  {names}")
    with tempfile.TemporaryDirectory() as scratch:
        for tree in trees:
            compileall.compile_dir(trees[tree] / "mixstream", quiet=1)
            measure(trees[tree], "Loader", paths, Path(scratch) / tree, settle=True)
        for cached in (True, False):
            found: dict[tuple[str, str], list[list[float]]] = {}
            for turn in range(options.rounds if cached else max(options.rounds // 2, 1)):
                for face in options.faces:
                    for tree in list(trees)[:: 1 if turn % 2 else -1]:
                        with tempfile.TemporaryDirectory(dir=scratch) as empty:
                            cache = Path(scratch) / tree if cached else Path(empty)
                            found.setdefault((face, tree), []).append(measure(trees[tree], face, paths, cache))
            for (face, tree), times in sorted(found.items()):
                columns = (shown(each) for each in zip(*times))
                state = "cached" if cached else "no cache"
                print(f"{state:8}  {face:22}  {tree:7}  " + "  ".join(f"{each:>17}" for each in columns), flush=True)


if __name__ == "__main__":
    main()
