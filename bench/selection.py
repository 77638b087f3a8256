"""What a selection costs: reading a selected stream, looking up its rows, and making it.

    python bench/selection.py reading [--rows 40000] [--rounds 9]
    python bench/selection.py lookups [--rows 10000000]
    python bench/selection.py embedding [--rows 1000]
    python bench/selection.py kmeans [--rows 60000] [--dimensions 384] [--k 1000]
    python bench/selection.py keep [--rows 10000000]
    OMP_NUM_THREADS=1 python bench/selection.py scoring [--rows 20000] [--dimensions 2048]
    python bench/selection.py --large [--rows 10000000]

reading: rows/s of streams of which half of the samples are kept, against the same streams read whole, and of the same
streams split into 20 buckets each. The data are those of `bench/loader.py`: 8 domains x 40,000 rows x 2,048 uint16
tokens (about 1.3 GB, written once below bench/data). All take turns in one process, pinned to one core, so that the
background thread, the plan and the look-up of addresses are paid for there too; in a turn each reads equally many rows,
every one of them for the first time through its own mapping, and who goes first changes from turn to turn. The ratio is
that of each turn.

lookups: kept rows of 2,000 shards, 30 % of all rows: look-ups per second by `KeptRows`, as a loader asks (4,096 rows of
16 shards a call) and one by one, the time to open the file and to look up the first rows of every shard, with its
check, and the memory that this takes.

embedding: rows/s of the default static model on one core, on pieces of 2,000 characters of Python's own sources, beside
the package `static_model` whose weights it reads, and beside an untrained transformer of MiniLM's size (6 layers, 384
numbers, 256 tokens), whose time does not depend on its weights.

kmeans: `fit` (3 iterations), `assign`, `nearest_earlier` and `duplicate_of` on vectors around 2,000 directions, and
`faiss.Kmeans` and a flat index on the same arrays. Ours decides ties exactly, which faiss does not; the ratio is the
price of that. Each takes its turns in one process with one thread.

keep: seconds and bytes a row of `keep` by rows, tokens, with an outlier cut, and with a floor for 1,000 groups.

scoring: rows/s from features to scores (Gram matrix, solution, 4 targets), and of traker's `BasicScoreComputer`
on the same arrays, if it is installed. Ours computes in float64, and reads features in blocks; traker computes in
float32, with all of them in memory.

--large: every stage at ten million rows, with its memory; see `bench/selection_large.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import sysconfig
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader import DATA, corpus
from selection_large import large
from table import Table

import mixstream as ms
from mixstream.formats import FileInfo, ShardInfo
from mixstream.plan.compiled import compile_at_once
from mixstream.selection import Selection, ShardIdentity, ShardTable, keep, provenance, write_buckets, write_selection
from mixstream.selection.datamodels import attribute
from mixstream.selection.embedders import EmbedderSpec
from mixstream.selection.prototypes import Clusters, assign, duplicate_of, fit, nearest_earlier

SHARDS, BUCKETS = 2000, 20
DIRECTIONS, TURNS, TARGETS = 2000, 3, 4
WHAT = {"whole": "read whole", "half": "half of the samples kept", "buckets": f"{BUCKETS} buckets each"}
MADE = provenance({"bench": "selection"})


def selections(paths: list[Path]) -> Path:
    """Write a selection and buckets of each domain of `bench/loader.py`; return the directory of both."""
    root = DATA / f"selection-{paths[0].parent.name}"
    for d, path in enumerate(paths):
        rng = np.random.default_rng(d)
        table = ShardTable.of(ms.Stream(remote=str(path)).open(allow_unsafe_types=False).shards)
        given: dict[str, Any] = {"domain": path.name, "table": table, "rule": {}, "parents": {}, "made": MADE}
        write_selection(root / "half" / path.name, kept=rng.random(table.rows) < 0.5, overwrite=True, **given)
        names, bucket = [f"{b:02}" for b in range(BUCKETS)], rng.integers(0, BUCKETS, table.rows)
        write_buckets(root / "buckets" / path.name, bucket=bucket, names=names, overwrite=True, **given)
    return root


def loader_of(paths: list[Path], batch_size: int, **each: Any) -> ms.Loader:
    """Return a loader of the domains, shuffled, natural mixing, windows of the default size, stored dtype."""
    streams = [ms.Stream(remote=str(path), **each) for path in paths]
    return ms.Loader(ms.StreamingDataset(streams=streams, batch_size=batch_size, shuffle=True), widen=False)


def timed(action: Callable[[], object], times: int) -> tuple[float, float]:
    """Return the (wall, CPU) seconds that so many calls take."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        action()
    return time.perf_counter() - wall, time.process_time() - cpu


