"""What online mixing does on real text: every method trains the same small transformer on equally many bytes.

    python bench/mixing_text.py [--seeds 0 1 2] [--workers 2] [--methods Natural ADO] [--quick]

The text is the demo's: up to five kinds of documents that are on any machine with Python and torch
(tools/demo/text.py), as bytes. The model is that of examples/train.py, with its learning rate as the highest of a
warm-up and a cosine. All settings below were written down before the first run: they are defaults, or follow from the
length of the run. Two defaults of the library were changed after a first run of this bench, and both are shown: ADO
counts a domain's own rows now (`ADO all n` has the total, as before and as released), which this bench and the worlds
of bench/mixing.py favour, and Aioli's eta is 1 (`Aioli .2` has 0.2, as before). Nothing else was. Finished runs are
kept in runs/mixing_text/results.jsonl, and the same command goes on from there, as long as text, settings and mixers'
options are the same; where their code has changed, delete the file.

Two means of the domains' validation losses are reported, since methods aim at different ones: the `average` over
domains (Stratified, Aioli, and ADO from an even prior), and the `natural` mean, weighted by the domains' sizes
(Natural, and ADO from its usual prior). UniMax and ODM name no such aim. The best of the static grid is chosen, once
for each mean and over all seeds, by rows of its own; what is reported is measured on other rows. The choice costs as
many trainings as the grid has mixtures, where every other method takes one.

What this is not: evidence for large models. The model has 158 thousand parameters and sees little more than a megabyte;
licences resemble each other, so that validation on documents that were not trained on is easy there; and three seeds
are few.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from text_training import Job, Setting, TextData, check_parts, prepare, train

from mixstream.mixers import ADO, ODM, Aioli, Natural, Static, Stratified, Temperature, UniMax

OUT = Path(__file__).parent.parent / "runs" / "mixing_text"
WHOLE = Setting(steps=600, rows=16, probe=32, judged=256)
QUICK = Setting(steps=160, rows=4, probe=4, judged=8)
MEANS = ("average", "natural")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to mix; `grid` says whether it belongs to the static grid."""

    mixer: Any
    grid: bool = False
    even_prior: bool = False


