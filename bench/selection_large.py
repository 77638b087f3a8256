"""The stages of a selection at ten million rows, each in a process of its own: time, and memory against its limit.

`python bench/selection.py --large` runs it. Memory is the peak of anonymous memory (RssAnon, sampled every 20 ms) above
that of the same process after its imports; mapped pages of files are not counted, since the system drops them when it
needs the room. Each stage is one thread.

The data: 10,000,000 rows in 2,000 shards; vectors of 64 float16 around 2,000 directions (1.3 GB); the shards have rows
of 16 tokens, and repeat one shard, so that they are written in seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from table import Table

SHARDS, DIMENSIONS, K, ITERATIONS, TOKENS, DIRECTIONS = 2000, 64, 1000, 10, 16, 2000
PARTS, BLOCK, BATCH, STEPS = 8, 50_000, 512, 2000


def large(table: Table, *, rows: int) -> None:
    """Print seconds and MB of every stage."""
    size = rows // SHARDS
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        write_shards(place, size)
        table.title(f"{size * SHARDS:,} rows in {SHARDS:,} shards; vectors of {DIMENSIONS} float16")
        for name, (stage, limit) in STAGES.items():
            seconds, megabytes = measured(stage, place)
            table.line(f"seconds, {name}", seconds)
            table.line("    MB", megabytes, at_most=limit, form="7.0f")


def write_shards(place: Path, size: int) -> None:
    """Write a dataset whose shards are copies of one."""
    import mixstream as ms

    with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{TOKENS}"}, out=str(place / "one")) as writer:
        for number in range(size):
            writer.write({"tokens": np.full(TOKENS, number, dtype=np.uint16)})
    index = json.loads((place / "one/index.json").read_bytes())
    (entry,) = index["shards"]
    (place / "web").mkdir()
    shards = []
    for number in range(SHARDS):
        name = f"shard.{number:05}.mds"
        shutil.copy(place / "one" / entry["raw_data"]["basename"], place / "web" / name)
        shards.append({**entry, "raw_data": {**entry["raw_data"], "basename": name}})
    (place / "web/index.json").write_text(json.dumps({**index, "shards": shards}))


def write_part(place: Path, part: tuple[int, int]) -> None:
    """Write one part of the embeddings, block by block."""
    import mixstream as ms
    from mixstream.selection import Column, ScoresWriter, ShardTable, provenance

    table = ShardTable.of(ms.Stream(remote=str(place / "web")).open(allow_unsafe_types=False).shards)
    columns = [Column(name="embedding", dtype="<f2", shape=(DIMENSIONS,)), Column(name="n_tokens", dtype="<u4")]
    directions = np.random.default_rng(0).standard_normal((DIRECTIONS, DIMENSIONS), dtype=np.float32)
    rng = np.random.default_rng(part)
    with ScoresWriter(
        place / "emb/web", domain="web", table=table, columns=columns, made=provenance({"embedder": "bench"}), part=part
    ) as writer:
        for begin in range(writer.begin, writer.end, BLOCK):
            count = min(BLOCK, writer.end - begin)
            vectors = directions[rng.integers(DIRECTIONS, size=count)]
            vectors += 0.7 * rng.standard_normal(vectors.shape, dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            tokens = np.full(count, TOKENS, dtype=np.uint32)
            writer.write(begin, {"embedding": vectors.astype(np.float16), "n_tokens": tokens})


def write(place: Path) -> None:
    """Write all parts."""
    for number in range(PARTS):
        write_part(place, (number, PARTS))


def merge(place: Path) -> None:
    """Merge the parts."""
    from mixstream.selection import merge_scores

    merge_scores(place / "emb/web")


def command(*words: str) -> Callable[[Path], None]:
    """Return a stage that runs a command of `mixstream prune`; AT/ stands for the directory."""
    return Command(words)


class Command:
    """A command, which can be pickled."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def __call__(self, place: Path) -> None:
        """Run the command in this process."""
        from mixstream_tools.cli import main

        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            status = main(["prune", *(word.replace("AT/", f"{place}/") for word in self.words), "--json"])
        if status:
            raise SystemExit(said.getvalue())


def load_selected(place: Path) -> None:
    """Read batches of the selected rows."""
    load(place, selection=str(place / "sel"))


def load(place: Path, **options: Any) -> None:
    """Read batches."""
    import mixstream as ms

    stream = ms.Stream(name="web", remote=str(place / "web"), **options)
    dataset = ms.StreamingDataset(streams=[stream], batch_size=BATCH, shuffle=True)
    with ms.Loader(dataset, widen=False) as loader:
        for _ in islice(loader, STEPS):
            pass


EMB, ALONE = ("--emb", "AT/emb"), ("--workers", "1")
STAGES: dict[str, tuple[Callable[[Path], None], float]] = {
    f"write scores in {PARTS} parts, vectors drawn at random included": (write, 100),
    "merge them": (merge, 20),
    f"prune fit, k {K:,}, {ITERATIONS} iterations over {256 * K:,} rows": (
        command("fit", *EMB, "--k", str(K), "--niter", str(ITERATIONS), *ALONE, "--out", "AT/km"),
        300,
    ),
    "prune assign": (command("assign", *EMB, "--prototypes", "AT/km", *ALONE, "--out", "AT/scores"), 200),
    "prune keep, 30 % of the rows": (
        command("keep", "--scores", "AT/scores", "--side", "hard", "--fraction", "0.3", "--out", "AT/sel"),
        320,
    ),
    f"load {STEPS:,} batches of {BATCH} rows, whole": (load, 80),
    "load as many, of the kept rows": (load_selected, 80),
}


# --- a process of its own ---------------------------------------------------------------------------------------------


def measured(stage: Callable[[Path], None], place: Path) -> tuple[float, float]:
    """Return the seconds and the MB of a stage, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(stage, place, theirs))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        child.join()
        raise SystemExit(f"a stage ended with exit status {child.exitcode}") from None
    finally:
        child.join()


def _child(stage: Callable[[Path], None], place: Path, pipe: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import mixstream
    import mixstream_tools.cli  # noqa: F401

    torch.set_num_threads(1)
    (torch.ones(64, 64) @ torch.ones(64, 64)).sum()
    _ = mixstream.Loader
    before, peak, done = _anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], _anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.perf_counter()
    try:
        stage(place)
    finally:
        seconds = time.perf_counter() - began
        done.set()
        watching.join()
    pipe.send((seconds, peak[0] - before))


def _anonymous() -> float:
    """Return the anonymous memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon"))
