"""Cost does not grow: start, steps and resumes against shards, domains, batch size, ranks and steps.

    python bench/scale.py [--json PATH] [--quick] [shards domains batch ranks resume ...]

Each curve is printed as a table, and written to PATH as {curve: [{column: number}]}. Every point runs in a process of
its own, imports and the loading of compiled loops not counted; the figure is the best of a few runs in that process,
except for starts. Indexes only declare their shards (as in bench/startup.py) unless batches are read.

- shards: from `StreamingDataset(...)` to the first addresses: seconds, CPU seconds and memory over the imports, for
  the first start on an index and a later one; and CPU seconds of the first state, which has a digest of all entries;
- domains, batch: ms a step of 1024 rows: planning, locating, and a whole batch of `Loader`; the state's size and how
  long it takes to save and load;
- ranks: seconds that one of N simulated ranks takes to open and plan, and what a step costs it;
- resume: ms from a state at step N to the first batch, by face; and to an epoch or a number of samples without one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mixstream as ms
from mixstream.formats import FileInfo, Index, ShardInfo, dump_index
from mixstream.plan.compiled import compile_at_once

ROW = 8  # tokens of a declared sample, of 2 bytes


def declare(path: Path, samples: int, shards: int) -> None:
    """Write an index of `samples` samples of 16 bytes in `shards` shards, as MDSWriter writes it."""
    count = samples // shards
    raw = {"basename": "shard.{:07}.mds", "bytes": 4 + 4 * (count + 1) + 200 + 2 * ROW * count, "hashes": {}}
    one = ShardInfo(
        samples=count,
        column_names=("tokens",),
        column_encodings=(f"ndarray:uint16:{ROW}",),
        column_sizes=(2 * ROW,),
        compression=None,
        hashes=(),
        size_limit=None,
        raw=FileInfo(basename="shard.NUMBER.mds", bytes=int(raw["bytes"]), hashes={}),
        zip=None,
    )
    whole = dump_index(Index(shards=(one,), extra={})).decode()
    begin, end = whole.index('[{"col') + 1, whole.rindex("}]") + 1
    entry = whole[begin:end]
    path.mkdir(parents=True)
    entries = ", ".join(entry.replace("NUMBER", f"{i:07}") for i in range(shards))
    (path / "index.json").write_text(whole[:begin] + entries + whole[end:])


def write(path: Path, samples: int) -> None:
    """Write a small dataset of real rows."""
    with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{ROW}"}, out=str(path), size_limit=1 << 20) as writer:
        for i in range(samples):
            writer.write({"tokens": np.full(ROW, i % 60000, np.uint16)})


def peak() -> float:
    """Return the most memory that this process has used so far, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def best(call: Callable[[], Any], seconds: float = 0.5, least: int = 3) -> float:
    """Return the shortest time of a call, in seconds."""
    found: list[float] = []
    until = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def first_addresses(dataset: Any) -> Any:
    """Return the addresses of the first batch, and where the walk is then."""
    run = dataset.run
    walk = run.walk(dataset.position.cursor, run.weights(None))
    rows = walk.advance()
    assert rows is not None
    run.run_plan.addressing.locate([rows], run.run_plan.part)
    return walk


def warm() -> None:
    """Import what any start imports, which does not depend on how much there is."""
    with tempfile.TemporaryDirectory() as scratch:
        declare(Path(scratch) / "warm", 100, 1)
        walk = first_addresses(ms.StreamingDataset(local=f"{scratch}/warm", batch_size=4, shuffle=True))
        walk.advance()


# --- points: what a child measures --------------------------------------------------------------------------------


def of_shards(scratch: str, shards: int) -> dict[str, float]:
    """Measure one start on an index of `shards` shards."""
    warm()
    before, began, cpu = peak(), time.perf_counter(), time.process_time()
    dataset = ms.StreamingDataset(local=f"{scratch}/shards{shards}", batch_size=512, shuffle=True)
    first_addresses(dataset)
    found = {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu, "mb": peak() - before}
    cpu = time.process_time()
    dataset.state_dict()
    return {**found, "state_s": time.process_time() - cpu}


