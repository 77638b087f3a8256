"""All measurements that README and docs quote, part by part: what `make bench` runs.

    python bench/suite.py [PART …] [--quick] [--list] [--runs runs/bench]

Each part is a script that prints its numbers; they are shown as they come, and kept in `runs/bench/PART.json` with the
machine, the versions, the commit, the command and, where the script writes one, its own JSON as `measured`. A part that
fails is named at the end, and the others run. `--quick` runs only the parts that have a small form, in that form, to
see that all works: its numbers are not to be quoted. `bench/charts.py` draws from these files.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Part:
    """A command, run from the root: `{python}` is ours, `{json}` a file that it writes; `quick` is its small form."""

    run: str
    what: str
    quick: str | None = None


PARTS = {
    "peers": Part(
        "{python} bench/peers --out {json}",
        "Loader against its peers: the chart of README",
        quick="{python} bench/peers --quick --out {json}",
    ),
    "scale": Part(
        "{python} bench/scale.py --json {json}",
        "cost against shards, domains, batch size, ranks and steps",
        quick="{python} bench/scale.py --quick --json {json}",
    ),
    "loader": Part(
        "{python} bench/loader.py",
        "Loader against a plain gather",
        quick="{python} bench/loader.py --rows 2000 --rounds 3",
    ),
    "row_buffers": Part("{python} bench/row_buffers.py", "what several buffers cost, and stores past the caches"),
    "stores": Part("{python} bench/loader.py --rows 16000 --stores", "MDS, token files and packings"),
    "first_batch": Part("{python} bench/first_batch.py", "the first batch of a fresh process"),
    "dataloader": Part("{python} bench/dataloader.py", "StreamingDataset in torch's DataLoader"),
    "gil": Part("{python} bench/gil.py", "waiting beside a trainer that holds the GIL"),
    "gpu": Part("{python} bench/gpu.py", "what a GPU gets; skipped where there is none"),
    "far": Part("{python} bench/far.py", "first batches and epochs from object storage"),
    "startup": Part(
        "{python} bench/startup.py --json {json}",
        "start against samples",
        quick="{python} bench/startup.py --shards 100 --json {json}",
    ),
    "documents": Part("{python} bench/documents.py", "columns that mark documents"),
    "packing": Part("{python} bench/packing.py", "padding and cuts of packings"),
    "storage": Part("{python} bench/storage.py", "an epoch from S3 against obstore"),
    "checks": Part("{python} bench/checks.py", "hashes on arrival, and durable"),
    "soak": Part("{python} bench/soak.py --minutes 3 --seed 2", "reading through faults and kill -9"),
    "convert": Part("bench/convert.sh", "converting, against its peers"),
    "convert_sources": Part("{python} bench/convert_sources.py --kill", "converting real files of all kinds"),
    "convert_memory": Part("{python} bench/convert_memory.py", "memory of converting"),
    "selection": Part(
        "for part in reading lookups embedding kmeans keep; do {python} bench/selection.py $part || exit; done; "
        "OMP_NUM_THREADS=1 {python} bench/selection.py scoring",
        "reading, making and applying selections",
    ),
    "selection_large": Part("{python} bench/selection.py --large", "selecting among 10 million rows"),
    "attribution": Part("{python} bench/attribution.py", "attribution against retraining"),
    "losses": Part("{python} bench/losses.py", "losses by domain at the model's head"),
    "mixing_cost": Part("{python} bench/mixing_cost.py", "what mixing costs a step"),
    "mixing": Part(
        "{python} bench/mixing.py", "worlds with a known best mixture", quick="{python} bench/mixing.py --quick"
    ),
    "mixing_text": Part("{python} bench/mixing_text.py", "every mixer on real text (half an hour)"),
    "pruning_text": Part("{python} examples/prune_then_train.py", "training on pruned text"),
    "pruning_faults": Part("{python} -m mixstream_tools.cli demo selection", "what pruning finds among planted faults"),
}


def run(name: str, *, quick: bool, runs: Path) -> bool:
    """Run a part and write its file; return whether it succeeded."""
    part = PARTS[name]
    template = (part.quick or part.run) if quick else part.run
    document: dict[str, Any] = {"part": name, "quick": quick, "machine": machine()}
    print(f"\n== {name}: {part.what}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch) / f"{name}.json"
        command = template.format(python=shlex.quote(sys.executable), json=own)
        began, printed = time.perf_counter(), []
        with subprocess.Popen(
            command, shell=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                printed.append(line.rstrip("\n"))
        document |= {
            "command": template.format(python="python", json="FILE"),
            "status": process.returncode,
            "seconds": round(time.perf_counter() - began, 1),
            "load_after": round(os.getloadavg()[0], 2),
            "printed": printed,
        }
        if own.exists():
            document["measured"] = json.loads(own.read_text())
    runs.mkdir(parents=True, exist_ok=True)
    (runs / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return process.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; return the exit status: 0, or 1 where a part failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to run (all)")
    parser.add_argument("--quick", action="store_true", help="only the small forms, to see that all works")
    parser.add_argument("--list", action="store_true", help="say which parts there are")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench", help="where the files go (runs/bench)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen = options.parts or [name for name, part in PARTS.items() if part.quick or not options.quick]
    if options.list:
        for name in chosen:
            print(f"{name:16} {PARTS[name].what}")
        return 0
    failed = [name for name in chosen if not run(name, quick=options.quick, runs=options.runs)]
    print(f"\n{len(chosen) - len(failed)} of {len(chosen)} parts ran; their files are in {options.runs}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