def reading(table: Table, *, rows: int, rounds: int) -> None:
    """Print rows/s of whole, selected and split streams, and their ratios."""
    paths = corpus(rows)
    root = selections(paths)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    kinds = {"whole": {}, "half": {"selection": root / "half"}, "buckets": {"split_by": root / "buckets"}}
    for batch_size in (64, 512):
        steps = len(paths) * rows * 2 // 5 // rounds // batch_size  # fewer rows than the half that is kept
        loaders = {name: loader_of(paths, batch_size, **each) for name, each in kinds.items()}
        turns = {name: iter(loader) for name, loader in loaders.items()}
        for batches in turns.values():
            next(batches)
        rate, cpu = {name: [] for name in kinds}, {name: [] for name in kinds}
        order = list(kinds)
        for turn in range(rounds):
            for name in order[turn % 3 :] + order[: turn % 3]:
                wall, used = timed(turns[name].__next__, steps)
                rate[name].append(steps * batch_size / wall)
                cpu[name].append(used / (steps * batch_size) * 1e6)
        for loader in loaders.values():
            loader.close()
        table.title(f"reading, batches of {batch_size} rows, {rounds} turns of {steps} steps")
        for name, what in WHAT.items():
            table.line(f"rows/s, {what}", rate[name], form="9,.0f")
        for name, what in WHAT.items():
            table.line(f"CPU seconds per million rows, {what}", cpu[name])
        for name in ("half", "buckets"):
            ratio = np.array(rate[name]) / np.array(rate["whole"])
            table.line(f"rows/s, {WHAT[name]} / {WHAT['whole']}", ratio)
            least = 0.95 if name == "half" else None
            table.line("    median", statistics.median(ratio), at_least=least)


def lookups(table: Table, *, rows: int) -> None:
    """Print look-ups per second, and what opening costs."""
    size = rows // SHARDS
    shards = tuple(ShardIdentity(name=f"shard.{s:05}.mds", samples=size, raw_bytes=size * 100) for s in range(SHARDS))
    entries = [_entry(shard) for shard in shards]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        kept = rng.random(size * SHARDS) < 0.3
        given: dict[str, Any] = {"domain": "web", "table": ShardTable(shards=shards), "rule": {}, "parents": {}}
        made = write_selection(Path(place) / "sel", kept=kept, made=MADE, **given)
        total = made.kept
        del kept, made
        table.title(f"{total:,} kept rows of {size * SHARDS:,} in {SHARDS:,} shards")
        before = resident()
        tracemalloc.start()
        began = time.perf_counter()
        view = Selection.open(Path(place) / "sel").view(entries)
        table.line("seconds to open", time.perf_counter() - began)
        shard_S = np.arange(SHARDS)
        began = time.perf_counter()
        view.rows(shard_S, np.zeros(SHARDS, dtype=np.int64))
        table.line("seconds to look up the first row of every shard, and check all rows", time.perf_counter() - began)
        table.line("MB allocated, at the peak", tracemalloc.get_traced_memory()[1] / 1e6, at_most=16)
        tracemalloc.stop()
        table.line("MB resident, pages of the file included", resident() - before)
        asked = []
        for _ in range(200):
            shard_B = rng.choice(SHARDS, 16)[rng.integers(0, 16, 4096)]
            asked.append((shard_B, (rng.random(4096) * view.samples_S[shard_B]).astype(np.int64)))
        asked_again = iter(asked * 8)
        rates = [4096 * 200 / timed(lambda: view.rows(*next(asked_again)), 200)[0] / 1e6 for _ in range(7)]
        table.line("million look-ups/s, 4,096 a call", rates, at_least=3)
        one_by_one = iter([(s[:1], k[:1]) for s, k in asked] * 8)
        rates = [200 / timed(lambda: view.rows(*next(one_by_one)), 200)[0] / 1e3 for _ in range(7)]
        table.line("thousand look-ups/s, one a call", rates)