def streams(scratch: str, domains: int) -> list[Any]:
    """Return the streams of `domains` domains, of Zipf's weights."""
    return [
        ms.Stream(name=f"d{k:05}", local=f"{scratch}/domains/{k}", proportion=1.0 / (k + 1)) for k in range(domains)
    ]


def of_domains(scratch: str, domains: int, batch: int = 1024) -> dict[str, float]:
    """Measure a step of `batch` rows of so many domains."""
    warm()
    began = time.perf_counter()
    dataset = ms.StreamingDataset(
        streams=streams(scratch, domains), batch_size=batch, shuffle=True, epoch_size=batch * 10**6
    )
    walk = first_addresses(dataset)
    found = {"start_s": time.perf_counter() - began}
    compile_at_once()  # as in all steps but the first ones
    run_plan, rows = dataset.run.run_plan, walk.advance()
    found["plan_ms"] = best(walk.advance) * 1e3
    found["locate_ms"] = best(lambda: run_plan.addressing.locate([rows], run_plan.part)) * 1e3
    document = dataset.run.document(walk.cursor, None)
    found["state_kb"] = len(json.dumps(document)) / 1e3
    found["save_ms"] = best(lambda: dataset.run.document(walk.cursor, None)) * 1e3

    def load() -> None:
        dataset.load_state_dict(document)
        _ = dataset.position.cursor

    found["load_ms"] = best(load, least=2) * 1e3
    dataset = ms.StreamingDataset(
        streams=streams(scratch, domains), batch_size=batch, shuffle=True, epoch_size=batch * 10**6
    )
    with ms.Loader(dataset, device=None) as loader:
        batches = iter(loader)
        for _ in range(8):
            next(batches)
        cpu, began, steps = time.process_time(), time.perf_counter(), 40
        for _ in range(steps):
            next(batches)
        found["loader_ms"] = (time.perf_counter() - began) / steps * 1e3
        found["loader_cpu_ms"] = (time.process_time() - cpu) / steps * 1e3
    return found


