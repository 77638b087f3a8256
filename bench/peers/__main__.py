"""`Loader` and its peers over the same rows: throughput, CPU time and first batches, each with its best setting.

    python bench/peers [--quick] [--rows 16000] [--rounds 9] [--seconds 0.6] [--only NAME …] [--out PATH]

8 domains x 16,000 rows x 2,048 random uint16 tokens, shuffled, mixed by fixed uneven weights, 256 rows a batch, warm.
Each peer stores the corpus in the format that its documentation recommends for tokens, written by its own writer, and
runs in an environment of its own (`env.sh`). Its adapter (`adapters/`) says how it is used and which settings are
swept; the best one of each takes part. Contenders take turns, each in a process of its own, pinned to the same cores;
those whose turn it is not are stopped. What arrives is compared with what was stored. Two passes: tokens widened to
int64, which models take, and tokens as stored. Then first batches in fresh processes, after `import torch`.

`--quick` takes 4,000 rows, fewer and shorter turns, and int64 only. The JSON is what `bench/charts.py` draws and
tabulates. Needs about 9 times the corpus on disk (0.5 GB; `bench/data/peers-ROWS`), and the same in the page cache.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from contender import Contender, ContenderError  # noqa: E402
from machine import machine  # noqa: E402
from measure import BATCH, Bench, best, note  # noqa: E402
from peer_corpus import DOMAINS, SEQ, Corpus, make_corpus  # noqa: E402

OURS = ("loader", "plain")
PEERS = ("mosaic", "litdata", "datasets", "grain", "webdataset", "torchdata", "lancedb")


def interpreter(name: str) -> str:
    """Return the Python of a contender; it is installed first where that is missing.

    Raises:
        ContenderError: it cannot be installed.
    """
    if name in OURS:
        return sys.executable
    made = subprocess.run([HERE / "env.sh", name], check=False, capture_output=True, text=True)
    if made.returncode:
        raise ContenderError(f"not installed: {made.stderr.strip().splitlines()[-1]}")
    return str(HERE.parents[1] / made.stdout.split()[-1])


def convert(name: str, python: str, corpus: Corpus, cores: list[int]) -> float:
    """Let a contender write the corpus in its own format, once; return the seconds that it took then."""
    out = corpus.directory / name
    done = out / "converted.json"
    if not done.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with Contender(python, name, corpus.directory, "convert", cores=cores, timeout=900) as contender:
            answer = contender.answer()
        done.write_text(json.dumps(answer))
        note(f"{name}: converted in {answer['seconds']:.1f} s")
    return json.loads(done.read_text())["seconds"]


def contenders_of(file: Path) -> dict[str, Any]:
    """Return the contenders of an earlier JSON, as this script wrote it or the suite wrapped it."""
    document = json.loads(file.read_text())
    return document.get("measured", document)["contenders"]


def installed(names: list[str], corpus: Corpus, cores: list[int], found: dict[str, Any]) -> dict[str, str]:
    """Return the Python of each contender that is installed and has written its data; say why of the others."""
    pythons = {}
    for name in names:
        try:
            python = interpreter(name)
            found[name]["convert_s"] = convert(name, python, corpus, cores)
            pythons[name] = python
        except ContenderError as error:
            note(f"{name}: {error}")
            found[name]["missing"] = str(error)
    return pythons


def choose(bench: Bench, dtype: str, earlier: dict[str, Any], found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the setting of each contender: the best of an earlier run, or of a sweep."""
    settings = {}
    for name in bench.pythons:
        setting = earlier.get(name, {}).get("setting", {}).get(dtype)
        if setting is None:
            swept = bench.sweep(name, dtype, importlib.import_module(f"adapters.{name}").SETTINGS)
            found[name].setdefault("sweep", {})[dtype] = swept
            setting = best(swept, "rows_per_second")
        if setting is None:
            found[name]["missing"] = found[name]["sweep"][dtype][0]["failed"]
        else:
            settings[name] = found[name].setdefault("setting", {})[dtype] = setting
    return settings


def measure(options: argparse.Namespace, document: dict[str, Any], save: Callable[[], None]) -> None:
    """Add all that is measured to a document, which is saved after each pass."""
    corpus = make_corpus(HERE.parent / "data" / f"peers-{options.rows}", options.rows)
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    found: dict[str, Any] = {name: {} for name in options.only}
    pythons = installed(options.only, corpus, cores, found)
    times = {"seconds": options.seconds, "rounds": options.rounds, "starts": options.starts}
    bench = Bench(corpus=corpus, pythons=pythons, cores=cores, **times)
    earlier = contenders_of(options.settings) if options.settings else {}
    shape = {"domains": DOMAINS, "rows": corpus.rows, "seq": SEQ, "batch": BATCH, "weights": corpus.weights}
    document |= {"corpus": shape, "cores": cores, "contenders": found}
    for dtype in options.dtypes:
        for name, turns in bench.turns(dtype, choose(bench, dtype, earlier, found)).items():
            found[name].setdefault("turns", {})[dtype] = turns
        save()
    soonest = {}
    for name, each in found.items():
        if "int64" in each.get("setting", {}):
            swept = each.get("sweep", {}).get("int64", [])
            soonest[name] = best(swept, "first") or earlier[name]["first"]["setting"]
    for name, seconds in bench.first_batches(soonest).items():
        found[name]["first"] = {"setting": soonest[name], "seconds": seconds}
    save()


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small form, to see that all works")
    parser.add_argument("--rows", type=int, help="rows per domain (16000; 4000 with --quick)")
    parser.add_argument("--rounds", type=int, help="turns of each contender (9; 5)")
    parser.add_argument("--seconds", type=float, help="seconds of a turn (0.6; 0.3)")
    parser.add_argument("--starts", type=int, help="fresh processes of each contender (5; 2)")
    parser.add_argument("--cores", type=int, default=2, help="cores that every contender may use (2)")
    parser.add_argument("--dtypes", nargs="+", choices=["int64", "uint16"], help="passes (both; int64)")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="do not sweep: take the best of this earlier JSON"
    )
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS], metavar="NAME")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "runs" / "bench" / "peers.json")
    options = parser.parse_args()
    defaults = {
        "rows": (16_000, 4_000),
        "rounds": (9, 5),
        "seconds": (0.6, 0.3),
        "starts": (5, 2),
        "dtypes": (["int64", "uint16"], ["int64"]),
    }
    for name, (full, quick) in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # contenders are stopped: nothing else would end them
    document = {"machine": machine(), "command": ["python", "bench/peers", *sys.argv[1:]]}
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        document["load_after"] = round(os.getloadavg()[0], 2)
        options.out.write_text(json.dumps(document, indent=1) + "\n")
        note(f"wrote {options.out}")

    measure(options, document, save)


if __name__ == "__main__":
    main()