def vectors_of(rows: int, dimensions: int) -> np.ndarray:
    """Return unit vectors around some directions, float32 [rows, dimensions]."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((DIRECTIONS, dimensions), dtype=np.float32)
    found = directions[rng.integers(DIRECTIONS, size=rows)]
    found += 0.7 * rng.standard_normal((rows, dimensions), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def embedding(table: Table, *, rows: int) -> None:
    """Print rows/s of embedders."""
    import static_model
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    os.environ["RAYON_NUM_THREADS"] = "1"  # of the tokenizer, before its first batch
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    whole = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sources)
    texts = [whole[at : at + 2000] for at in range(0, 2000 * rows, 2000)]
    ours = EmbedderSpec.parse("static").load()
    shape = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    encoder, tokens = BertModel(BertConfig(**shape)).eval(), torch.randint(0, 30000, (32, 256))
    table.title(f"{len(texts):,} texts of 2,000 characters, one core")
    turns = []
    for _ in range(TURNS):
        seconds = [timed(lambda: ours.embed(texts), 1)[0], timed(lambda: static_model.get_embeddings(texts), 1)[0]]
        with torch.inference_mode():
            seconds.append(timed(lambda: encoder(tokens), 1)[0] / len(tokens) * len(texts))
        turns.append(len(texts) / np.array(seconds))
    mine, package, transformer = np.array(turns).T
    table.line("rows/s, static", mine, form="9,.0f")
    table.line("rows/s, package static_model", package, form="9,.0f")
    table.line("rows/s, transformer of MiniLM's size, without its tokenizer", transformer, form="9,.1f")
    table.line("static / package", mine / package)
    theirs = np.array(static_model.get_embeddings(texts[:100]))
    table.line(
        "largest difference to the package", np.abs(ours.embed(texts[:100]).unit_ND - theirs).max(), at_most=1e-6
    )


def kmeans(table: Table, *, rows: int, dimensions: int, k: int) -> None:
    """Print rows/s of the stages, and faiss's."""
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    vectors = vectors_of(rows, dimensions)
    centroids = fit(vectors, k=k, iterations=3).centroids_KD
    index = faiss.IndexFlatIP(dimensions)
    index.add(centroids)
    cluster, distance = assign(vectors, centroids)
    clusters = Clusters.of(cluster, distance, count=k)

    def compare(act: Callable[[np.ndarray], object]) -> None:
        for first, end in clusters.ranges(1 << 16):
            for _, members in clusters.vectors(vectors, first, end):
                act(members)

    stages: dict[str, tuple[int, Callable[[], object]]] = {
        "fit": (3 * rows, lambda: fit(vectors, k=k, iterations=3)),
        "fit, faiss": (3 * rows, lambda: fit(vectors, k=k, iterations=3, engine="faiss")),
        "assign": (rows, lambda: assign(vectors, centroids)),
        "assign, faiss": (rows, lambda: index.search(vectors, 1)),
        "nearest_earlier": (rows, lambda: compare(nearest_earlier)),
        "duplicate_of, greedy": (rows, lambda: compare(lambda each: duplicate_of(each, threshold=0.95))),
    }
    rates: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(TURNS):
        for name, (count, act) in stages.items():
            rates[name].append(count / timed(act, 1)[0])
    table.title(f"{rows:,} rows x {dimensions}, {k:,} prototypes, largest cluster {np.diff(clusters.begin_K).max():,}")
    for name, rate in rates.items():
        table.line(f"rows/s, {name}", rate, form="9,.0f")
    for name in ("fit", "assign"):
        table.line(f"rows/s, {name} / faiss", np.array(rates[name]) / np.array(rates[f"{name}, faiss"]))