def methods(data: TextData, setting: Setting) -> dict[str, Method]:
    """Return what is compared, by name."""
    steps, names = setting.steps, data.names
    # ADO's defaults are for runs of many thousands of steps. Here: the first tenth of the losses is not fitted, the
    # first law comes after a fifth, the next ones every tenth of the run.
    windows: dict[str, Any] = {
        "ignore_steps": steps // 10,
        "start_step": steps // 5,
        "update_interval": steps // 10,
        "window": steps // 12 // 2 * 2 + 1,
        "subsample": max(1, steps // 300),
    }
    return {
        "Natural": Method(mixer=Natural(), grid=True),
        "Stratified": Method(mixer=Stratified(), grid=True),
        "UniMax": Method(mixer=UniMax(budget=steps * setting.rows, max_epochs=1)),
        "ODM": Method(mixer=ODM()),
        "ADO": Method(mixer=ADO(**windows)),
        "ADO all n": Method(mixer=ADO(**windows, same_step=True)),
        "ADO even": Method(mixer=ADO(**windows), even_prior=True),
        # Aioli's round is a quarter of the run, and half as many sweeps as by default leave most of it to exploit.
        "Aioli": Method(mixer=Aioli(round_steps=steps // 4, sweeps=2)),
        "Aioli .2": Method(mixer=Aioli(round_steps=steps // 4, sweeps=2, eta=0.2)),
        "tau 1.5": Method(mixer=Temperature(1.5), grid=True),
        "tau 3": Method(mixer=Temperature(3), grid=True),
        **{f"2x {name}": Method(mixer=Static({k: 1 + (k == name) for k in names}), grid=True) for name in names},
    }


# --- runs, and those that are done ------------------------------------------------------------------------------------


def key_of(data: TextData, setting: Setting, job: Job) -> str:
    """Return a digest of all that a run's result depends on, the code and the machine aside."""
    said = [data.identity, asdict(setting), repr(job.mixer), job.even_prior, job.seed]
    return blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()


def finished(file: Path) -> dict[str, dict[str, Any]]:
    """Return the results in `file` by key. A last line that was cut off is removed, so that the next is whole."""
    if not file.exists():
        return {}
    content = file.read_bytes()
    if (whole := content.rfind(b"\n") + 1) < len(content):
        os.truncate(file, whole)
    results = [json.loads(line) for line in content[:whole].splitlines()]
    return {result["key"]: result for result in results}


def run_all(data: TextData, setting: Setting, jobs: dict[str, Job], file: Path, *, workers: int) -> None:
    """Train `jobs`, as many at once as there are workers, and append each result to `file` when it is there."""
    began = time.perf_counter()
    # One thread per run, in numpy too, so that runs do not share a core.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool, file.open("a", encoding="utf-8") as results:
        running = {pool.submit(train, data, setting, job): key for key, job in jobs.items()}
        for number, future in enumerate(as_completed(running), 1):
            try:
                key, result = running[future], future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            job = jobs[key]
            line = {"key": key, "method": job.method, "seed": job.seed, "mixer": repr(job.mixer), **result}
            results.write(json.dumps(line) + "\n")
            results.flush()
            passed = time.perf_counter() - began
            print(
                f"{number}/{len(jobs)}  {job.method}, seed {job.seed}: average {np.mean(result['report']):.4f}  "
                f"[{passed:.0f} s, about {passed / number * (len(jobs) - number):.0f} s to go]",
                file=sys.stderr,
                flush=True,
            )


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of one method, a row per seed."""

    choose_SK: np.ndarray
    report_SK: np.ndarray
    results: Sequence[dict[str, Any]]

    def mean_S(self, which: str, size_K: np.ndarray, *, choosing: bool = False) -> np.ndarray:
        """Return the mean over domains, [seeds]: the average, or weighted by `size_K`."""
        loss_SK = self.choose_SK if choosing else self.report_SK
        return loss_SK.mean(axis=1) if which == "average" else loss_SK @ size_K / size_K.sum()


def spread(values: np.ndarray, form: str) -> str:
    """Return mean, lowest and highest."""
    return f"{values.mean():{form}} [{values.min():{form}}, {values.max():{form}}]"


def spread_of_gap(values: np.ndarray) -> str:
    """Return the same of differences; `~` marks those that do not have one sign in all seeds."""
    return spread(values, "+.1f") + (" ~" if values.min() <= 0 <= values.max() else "  ")


def best_of_grid(outcomes: dict[str, Outcome], grid: Sequence[str], which: str, size_K: np.ndarray) -> str:
    """Return the name of the grid's mixture with the lowest mean over seeds on the rows to choose by."""
    return min(grid, key=lambda name: float(outcomes[name].mean_S(which, size_K, choosing=True).mean()))


def show_losses(data: TextData, outcomes: dict[str, Outcome], shown: dict[str, str]) -> None:
    size_K = np.array(data.samples_K, dtype=float)
    print("\nValidation loss, nats per byte: mean over seeds; for the two means also the lowest and highest seed")
    print(
        f"  {'':<30}" + "".join(f"{name:>8}" for name in data.names),
        *(f"  {m + ' [lowest, highest]':>24}" for m in MEANS),
    )
    for title, name in shown.items():
        found = outcomes[name]
        each = "".join(f"{loss:8.4f}" for loss in found.report_SK.mean(axis=0))
        print(f"  {title:<30}{each}", *(f"  {spread(found.mean_S(m, size_K), '6.4f')}" for m in MEANS))
    show_gaps(outcomes, shown, size_K)


def show_gaps(outcomes: dict[str, Outcome], shown: dict[str, str], size_K: np.ndarray) -> None:
    for which in MEANS:
        against = [title for title in shown if title in ("Natural", "Stratified") or title.startswith(f"best, {which}")]
        print(f"\nThe {which} mean less that of another, in thousandths of a nat, by seed (below 0 is better; ~ a tie)")
        print(f"  {'':<30}" + "".join(f"{title:>28}" for title in against))
        for title, name in shown.items():
            mean_S = outcomes[name].mean_S(which, size_K)
            gaps = [
                "-  "
                if shown[other] == name
                else spread_of_gap(1e3 * (mean_S - outcomes[shown[other]].mean_S(which, size_K)))
                for other in against
            ]
            print(f"  {title:<30}" + "".join(f"{gap:>28}" for gap in gaps))


def show_mixtures(data: TextData, setting: Setting, outcomes: dict[str, Outcome]) -> None:
    size_K = np.array(data.samples_K, dtype=float)
    print(
        "\nShares of the rows read in the last quarter (Aioli's probes included), mean over seeds; most passes over a"
    )
    print("domain in the run; seconds of a run; CPU of the mixer's updates; evaluations that the mixer asked for")
    print(
        f"  {'':<14}" + "".join(f"{name:>7}" for name in data.names) + "   passes   wall s    update      evaluations"
    )
    for name, found in outcomes.items():
        rows_K = np.mean([result["rows"] for result in found.results], axis=0)
        last_K = np.mean([result["last_rows"] for result in found.results], axis=0)
        wall, cpu, took, asked, evaluating = (
            float(np.mean([result[what] for result in found.results]))
            for what in ("wall", "cpu", "updating", "evaluations", "evaluating")
        )
        cost = f"{took / setting.steps * 1e3:5.2f} ms {took / cpu:5.2%}" if took else f"{'-':>14}"
        evaluations = f"{asked:.0f} in {evaluating:.1f} s, {evaluating / wall:.1%}" if asked else "-"
        shares = "".join(f"{share:7.3f}" for share in last_K / last_K.sum())
        print(f"  {name:<14}{shares}  {(rows_K / size_K).max():>6.2f}  {wall:>7.1f}  {cost}   {evaluations}")


def show(data: TextData, setting: Setting, results: dict[str, list[dict[str, Any]]], ways: dict[str, Method]) -> None:
    """Print all tables of `results`, lists of one result per seed by method."""
    outcomes = {
        name: Outcome(
            choose_SK=np.array([result["choose"] for result in found]),
            report_SK=np.array([result["report"] for result in found]),
            results=found,
        )
        for name, found in results.items()
    }
    shown = {name: name for name in outcomes if not ways[name].grid or name in ("Natural", "Stratified")}
    if all(name in outcomes for name, way in ways.items() if way.grid):
        grid, size_K = [name for name, way in ways.items() if way.grid], np.array(data.samples_K, dtype=float)
        for which in MEANS:
            best = best_of_grid(outcomes, grid, which, size_K)
            shown[f"best, {which}: {best}"] = best
        print(f"\nThe static grid: {', '.join(grid)}. `2x` doubles one domain's weight of an even mixture.")
    shown |= {name: name for name in outcomes if name not in shown.values()}
    show_losses(data, outcomes, shown)
    show_mixtures(data, setting, outcomes)


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", help="names as in the tables; all if not given")
    parser.add_argument("--workers", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--quick", action="store_true", help="runs of a few seconds, which show that it works")
    options = parser.parse_args()
    setting = QUICK if options.quick else WHOLE
    data = prepare(OUT)
    check_parts(data, setting)
    ways = methods(data, setting)
    if unknown := sorted(set(options.methods or ()) - set(ways)):
        raise SystemExit(f"no method is called {unknown}; there are {list(ways)}")
    # Seed by seed: what was done before an interruption is a comparison already (--seeds 0).
    jobs = [
        Job(method=name, mixer=way.mixer, even_prior=way.even_prior, seed=seed)
        for seed in options.seeds
        for name, way in ways.items()
        if name in (options.methods or ways)
    ]
    keyed = {key_of(data, setting, job): job for job in jobs}
    file = OUT / "results.jsonl"
    known = finished(file)
    run_all(data, setting, {k: job for k, job in keyed.items() if k not in known}, file, workers=options.workers)
    known = finished(file)
    results: dict[str, list[dict[str, Any]]] = {}
    for key, job in keyed.items():
        results.setdefault(job.method, []).append(known[key])
    print(
        f"{platform.processor() or platform.machine()}; Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(
        f"{setting.steps} steps of {setting.rows} rows of 128 bytes; seeds {options.seeds}; {setting.judged} rows per "
        "domain to choose by and as many to report"
    )
    print("rows to train on: " + ", ".join(f"{name} {n:,}" for name, n in zip(data.names, data.samples_K)))
    show(data, setting, results, ways)


if __name__ == "__main__":
    main()
