"""How close `Loader` comes to copying bytes: rows/s and CPU-seconds per million tokens, on one core.

    python bench/loader.py [--rows 40000] [--batch-sizes 64 512] [--rounds 9] [--stores]

8 domains x 40,000 rows x 2,048 uint16 tokens (seeded, about 1.3 GB, written once below bench/data). Beside the loader
stands a plain numpy gather of the very same rows from the same mapped files: addresses, views and the output buffer are
made beforehand and cost it nothing. Of two ways to write it (row by row; by shard with fancy indexing) the faster one
counts. All take turns in one process, pinned to one core, so that the loader's background thread, its plan and its
look-up of addresses are paid for there too. In a turn each copies the same fresh rows, every one of them for the first
time through its own mapping; who goes first changes from turn to turn.

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

import mixstream as ms
from mixstream_tools.cli import main as mixstream_main

DOMAINS, SEQ = 8, 2048
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


class PlainGather:
    """The same batches, copied by numpy with everything known beforehand."""

    def __init__(self, dataset: ms.StreamingDataset, steps: int, dtype: type) -> None:
        run = dataset.run
        walk = run.walk(run.start(), None)
        found = run.run_plan.addressing.locate(
            [rows for _ in range(steps) if (rows := walk.advance())], run.run_plan.part
        )
        self.views: list[np.ndarray] = []
        slots: dict[int, int] = {}
        self.batches: list[list[tuple[int, int]]] = []
        for at in found:
            batch = []
            for s, r in zip(at.shard_B.tolist(), at.row_B.tolist()):
                if s not in slots:
                    slots[s] = len(self.views)
                    domain, number = dataset.domains.home(s)
                    info = domain.shards[number]
                    raw = np.memmap(domain.files.path(info.raw.basename), dtype=np.uint8, mode="r")
                    first = int(raw[4:8].view("<u4")[0])
                    self.views.append(raw[first:].view("<u2").reshape(info.samples, SEQ))
                batch.append((slots[s], r))
            self.batches.append(batch)
        self.grouped = []
        for batch in self.batches:
            slot, row = np.array(batch).T
            self.grouped.append([(s, np.flatnonzero(slot == s), row[slot == s]) for s in np.unique(slot).tolist()])
        self.out = np.empty((len(self.batches[0]), SEQ), dtype=dtype)

    def by_row(self, step: int) -> None:
        """Copy one batch row by row."""
        out, views = self.out, self.views
        for i, (slot, row) in enumerate(self.batches[step]):
            out[i] = views[slot][row]

    def by_shard(self, step: int) -> None:
        """Copy one batch with one fancy-indexed copy per shard."""
        for slot, to, rows in self.grouped[step]:
            self.out[to] = self.views[slot][rows]


def timed(action: Callable[[int], object], steps: range) -> tuple[float, float]:
    """Return (wall, CPU) seconds of one call per step."""
    wall, cpu = time.perf_counter(), time.process_time()
    for step in steps:
        action(step)
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(paths: list[Path], *, batch_size: int, widen: bool, rounds: int, rows: int) -> str:
    """Return one line of the table."""
    steps = rows // rounds // batch_size
    dataset = make_dataset(paths, batch_size)
    dtype = np.int64 if widen else np.uint16
    by_row, by_shard = PlainGather(dataset, rounds * steps, dtype), PlainGather(dataset, rounds * steps, dtype)
    with ms.Loader(make_dataset(paths, batch_size), widen=widen) as loader:
        batches = iter(loader)
        first = next(batches)["tokens"]
        by_row.by_row(0)
        if not torch.equal(first, torch.from_numpy(by_row.out)):
            raise SystemExit("the loader and the plain gather do not deliver the same rows")
        contenders = [("loader", lambda _: next(batches)), ("by row", by_row.by_row), ("by shard", by_shard.by_shard)]
        rate: dict[str, list[float]] = {name: [] for name, _ in contenders}
        cpu: dict[str, list[float]] = {name: [] for name, _ in contenders}
        for turn in range(rounds):
            for name, action in contenders[turn % 3 :] + contenders[: turn % 3]:
                wall, used = timed(action, range(turn * steps + (turn == 0), (turn + 1) * steps))
                done = (steps - (turn == 0)) * batch_size
                rate[name].append(done / wall)
                cpu[name].append(used / (done * SEQ / 1e6))
    best = max(("by row", "by shard"), key=lambda name: statistics.median(rate[name]))
    ratios = [ours / theirs for ours, theirs in zip(rate["loader"], rate[best])]
    return (
        f"{batch_size:>10}  {np.dtype(dtype).name:>9}  {statistics.median(rate['loader']):>13,.0f}  "
        f"{statistics.median(rate[best]):>10,.0f} {'(' + best + ')':10}  {statistics.median(ratios):>5.2f} "
        f"[{min(ratios):.2f}, {max(ratios):.2f}]  {statistics.median(cpu['loader']):>10.5f}  "
        f"{statistics.median(cpu[best]):>8.5f}"
    )


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=40_000, help="rows per domain")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 512], help="rows per batch")
    parser.add_argument("--rounds", type=int, default=9, help="turns that loader and gather take")
    parser.add_argument("--stores", action="store_true", help="rows of MDS, of flat token files, and packed ones")
    options = parser.parse_args()
    paths = corpus(options.rows)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, one core; Python {platform.python_version()}, ", end="")
    print(
        f"torch {torch.__version__}, numpy {np.__version__}; {DOMAINS} domains x {options.rows:,} rows x {SEQ} uint16"
    )
    rows = min(DOMAINS * options.rows, 200_000)
    if options.stores:
        print("batch rows  delivered  store                             rows/s  ratio [min, max]")
        for batch_size in options.batch_sizes:
            for widen in (False, True):
                sizes = {"batch_size": batch_size, "rounds": options.rounds, "rows": rows}
                print("\n".join(compare_stores(paths, widen=widen, **sizes)), flush=True)
        return
    print(
        "batch rows  delivered  loader rows/s  plain gather rows/s    ratio [min, max]  CPU s/1e6 tokens: loader, plain"
    )
    for batch_size in options.batch_sizes:
        for widen in (False, True):
            print(compare(paths, batch_size=batch_size, widen=widen, rounds=options.rounds, rows=rows), flush=True)


if __name__ == "__main__":
    main()
