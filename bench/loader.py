"""How close `Loader` comes to copying bytes: million tokens/s and CPU time, on a pair of cores or on one.

    python bench/loader.py [--rows 40000] [--batch-sizes 8 64 256 1024 4096] [--rounds 9] [--cores 2]
                           [--stores | --stages]

8 domains x 40,000 rows x 2,048 uint16 tokens (seeded, about 1.3 GB, written once below bench/data). Beside the loader
stand copies of the very same rows in the same files, with all addresses known beforehand, into one array that is used
again and again: a compiled loop of one thread (`row_kernel.py`: memcpy, or vectorised widening), and plain numpy in two
ways (row by row; by shard with fancy indexing), of which the faster one counts. All take turns in one process. Every
page is mapped before. Before each turn, what the loader has ready is taken untimed.

With `--stages`, the loader runs alone, and its `stats()` say where the thread that makes batches spends its time.

With `--stores`, loaders of the same tokens in several stores take turns instead: MDS rows; the same rows of flat token
files (Megatron pairs, documents of 1 to some 8,000 tokens, mean 1,000); rows of a packing of their documents. Each is
also read with `documents=True`. Ratios are to the rows of MDS.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from row_kernel import copy_rows

import mixstream as ms
from mixstream.plan.compiled import compile_at_once
from mixstream_tools.cli import main as mixstream_main

DOMAINS, SEQ = 8, 2048
SPARE_ROWS = 8192
DATA = Path(__file__).parent / "data"


def corpus(rows: int) -> list[Path]:
    """Write the domains once; return their directories."""
    paths = []
    for d in range(DOMAINS):
        path = DATA / f"loader-{rows}" / f"domain{d}"
        paths.append(path)
        if (path / "index.json").exists():
            continue
        rng = np.random.default_rng(d)
        with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{SEQ}"}, out=str(path), exist_ok=True) as writer:
            for _ in range(rows):
                writer.write({"tokens": rng.integers(0, 50_000, SEQ, dtype=np.uint16)})
        print(f"wrote {path}", file=sys.stderr)
    return paths


def token_files(paths: list[Path]) -> list[Path]:
    """Write the tokens of the domains as Megatron pairs once; return their .idx files."""
    found = []
    for d, path in enumerate(paths):
        index = path.parent / f"flat{d}_document.idx"
        found.append(index)
        if index.exists():
            continue
        tokens = 0
        with index.with_suffix(".bin").open("wb") as file:
            for shard in sorted(path.glob("shard.*.mds")):
                raw = np.memmap(shard, dtype=np.uint8, mode="r")
                body = raw[int(raw[4:8].view("<u4")[0]) :]
                file.write(body.data)
                tokens += len(body) // 2
        lengths = np.maximum(np.random.default_rng(d).lognormal(6.4, 1.0, tokens // 200).astype(np.int64), 1)
        count = int(np.searchsorted(np.cumsum(lengths), tokens))
        lengths = np.append(lengths[:count], tokens - int(lengths[:count].sum())).astype("<i4")
        begins = (np.cumsum(lengths, dtype=np.int64) - lengths) * 2
        head = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + bytes([8])
        head += len(lengths).to_bytes(8, "little") + (len(lengths) + 1).to_bytes(8, "little")
        documents = np.arange(len(lengths) + 1, dtype="<i8")
        index.write_bytes(head + lengths.tobytes() + begins.astype("<i8").tobytes() + documents.tobytes())
    return found


def packings(indexes: list[Path]) -> list[Path]:
    """Pack the documents of the pairs once, best-fit; return the packings."""
    found = []
    for index in indexes:
        place = index.with_name(f"{index.stem}-packed")
        found.append(place)
        if not place.exists():
            packed = ["pack", str(index), "--seq-len", str(SEQ), "--pad-id", "0", "--out", str(place)]
            if mixstream_main(packed):
                raise SystemExit(f"could not pack {index}")
    return found


def compare_stores(paths: list[Path], *, batch_size: int, widen: bool, rounds: int, rows: int) -> list[str]:
    """Return a line for each store: rows/s, and the ratio to the rows of MDS."""
    indexes = token_files(paths)
    stores = {
        "MDS rows": [ms.Stream(local=str(path)) for path in paths],
        "flat token files": [ms.Stream(remote=str(index), seq_len=SEQ) for index in indexes],
        "packed, best-fit": [
            ms.Stream(remote=str(index), packing=str(packed)) for index, packed in zip(indexes, packings(indexes))
        ],
    }
    steps = rows // rounds // batch_size
    rate: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        batches = {}
        for name, streams in stores.items():
            for documents in (False, True):
                if documents and name == "MDS rows":
                    continue  # these have no documents
                dataset = ms.StreamingDataset(streams=streams, batch_size=batch_size, shuffle=True)
                loader = stack.enter_context(ms.Loader(dataset, widen=widen, documents=documents))
                batches[name + (" + documents" if documents else "")] = iter(loader)
        for each in batches.values():
            next(each)
        contenders = list(batches)
        for turn in range(rounds):
            at = turn % len(contenders)
            for name in contenders[at:] + contenders[:at]:
                wall, _ = timed(lambda _, each=batches[name]: next(each), range(steps - 1))
                rate.setdefault(name, []).append((steps - 1) * batch_size / wall)
    lines = []
    for name, found in rate.items():
        ratios = [ours / base for ours, base in zip(found, rate["MDS rows"])]
        lines.append(
            f"{batch_size:>10}  {'int64' if widen else 'uint16':>9}  {name:28}  {statistics.median(found):>10,.0f}  "
            f"{statistics.median(ratios):>5.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        )
    return lines


def make_dataset(paths: list[Path], batch_size: int) -> ms.StreamingDataset:
    """Return the dataset under test: shuffled, natural mixing, windows of the default size."""
    return ms.StreamingDataset(streams=[ms.Stream(local=str(p)) for p in paths], batch_size=batch_size, shuffle=True)


class Sources:
    """The rows of the steps of a run, in mappings of their own: what is copied, with every address known beforehand."""

    def __init__(self, dataset: ms.StreamingDataset, steps: int) -> None:
        run = dataset.run
        walk = run.walk(run.start(), None)
        found = run.run_plan.addressing.locate(
            [rows for _ in range(steps) if (rows := walk.advance())], run.run_plan.part
        )
        self.views: dict[int, np.ndarray] = {}
        for s in np.unique(np.concatenate([at.shard_B for at in found])).tolist():
            domain, number = dataset.domains.home(s)
            info = domain.shards[number]
            raw = np.memmap(domain.files.path(info.raw.basename), dtype=np.uint8, mode="r")
            first = int(raw[4:8].view("<u4")[0])
            self.views[s] = raw[first:].view("<u2").reshape(info.samples, SEQ)
        self.rows = [list(zip(at.shard_B.tolist(), at.row_B.tolist())) for at in found]
        base_S = np.zeros(max(self.views) + 1, dtype=np.uint64)
        base_S[list(self.views)] = [view.ctypes.data for view in self.views.values()]
        self.address = [base_S[at.shard_B] + (at.row_B * 2 * SEQ).astype(np.uint64) for at in found]
        self.grouped = []
        for at in found:
            here = [(s, np.flatnonzero(at.shard_B == s)) for s in np.unique(at.shard_B).tolist()]
            self.grouped.append([(s, to, at.row_B[to]) for s, to in here])
        sum(int(view[:, ::1024].max()) for view in self.views.values())  # every page is mapped


class Plain:
    """The same batches, copied by numpy or by a compiled loop into one array, which is used again and again."""

    def __init__(self, sources: Sources, dtype: type) -> None:
        self.sources = sources
        self.out = np.empty((len(sources.rows[0]), SEQ), dtype=dtype)

    def by_row(self, step: int) -> None:
        """Copy one batch row by row."""
        out, views = self.out, self.sources.views
        for i, (shard, row) in enumerate(self.sources.rows[step]):
            out[i] = views[shard][row]

    def by_shard(self, step: int) -> None:
        """Copy one batch with one fancy-indexed copy per shard."""
        for shard, to, rows in self.sources.grouped[step]:
            self.out[to] = self.sources.views[shard][rows]

    def kernel(self, step: int) -> None:
        """Copy one batch with one call of the compiled loop."""
        copy_rows(self.sources.address[step], self.out)


class Endless:
    """The batches of a loader, epoch after epoch."""

    def __init__(self, loader: ms.Loader) -> None:
        self._loader, self._batches = loader, iter(loader)

    def __call__(self, _: int) -> ms.Batch:
        for batch in self._batches:
            return batch
        self._batches = iter(self._loader)
        return next(self._batches)


def timed(action: Callable[[int], object], steps: range) -> tuple[float, float]:
    """Return (wall, CPU) seconds of one call per step."""
    wall, cpu = time.perf_counter(), time.process_time()
    for step in steps:
        action(step)
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(paths: list[Path], *, batch_size: int, widen: bool, rounds: int, rows: int) -> str:
    """Return one line of the table."""
    spare = max(SPARE_ROWS // batch_size, 8)  # steps that are ready before a turn, or being made: not timed
    steps = spare + max(rows // rounds // batch_size, 24)
    dtype = np.int64 if widen else np.uint16
    sources = Sources(make_dataset(paths, batch_size), rounds * steps)
    plain = Plain(sources, dtype)
    with ms.Loader(make_dataset(paths, batch_size), widen=widen) as loader:
        batches, per_epoch = Endless(loader), len(loader)
        first = batches(0)["tokens"]
        for copy in (plain.by_row, plain.by_shard, plain.kernel):
            plain.out[:] = 0
            copy(0)
            if not torch.equal(first, torch.from_numpy(plain.out)):
                raise SystemExit("the loader and the plain gather do not deliver the same rows")
        for _ in range(per_epoch):  # every page is mapped
            batches(0)
        contenders = [
            ("loader", batches),
            ("by row", plain.by_row),
            ("by shard", plain.by_shard),
            ("kernel", plain.kernel),
        ]
        rate: dict[str, list[float]] = {name: [] for name, _ in contenders}
        cpu: dict[str, list[float]] = {name: [] for name, _ in contenders}
        for turn in range(rounds):
            first_step, last = turn * steps + spare, (turn + 1) * steps
            for name, action in contenders[turn % 4 :] + contenders[: turn % 4]:
                timed(action, range(first_step - spare, first_step))
                wall, used = timed(action, range(first_step, last))
                done = (last - first_step) * batch_size
                rate[name].append(done / wall)
                cpu[name].append(used / (done * SEQ / 1e6))
                time.sleep(0.02)  # the loader fills its queue
    best = max(("by row", "by shard"), key=lambda name: statistics.median(rate[name]))
    return (
        f"{batch_size:>6}  {np.dtype(dtype).name:>6}  {tokens_of(rate['loader']):>6,.0f}  "
        f"{tokens_of(rate['kernel']):>6,.0f}  {ratio(rate['loader'], rate['kernel'])}  "
        f"{ratio(cpu['loader'], cpu['kernel'])}  {ratio(rate['loader'], rate[best])}  "
        f"{ratio(cpu['loader'], cpu[best])}  {best}"
    )


def stages(paths: list[Path], *, batch_size: int, widen: bool, rows: int) -> str:
    """Return one line: µs a batch of the trainer, of the stages of the thread that makes batches, and its CPU."""
    steps = rows // batch_size
    with ms.Loader(make_dataset(paths, batch_size), widen=widen) as loader:
        batches = Endless(loader)
        for _ in range(len(loader)):  # every page is mapped
            batches(0)
        before, used = loader.stats(), time.process_time()
        wall, _ = timed(batches, range(steps))
        found, used = loader.stats() - before, time.process_time() - used
    spent = [wall, found.plan or 0.0, found.locate or 0.0, found.gather or 0.0, found.cpu or 0.0, used]
    shown = "  ".join(f"{1e6 * seconds / steps:>7.1f}" for seconds in spent)
    return f"{batch_size:>6}  {'int64' if widen else 'uint16':>8}  {shown}"


def tokens_of(rates: list[float]) -> float:
    """Return the median of rows/s as million tokens/s."""
    return statistics.median(rates) * SEQ / 1e6


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Return the median ratio of the turns, with the lowest and the highest."""
    found = [a / b for a, b in zip(ours, theirs)]
    return f"{statistics.median(found):>5.2f} [{min(found):.2f}, {max(found):.2f}]"


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=40_000, help="rows per domain")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64, 256, 1024, 4096], help="rows per batch")
    parser.add_argument("--cores", type=int, default=2, help="cores that the process is pinned to")
    parser.add_argument("--only", choices=["uint16", "int64"], help="one of the dtypes that are delivered")
    parser.add_argument("--rounds", type=int, default=9, help="turns that loader and gather take")
    parser.add_argument("--stores", action="store_true", help="rows of MDS, of flat token files, and packed ones")
    parser.add_argument("--stages", action="store_true", help="where the thread that makes batches spends its time")
    compile_at_once()
    options = parser.parse_args()
    paths = corpus(options.rows)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{platform.processor() or platform.machine()}, cores: {cores}; Python {platform.python_version()}, torch "
        f"{torch.__version__}, numpy {np.__version__}; {DOMAINS} domains x {options.rows:,} rows x {SEQ} uint16"
    )
    rows = min(DOMAINS * options.rows, 200_000)
    if options.stores:
        print("batch rows  delivered  store                             rows/s  ratio [min, max]")
        for batch_size in options.batch_sizes:
            for widen in (False, True):
                sizes = {"batch_size": batch_size, "rounds": options.rounds, "rows": rows}
                print("\n".join(compare_stores(paths, widen=widen, **sizes)), flush=True)
        return
    if options.stages:
        print("µs a batch\n batch  delivers     wall     plan   locate   gather  its CPU  all CPU")
        for batch_size in options.batch_sizes:
            for widen in (False, True):
                print(stages(paths, batch_size=batch_size, widen=widen, rows=rows), flush=True)
        return
    print("million tokens/s of loader and kernel; medians of the turns' ratios [min, max]")
    print("batch  delivers  loader  kernel  loader / kernel      CPU time             loader / numpy       CPU time")
    for batch_size in options.batch_sizes:
        for widen in (False, True):
            if options.only in (None, "int64" if widen else "uint16"):
                print(compare(paths, batch_size=batch_size, widen=widen, rounds=options.rounds, rows=rows), flush=True)


if __name__ == "__main__":
    main()
