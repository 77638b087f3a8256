"""What torch's `DataLoader` delivers: million tokens/s over `StreamingDataset`, beside `Loader` and a peer's dataset.

    python bench/dataloader.py [--rows 16000] [--batch-size 256] [--rounds 7] [--columns tokens] [--peer PYTHON]

The corpus of `bench/loader.py`: 8 domains, rows of 2,048 uint16 tokens, shuffled and mixed by natural weights. Every
contender is a running iterator with its workers, and all take turns in one process; what its workers have made ahead is
handed out before each turn's clock starts. Of every batch each page is read, as a copy to a device would. CPU seconds
are those of the process and of the contender's workers. A plain `DataLoader` hands out uint16, as rows are stored;
`StreamingDataLoader` and `Loader` widen to int64.

`--peer` is a Python that can import mosaicml-streaming (`.venv-mosaic/bin/python` of `make test-mosaic`): the same
shards in its `StreamingDataset`, likewise in a `DataLoader`, in a process of its own that takes part in the turns.
`--before` is a checkout of another version of this package, likewise.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SEQ = 2048
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Contender:
    """An iterator over batches that takes turns with others, and what its turns took.

    Args:
        name: in the table.
        batches: endless, column -> tensor.
        workers: returns the process numbers of its workers.
        ahead: batches that workers may have ready when a turn begins.
    """

    name: str
    batches: Iterator[Any]
    workers: Callable[[], list[int]] = list
    ahead: int = 0
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    kind: str = ""

    def turn(self, steps: int) -> None:
        """Take `steps` batches against the clock."""
        for _ in range(self.ahead + 1):
            next(self.batches)
        wall, cpu, tokens, batch = time.perf_counter(), self._cpu(), 0, None
        for _ in range(steps):
            batch = next(self.batches)["tokens"]
            batch.view(-1).view(dtype=_bytes())[::4096].max()
            tokens += batch.numel()
        wall, cpu = time.perf_counter() - wall, self._cpu() - cpu
        self.kind = str(getattr(batch, "dtype", "")).removeprefix("torch.")
        self.rate.append(tokens / wall / 1e6)
        self.cpu.append(cpu / (tokens / 1e6))

    def _cpu(self) -> float:
        return time.process_time() + sum(map(_cpu_of, self.workers()))


def _bytes() -> Any:
    import torch

    return torch.uint8


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def endless(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Yield the batches of one epoch after the other."""
    while True:
        yield from make()


def dataloader(name: str, dataset: Any, kind: Any, workers: int, batch_size: int, **kwargs: Any) -> Contender:
    """Return a DataLoader of class `kind` over `dataset` as a contender."""
    options = dict(batch_size=batch_size, num_workers=workers, drop_last=True, **kwargs)
    if workers:
        options |= {"persistent_workers": True, "prefetch_factor": 2}
    loader = kind(dataset, **options)

    def pids() -> list[int]:
        running = getattr(loader, "_iterator", None)
        return [process.pid for process in getattr(running, "_workers", ())]

    return Contender(name, endless(lambda: iter(loader)), pids, ahead=2 * workers)


def ours(paths: list[Path], options: argparse.Namespace) -> list[Contender]:
    """Return the contenders of this package."""
    from torch.utils.data import DataLoader

    import mixstream as ms

    def dataset() -> Any:
        streams = [ms.Stream(local=str(path)) for path in paths]
        return ms.StreamingDataset(streams=streams, batch_size=options.batch_size, shuffle=True, epoch_size="4m")

    def own(samples: list[Any]) -> Any:
        import torch

        return {"tokens": torch.stack([torch.as_tensor(sample["tokens"]) for sample in samples])}

    found = [
        dataloader(f"DataLoader, {workers} workers", dataset(), DataLoader, workers, options.batch_size)
        for workers in options.workers
    ]
    busy = max(options.workers)
    found.append(
        dataloader(f"the same, own collate_fn, {busy}", dataset(), DataLoader, busy, options.batch_size, collate_fn=own)
    )
    for workers in options.workers:
        name = f"StreamingDataLoader, {workers} workers"
        found.append(dataloader(name, dataset(), ms.StreamingDataLoader, workers, options.batch_size))
    for widen in (False, True):
        loader = ms.Loader(dataset(), widen=widen)
        found.append(Contender(f"Loader, widen={widen}", endless(lambda loader=loader: iter(loader)), ahead=2))
    return [contender for contender in found if options.only in contender.name or contender.name.startswith("Loader")]