def keeping(table: Table, *, rows: int) -> None:
    """Print seconds and bytes a row of the keep rules."""
    rng = np.random.default_rng(0)
    score, tokens = rng.random(rows, dtype=np.float32), rng.integers(1, 1000, rows).astype(np.uint32)
    group = rng.integers(1000, size=rows).astype(np.int32)
    table.title(f"keep 30 % of {rows:,} rows")
    for name, most, options in (
        ("rows", 24, {}),
        ("tokens", 24, {"by": "tokens"}),
        ("an outlier cut", 32, {"outlier_cut": 0.995}),
        ("a floor for 1,000 groups", 56, {"group_N": group, "floor": 0.5}),
    ):

        def act(options: dict = options) -> object:
            return keep(score, side="high", fraction=0.3, tokens_N=tokens, **options)

        table.line(f"seconds, {name}", timed(act, 1)[0])
        tracemalloc.start()
        act()
        peak = tracemalloc.get_traced_memory()[1] - 0.3 * 8 * rows
        tracemalloc.stop()
        table.line(f"bytes a row beside the result, {name}", peak / rows, at_most=most)


def scoring(table: Table, *, rows: int, features: int) -> None:
    """Print rows/s of scoring, and traker's."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    phi = rng.standard_normal((rows, features), dtype=np.float32).astype(np.float16)
    target = rng.standard_normal((TARGETS, features), dtype=np.float32)
    table.title(f"{rows:,} rows x {features:,} features, {TARGETS} targets, one proxy")
    try:
        from trak.score_computers import BasicScoreComputer
    except ImportError:
        print("  traker is not installed (pip install --no-deps traker): not compared")
        rates = [rows / timed(lambda: attribute([phi], [target], damping=0.0), 1)[0] for _ in range(TURNS)]
        table.line("rows/s", rates, form="9,.0f")
        return
    theirs, given = BasicScoreComputer(dtype=torch.float32, device=torch.device("cpu")), torch.from_numpy(phi).float()
    out = torch.zeros(rows, TARGETS)

    def score() -> None:
        ready = theirs.get_x_xtx_inv(given, theirs.get_xtx(given))
        theirs.get_scores(ready, torch.from_numpy(target), out)

    turns = [
        (rows / timed(lambda: attribute([phi], [target], damping=0.0), 1)[0], rows / timed(score, 1)[0])
        for _ in range(2 * TURNS + 1)
    ]
    ours, others = np.array(turns).T
    table.line("rows/s", ours, form="9,.0f")
    table.line("rows/s, traker", others, form="9,.0f")
    table.line("rows/s / traker", ours / others)
    table.line("    median", np.median(ours / others))
    mine = attribute([phi], [target], damping=0.0)[0]
    agree = [float(np.corrcoef(mine[k], out[:, k].numpy())[0, 1]) for k in range(TARGETS)]
    table.line("correlation of the scores of both", agree, at_least=0.999)


def resident() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _entry(shard: ShardIdentity) -> ShardInfo:
    raw = FileInfo(basename=shard.name, bytes=shard.raw_bytes, hashes={})
    return ShardInfo(
        samples=shard.samples,
        column_names=("tokens",),
        column_encodings=("bytes",),
        column_sizes=(None,),
        compression=None,
        hashes=(),
        size_limit=None,
        raw=raw,
        zip=None,
    )


def main() -> int:
    """Run a part and print its table."""
    compile_at_once()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", nargs="?", choices=["reading", "lookups", "embedding", "kmeans", "keep", "scoring"])
    parser.add_argument("--large", action="store_true", help="every stage at ten million rows")
    parser.add_argument("--rows", type=int, help="rows, per domain for `reading`")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each reader")
    parser.add_argument("--dimensions", type=int, help="of a vector")
    parser.add_argument("--k", type=int, default=1000)
    options = parser.parse_args()
    if options.large == (options.part is not None):
        parser.error("give a part, or --large")
    rows = options.rows
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}")
    table = Table(seeds=range(1))
    if options.large:
        large(table, rows=rows or 10_000_000)
    elif options.part == "reading":
        reading(table, rows=rows or 40_000, rounds=options.rounds)
    elif options.part == "lookups":
        lookups(table, rows=rows or 10_000_000)
    elif options.part == "embedding":
        embedding(table, rows=rows or 1000)
    elif options.part == "kmeans":
        kmeans(table, rows=rows or 60_000, dimensions=options.dimensions or 384, k=options.k)
    elif options.part == "keep":
        keeping(table, rows=rows or 10_000_000)
    else:
        scoring(table, rows=rows or 20_000, features=options.dimensions or 2048)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