def of_ranks(scratch: str, ranks: int) -> dict[str, float]:
    """Measure the last of `ranks` ranks, of 8 a node, 8 rows a step each: start, and a step."""
    warm()
    nodes = max(ranks // 8, 1)
    began = time.perf_counter()
    dataset = ms.StreamingDataset(
        streams=streams(scratch, 8),
        batch_size=8,
        shuffle=True,
        epoch_size=10**9,
        rank=ranks - 1,
        world_size=ranks,
        nodes=nodes,
        num_canonical_nodes=nodes,
    )
    walk = first_addresses(dataset)
    found = {"lanes": dataset.run.plan.lanes, "start_ms": (time.perf_counter() - began) * 1e3}
    compile_at_once()
    run_plan = dataset.run.run_plan

    def step() -> None:
        rows = walk.advance()
        run_plan.addressing.locate([rows], run_plan.part)

    found["step_ms"] = best(step) * 1e3
    found["state_kb"] = len(json.dumps(dataset.run.document(walk.cursor, None))) / 1e3
    return found


RESUME_ROWS = 64
MOST_WALKED = 10**4  # steps that are walked one by one, where every step has other weights; more take minutes
WEIGHTS = {"natural": {}, "even": {"a": 0.3, "b": 0.7}, "irrational": {"a": 2**0.5, "b": 3**0.5}}
SCHEDULES = {
    "schedule": ms.mixers.Schedule({0: WEIGHTS["irrational"], 50: {"a": 0.6, "b": 0.4}}),
    "linear": ms.mixers.Schedule({0: WEIGHTS["even"], 10**7: {"a": 0.6, "b": 0.4}}, kind="linear"),
}


def two_domains(scratch: str, weights: str, *, steps: int | None = None, **options: Any) -> Any:
    """Return a dataset of two small domains, 64 rows a step; `steps` of an epoch, or what the domains hold."""
    if weights in SCHEDULES:
        options["mixer"] = SCHEDULES[weights]
    if steps is not None:
        options["epoch_size"] = steps * RESUME_ROWS
    shares = WEIGHTS.get(weights, {})
    made = [
        ms.Stream(name=name, local=f"{scratch}/{name}", **({"proportion": shares[name]} if shares else {}))
        for name in "ab"
    ]
    return ms.StreamingDataset(streams=made, batch_size=RESUME_ROWS, shuffle=True, **options)


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the ms that a call takes, and its result."""
    began = time.perf_counter()
    result = call(*arguments)
    return (time.perf_counter() - began) * 1e3, result


def by_loader(dataset: Any, state: Any) -> Any:
    """Return the first batch of `Loader`."""
    with ms.Loader(dataset, device=None) as loader:
        loader.load_state_dict(state)
        return next(iter(loader))


def by_streaming(dataset: Any, state: Any) -> Any:
    """Return the first batch of `StreamingDataLoader`."""
    loader = ms.StreamingDataLoader(dataset, batch_size=RESUME_ROWS)
    loader.load_state_dict(state)
    return next(iter(loader))


def by_torch(dataset: Any, state: Any) -> Any:
    """Return the first batch of a plain DataLoader."""
    from torch.utils.data import DataLoader

    dataset.load_state_dict(state)
    return next(iter(DataLoader(dataset, batch_size=RESUME_ROWS)))


FACES = {"Loader": by_loader, "StreamingDataLoader": by_streaming, "DataLoader": by_torch}


def set_next_epoch(dataset: Any, epoch: int) -> None:
    """Go to the beginning of an epoch, without a state."""
    dataset.next_epoch = epoch


def of_resume(scratch: str, step: int) -> dict[str, float]:
    """Measure the first batch of each face from a state at `step`, and the ways there without one."""
    warm()
    found: dict[str, float] = {"step": step}
    for weights in ("natural", *SCHEDULES):
        first = two_domains(scratch, weights)
        for face in FACES.values():  # what the first batch of a process pays
            face(two_domains(scratch, weights), first.state_dict())
    walked = "linear" if step > MOST_WALKED else ""
    for weights in ("natural", "even", "irrational", *SCHEDULES):
        if weights == walked:
            continue
        dataset = two_domains(scratch, weights)
        epoch = step // dataset.run.plan.steps_per_epoch
        found[f"{weights}: next_epoch"], _ = timed(set_next_epoch, dataset, epoch)
        state = dataset.state_dict()
        for name, face in FACES.items():
            found[f"{weights}: {name}"], _ = timed(face, two_domains(scratch, weights), state)
    for weights in ("irrational", *SCHEDULES):
        if weights == walked:
            continue
        dataset = two_domains(scratch, weights, steps=2 * 10**6)
        next(iter(dataset))
        found[f"{weights}: num_samples"], state = timed(dataset.state_dict, step * RESUME_ROWS)
        found[f"{weights}: long epoch"], _ = timed(by_loader, two_domains(scratch, weights, steps=2 * 10**6), state)
    dataset = two_domains(scratch, "natural", order="mosaic")
    place = {"epoch": step // dataset.run.plan.steps_per_epoch, "sample_in_epoch": RESUME_ROWS}
    found["mosaic: Loader"], _ = timed(by_loader, dataset, dataset.state_dict(num_samples=0) | place)
    return found


# --- curves ---------------------------------------------------------------------------------------------------------


def point(scratch: Path, curve: str, *at: int, fresh: bool = True) -> dict[str, float]:
    """Measure one point in a process of its own; `fresh` empties the temporary directory that caches lie in."""
    place = scratch / "tmp"
    if fresh:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "--point", curve, "--at", *map(str, at), "--scratch", str(scratch)]
    environment = {**os.environ, "TMPDIR": str(place)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def shards_curve(scratch: Path, quick: bool) -> list[dict[str, float]]:
    """Return the start against shards."""
    found = []
    for shards in (10**3, 10**4, 10**5, 10**6)[: 3 if quick else 4]:
        declare(scratch / f"shards{shards}", 1000 * shards, shards)
        first, later = point(scratch, "shards", shards), point(scratch, "shards", shards, fresh=False)
        index = (scratch / f"shards{shards}" / "index.json").stat().st_size / 1e6
        found.append(
            {
                "shards": shards,
                "index_mb": index,
                **{f"first_{name}": value for name, value in first.items()},
                **{f"later_{name}": value for name, value in later.items()},
            }
        )
        shutil.rmtree(scratch / f"shards{shards}")
    return found


def make_domains(scratch: Path, domains: int) -> None:
    """Copy one small dataset `domains` times."""
    if not (scratch / "domains" / "0").exists():
        write(scratch / "domains" / "0", 64)
    for k in range(domains):
        if not (there := scratch / "domains" / str(k)).exists():
            shutil.copytree(scratch / "domains" / "0", there)


def domains_curve(scratch: Path, quick: bool) -> list[dict[str, float]]:
    """Return a step of 1024 rows against domains."""
    numbers = (1, 10, 100, 1000, 10**4)[: 4 if quick else 5]
    make_domains(scratch, numbers[-1])
    return [{"domains": k, **point(scratch, "domains", k)} for k in numbers]


def batch_curve(scratch: Path, quick: bool) -> list[dict[str, float]]:
    """Return a step of 1000 domains against its rows."""
    make_domains(scratch, 1000)
    numbers = (16, 256, 1024, 4096)[: 3 if quick else 4]
    return [{"batch": b, **point(scratch, "domains", 1000, b)} for b in numbers]


def ranks_curve(scratch: Path, quick: bool) -> list[dict[str, float]]:
    """Return one rank's cost against ranks."""
    make_domains(scratch, 8)
    return [{"ranks": n, **point(scratch, "ranks", n)} for n in (1, 8, 64, 1024)[: 3 if quick else 4]]


def resume_curve(scratch: Path, quick: bool) -> list[dict[str, float]]:
    """Return the first batch against the step of the state."""
    for name in "ab":
        write(scratch / name, 20_000)
    return [point(scratch, "resume", n) for n in (10**2, 10**4, 10**6)[: 2 if quick else 3]]


CURVES = {
    "shards": shards_curve,
    "domains": domains_curve,
    "batch": batch_curve,
    "ranks": ranks_curve,
    "resume": resume_curve,
}
POINTS = {"shards": of_shards, "domains": of_domains, "ranks": of_ranks, "resume": of_resume}


def show(name: str, rows: list[dict[str, float]]) -> None:
    """Print a curve: a column per measure; of many measures, a line per measure."""
    print(f"\n{name}")
    if len(rows[0]) > 12:
        width = max(map(len, rows[0]))
        for key in rows[0]:
            print(
                f"  {key:<{width}} " + " ".join(f"{row[key]:>12,.4g}" if key in row else f"{'-':>12}" for row in rows)
            )
        return
    print("  " + " ".join(f"{key:>13}" for key in rows[0]))
    for row in rows:
        print("  " + " ".join(f"{value:>13,.4g}" for value in row.values()))


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=f"of {', '.join(CURVES)}; all if none is given")
    parser.add_argument("--json", type=Path, help="write the curves to this file")
    parser.add_argument("--quick", action="store_true", help="leave out the largest points")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--at", nargs="*", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        warnings.simplefilter("ignore")
        print(json.dumps(POINTS[options.point](options.scratch, *options.at)))
        return
    if unknown := [name for name in options.curves if name not in CURVES]:
        parser.error(f"there is no curve {unknown[0]!r}; choose of {', '.join(CURVES)}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.curves or CURVES:
            found[name] = CURVES[name](Path(scratch), options.quick)
            show(name, found[name])
            if options.json:
                options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
