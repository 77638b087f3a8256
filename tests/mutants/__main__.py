"""Put each mistake of the curated list into the code, run the tests that should notice, and say which were noticed.

    python tests/mutants [--only TEXT] [--jobs 2]       # `make mutants [ONLY=TEXT]`

The tests that noticed one are then run without it: those that fail again prove nothing. A mistake after which tests
only pass their time limit is not counted as noticed, since a busy machine does that too. The status is 1 if less than
95 % of the mistakes were noticed, or if an entry of the list is broken.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mutant_list import Mutant, faults, read_list
from trial import Copy, Outcome, Trial, copies, run_all, warm_up

ENOUGH = 0.95
_WORDS = {"failed": "caught", "late": "LIMIT", "passed": "MISSED", "unfair": "BROKEN"}
_LIMIT = 120.0  # seconds for the tests of a mistake
_UNMUTATED_LIMIT = 600.0


def main() -> int:
    """Run the list; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tests/mutants", description="Put known mistakes into the code: do the tests notice?"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="mistakes whose name or list contains TEXT")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: cores)")
    asked = parser.parse_args()
    every = read_list()
    chosen = [mutant for mutant in every if asked.only.lower() in f"{mutant.listed_in}: {mutant.name}".lower()]
    if not chosen:
        print(f"None of {len(every)} mistakes has {asked.only!r} in its name.")
        return 1
    started = time.monotonic()
    warm_up()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        outcomes = _outcomes(chosen, Path(place), max(1, min(asked.jobs, len(chosen))))
    return _summary(outcomes, time.monotonic() - started)


def _outcomes(chosen: list[Mutant], place: Path, jobs: int) -> dict[Mutant, Outcome]:
    outcomes = {mutant: Outcome(kind="unfair", by=fault) for mutant, fault in faults(chosen).items()}
    for mutant, outcome in outcomes.items():
        _print(mutant, outcome)
    places = copies(place, jobs)
    trials = [Trial(tests=mutant.tests, mutant=mutant, limit=_LIMIT) for mutant in chosen if mutant not in outcomes]
    for trial, outcome in run_all(trials, places):
        assert trial.mutant is not None
        outcomes[trial.mutant] = outcome
        _print(trial.mutant, outcome)
    failing = _failing({outcome.test for outcome in outcomes.values() if outcome.test}, places)
    for mutant, outcome in outcomes.items():
        if outcome.test in failing:
            outcomes[mutant] = Outcome(kind="unfair", by=f"{outcome.test} fails without it")
            _print(mutant, outcomes[mutant])
    return outcomes


def _failing(tests: set[str], places: list[Copy]) -> set[str]:
    """Return which of these tests fail without a mistake: first those of a file together, then alone."""
    files: dict[str, list[str]] = {}
    for test in sorted(tests):
        files.setdefault(test.partition("::")[0], []).append(test)
    print(f"{len(tests)} tests noticed a mistake; they run without one …", flush=True)
    again: list[str] = []
    for trial, outcome in run_all(
        [Trial(tests=tuple(each), limit=_UNMUTATED_LIMIT) for each in files.values()], places
    ):
        again += trial.tests if outcome.kind != "passed" else ()
    alone = run_all([Trial(tests=(test,), limit=_UNMUTATED_LIMIT) for test in again], places)
    return {trial.tests[0] for trial, outcome in alone if outcome.kind != "passed"}


def _print(mutant: Mutant, outcome: Outcome) -> None:
    word = _WORDS[outcome.kind]
    by = f"by {outcome.by}" if outcome.kind == "failed" else outcome.by or f"by {', '.join(mutant.tests)}"
    print(f"{word:6}  {outcome.seconds:5.1f} s  {mutant.listed_in}: {mutant.name}\n{'':17}{by}", flush=True)


def _summary(outcomes: dict[Mutant, Outcome], seconds: float) -> int:
    for kind in ("late", "passed", "unfair"):
        for mutant in (mutant for mutant, outcome in outcomes.items() if outcome.kind == kind):
            print(f"{_WORDS[kind]:6}  {mutant.listed_in}: {mutant.name}")
    count = Counter(outcome.kind for outcome in outcomes.values())
    print(f"{'list':12}{'entries':>8}{'caught':>8}{'limit':>8}{'missed':>8}{'broken':>8}")
    for name in sorted({mutant.listed_in for mutant in outcomes}):
        here = Counter(outcome.kind for mutant, outcome in outcomes.items() if mutant.listed_in == name)
        print(f"{name:12}{here.total():8}" + "".join(f"{here[kind]:8}" for kind in _WORDS))
    fair = count["failed"] + count["late"] + count["passed"]
    share = count["failed"] / fair if fair else 0.0
    print(
        f"{count['failed']} of {fair} caught ({share:.1%}), {count['late']} by a time limit only, {count['passed']} "
        f"missed, {count['unfair']} broken in {seconds:.0f} s; wanted: {ENOUGH:.0%}, none broken"
    )
    return int(share < ENOUGH or count["unfair"] > 0)


if __name__ == "__main__":
    sys.exit(main())