class Peer:
    """A process that runs contenders of another package; it takes a turn for every line that it gets.

    Args:
        kind: what it runs: "mosaic" or "mixstream".
        python: that can import the package.
        path: where Python looks first.
        paths: the shards.
        options: of this script.
    """

    def __init__(
        self, kind: str, python: str, path: str | Path, paths: list[Path], options: argparse.Namespace
    ) -> None:
        given = [*map(str, paths), "--batch-size", str(options.batch_size), "--steps", str(options.steps)]
        environment = os.environ | {"PYTHONPATH": str(path)}
        self._process = subprocess.Popen(
            [
                python,
                __file__,
                "--serve",
                kind,
                *given,
                "--only",
                options.only,
                "--workers",
                *map(str, options.workers),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.contenders = [Contender(name, iter(())) for name in self._line().split("|")]

    def _line(self) -> str:
        assert self._process.stdout is not None
        while not (line := self._process.stdout.readline()).startswith("peer: "):
            if not line:
                raise SystemExit("the peer's process ended")
        return line.removeprefix("peer: ").strip()

    def turn(self, number: int) -> None:
        """Let contender `number` take a turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        rate, cpu, kind = self._line().split()
        contender = self.contenders[number]
        contender.rate.append(float(rate))
        contender.cpu.append(float(cpu))
        contender.kind = kind

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # its workers are slow to end
            self._process.terminate()
            self._process.wait()


def serve(paths: list[Path], options: argparse.Namespace) -> None:
    """Be the peer: take a turn for each number that is read."""
    import torch

    torch.set_num_threads(1)
    if options.serve == "mixstream":
        contenders = [each for each in ours(paths, options) if not each.name.startswith("Loader")]
        for each in contenders:
            each.name = f"before: {each.name}"
    else:
        contenders = mosaic(paths, options)
    print("peer: " + "|".join(contender.name for contender in contenders), flush=True)
    for line in sys.stdin:
        contender = contenders[int(line)]
        contender.turn(options.steps)
        print(f"peer: {contender.rate[-1]} {contender.cpu[-1]} {contender.kind}", flush=True)


def mosaic(paths: list[Path], options: argparse.Namespace) -> list[Contender]:
    """Return the contenders of mosaicml-streaming, over the same shards."""
    from streaming import Stream, StreamingDataset  # type: ignore[import-not-found]
    from torch.utils.data import DataLoader

    contenders = []
    for workers in options.workers:
        streams = [Stream(local=str(path)) for path in paths]
        dataset = StreamingDataset(streams=streams, batch_size=options.batch_size, shuffle=True)
        name = f"mosaicml-streaming in DataLoader, {workers} workers"
        contenders.append(dataloader(name, dataset, DataLoader, workers, options.batch_size))
    return contenders


def report(found: list[Contender], base: Contender) -> None:
    """Print the table; ratios are to `base`, turn by turn."""
    print(f"{'':44}  {'dtype':7}  million tokens/s [min, max]   of {base.name!r}   CPU s/1e9 tokens")
    for each in found:
        ratios = [mine / theirs for mine, theirs in zip(each.rate, base.rate)]
        print(
            f"{each.name:44}  {each.kind:7}  {statistics.median(each.rate):>8,.0f} [{min(each.rate):,.0f}, "
            f"{max(each.rate):,.0f}]{'':8} {statistics.median(ratios):>6.3f}{'':12} "
            f"{1e3 * statistics.median(each.cpu):>7.2f}",
            flush=True,
        )


def main() -> None:
    """Run the turns and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=16_000, help="rows per domain")
    parser.add_argument("--batch-size", type=int, default=256, help="rows per batch")
    parser.add_argument("--steps", type=int, default=60, help="batches of a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each contender takes")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of workers")
    parser.add_argument("--only", default="", help="contenders whose name has this in it")
    parser.add_argument("--peer", help="a Python that can import mosaicml-streaming")
    parser.add_argument("--before", help="a checkout of another version of this package")
    options = parser.parse_args()
    if options.serve:
        serve(options.paths, options)
        return
    import torch
    from loader import corpus

    torch.set_num_threads(1)
    paths = corpus(options.rows)
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}; batches of {options.batch_size} rows, {options.rounds} turns of {options.steps} batches"
    )
    found = ours(paths, options)
    peers = []
    if options.peer:
        peers.append(Peer("mosaic", options.peer, ROOT / "tests" / "mosaic" / "stubs", paths, options))
    if options.before:
        peers.append(Peer("mixstream", sys.executable, options.before, paths, options))
    turns: list[Callable[[], None]] = [lambda each=each: each.turn(options.steps) for each in found]
    for peer in peers:
        turns += [lambda peer=peer, n=n: peer.turn(n) for n in range(len(peer.contenders))]
        found += peer.contenders
    for number in range(options.rounds):
        at = number % len(turns)
        for turn in turns[at:] + turns[:at]:
            turn()
    report(found, next((each for each in found if each.name.startswith("Loader, widen=True")), found[0]))
    for peer in peers:
        peer.close()


if __name__ == "__main__":
    main()
