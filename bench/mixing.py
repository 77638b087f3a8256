"""The nine acceptance experiments of online mixing, each with the limit that it has to keep.

    python bench/mixing.py [--quick] [--only 1 2]

The worlds are those of examples/mixing_worlds.py: toys whose best mixture is known. A limit is there so that a method
that broke is noticed. None of it is evidence that a method helps on real text; experiment 6 shows worlds without much
to gain. "share" is the part of the gain from uniform weights to the best static mixture that a run recovers: 1 is all,
below 0 is worse than uniform. The best is a formula, or that of a grid in steps of .1, chosen per seed with hindsight.
All runs of one seed read the same samples. A line gives the mean over seeds, the lowest and the highest, and a limit
that every seed has to keep. What mixing costs is in mixing_cost.py.

The exit status is 1 if a limit is missed. --quick plays one seed instead of three.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mixing_transfer import transfer
from table import Table, text_of

from mixstream.errors import FeedbackError
from mixstream.mixers import ADO, ODM, Aioli
from mixstream.types import Feedback
from mixstream_examples.mixing_worlds import (
    Bigram,
    Linear,
    Play,
    PowerLaws,
    Text,
    alike,
    easy_shared,
    one_unlearnable,
    overlapping,
    share,
)

GOLDENS = Path(__file__).parent.parent / "tests" / "goldens" / "mixing"
UNIFORM = np.full(3, 1 / 3)


def relative_noise(explained: Mapping[str, Any]) -> float:
    """Return Aioli's own standard error of what moves its weights, over the spread of that between domains."""
    return float(np.mean(explained["column_sums_error"]) / np.std(explained["column_sums"]))


# --- 1 and 2: ADO where the best mixture is a formula -----------------------------------------------------------------


W1_WINDOWS: dict[str, Any] = {"ignore_steps": 200, "start_step": 400, "update_interval": 400}


def w1_ado(**options: Any) -> ADO:
    """Return ADO's released form with windows that fit 4000 steps."""
    return ADO.reference(**W1_WINDOWS, **options)


def play_w1(mixer: ADO, *, seed: int, noise: float = 0.01, lag: int = 0) -> Play:
    return Play(PowerLaws(noise=noise, seed=seed), mixer, rows=64, lag=lag).run(4000)


def fit_recovery(table: Table) -> None:
    table.title("1. ADO finds the exponents: three power laws with alpha = .35, 4000 steps of 64 rows, own counts")
    world = PowerLaws()
    for noise, limit in ((0.0, 0.01), (0.01, 0.02)):
        plays = [play_w1(w1_ado(same_step=False), seed=seed, noise=noise) for seed in (table.seeds if noise else [0])]
        wrong = [np.abs(np.asarray(play.explain()["alpha"]) - world.alpha).max() for play in plays]
        table.line(f"largest error of a fitted alpha, noise {noise:.0%}", wrong, at_most=limit, form="7.4f")
        if not noise:
            away = np.abs(plays[0].weights_TK[-1] - world.frozen_point()).max()
            last = text_of(plays[0].weights_TK[-1])
            table.line(f"weights {last} less frozen point {text_of(world.frozen_point())}", away, at_most=0.03)


def gain(table: Table) -> None:
    world = PowerLaws()
    best, rows = world.best_static(), 4000 * 64
    uniform, lowest = world.loss_of(UNIFORM, rows), world.loss_of(best, rows)
    table.title(
        f"2. What ADO gains there, noise 1%: loss {uniform:.4f} uniform, {lowest:.4f} with the best {text_of(best)}"
    )
    cases: list[tuple[str, ADO, int, float | None]] = [
        ("own counts", w1_ado(same_step=False), 0, 0.9),
        ("released form (same_step)", w1_ado(), 0, 0.6),
        ("own counts, weights 200 steps late", w1_ado(same_step=False), 200, 0.9),
        ("released form, weights 200 steps late", w1_ado(), 200, 0.6),
        ("released form, s = 0", w1_ado(s=0.0), 0, None),
        ("released form, s = 1 (positive feedback: collapses)", w1_ado(s=1.0), 0, None),
        ("ADO(), short windows", ADO(**W1_WINDOWS), 0, 0.9),
        ("ADO() as typed", ADO(), 0, 0.7),
        ("ADO(same_step=True), short windows", ADO(**W1_WINDOWS, same_step=True), 0, None),
    ]
    for what, mixer, lag, limit in cases:
        plays = [play_w1(mixer, seed=seed, lag=lag) for seed in table.seeds]
        shares = [share(play.world.validate().mean(), uniform=uniform, best=lowest) for play in plays]
        last = text_of(np.mean([play.weights_TK[-1] for play in plays], axis=0))
        table.line(f"share: {what} -> {last}", shares, at_least=limit)


# --- 3: the reference implementations' own trajectories ---------------------------------------------------------------


def replay(mixer: Any, prior: Sequence[float], counts: Sequence[Any], losses: Sequence[Any]) -> list[np.ndarray]:
    """Feed recorded counts and losses (None: absent) to `mixer`; return the weights after each step."""
    weights_K = np.asarray(prior, dtype=float) / np.sum(prior)
    state, served = mixer.init(weights_K), []
    for step, (count, loss) in enumerate(zip(counts, losses)):
        rows_K = np.asarray(count, dtype=float)
        loss_sum_K = np.nan_to_num(np.array(loss, dtype=float)) * rows_K
        feedback = Feedback(
            step=step,
            effective=step + 1,
            rows_K=rows_K,
            weights_K=weights_K,
            loss_sum_K=loss_sum_K,
            count_K=np.where(np.isfinite(np.array(loss, dtype=float)), rows_K, 0.0),
        )
        state, weights_K = mixer.update(state, feedback)
        served.append(weights_K)
    return served


def goldens(table: Table) -> None:
    table.title(
        "3. Trajectories of the reference implementations, replayed from tests/goldens/mixing (more in the tests)"
    )
    for name in ("ado_policy_k3", "ado_policy_k3_own_counts"):
        golden = json.loads((GOLDENS / f"{name}.json").read_text())
        config = golden["config"]
        mixer = ADO.reference(
            ignore_steps=config["ignore_steps"],
            start_step=config["start_step"],
            update_interval=config["update_interval"],
            same_step=config["use_same_step_size"],
        )
        served = replay(mixer, config["prior_token_counts"], golden["counts"], golden["mean_loss"])
        away = np.abs(np.array(served) - np.array(golden["dist"])).max()
        table.line(f"{name}: largest difference of a weight, own fits", away, at_most=5e-4, form="7.1e")


# --- 4: what Aioli measures -------------------------------------------------------------------------------------------


def aioli(**options: Any) -> Aioli:
    """Return Aioli with the shipped round of three domains: 250 steps, of which 4 sweeps of 3 probes of 6 steps."""
    return Aioli(
        **{"round_steps": 250, "sweeps": 4, "probe_steps": 6, "one_hot": 0.5, "eta": 0.1, "ema": None, **options}
    )


def one_hot_effect(world: Bigram, *, steps: int, rows: int, restarts: int = 8) -> np.ndarray:
    """Return by how much `steps` steps on domain j alone, from here, lower the loss on i; mean of restarts, [K, K]."""
    effect_KK = np.zeros((3, 3))
    for restart in range(restarts):
        for j in range(3):
            fork = copy.deepcopy(world)
            fork.reseed(1_000 + restart)
            for _ in range(steps):
                fork.train(rows * np.eye(3, dtype=np.int64)[j])
            effect_KK[:, j] += (world.validate() - fork.validate()) / restarts
    return effect_KK


def fidelity(estimate_KK: np.ndarray, true_KK: np.ndarray) -> tuple[float, float]:
    """Return the score of Aioli's authors, of column sums, and its cosine alone."""
    a_K, b_K = estimate_KK.sum(axis=0), true_KK.sum(axis=0)
    cosine = float(a_K @ b_K / np.linalg.norm(a_K) / np.linalg.norm(b_K))
    spearman = float(np.corrcoef(a_K.argsort().argsort(), b_K.argsort().argsort())[0, 1])
    return 0.5 * cosine + 0.5 * spearman, cosine


def measure(make: Callable[[int], Text], seed: int, *, learning_rate: float, rows: int) -> dict[str, float]:
    """Play four rounds of Aioli; return means over rounds."""
    world = Bigram(make(seed), learning_rate=learning_rate, seed=seed)
    play = Play(world, aioli(ema=0.5), rows=rows)
    found: list[tuple[float, float, float]] = []
    for _ in range(4):
        true_KK = one_hot_effect(world, steps=6, rows=rows)
        play.run(250)
        explained = play.explain()
        found.append((*fidelity(explained["matrix"], true_KK), relative_noise(explained)))
    return dict(zip(("score", "cosine", "noise"), np.mean(found, axis=0).tolist()))


def recovery(table: Table) -> None:
    table.title(
        "4. What Aioli measures: A of a linear world, and one-hot restarts of a bigram LM (score of the authors)"
    )
    effect_KK = np.array([[0.02, 0.004, -0.003], [0.001, 0.03, 0.002], [0.006, 0.0, 0.01]])
    wrong = []
    for one_hot in (0.2, 0.5, 0.75, 1.0):
        for seed in range(3):  # of the order of probes
            mixer = Aioli(round_steps=60, sweeps=3, probe_steps=5, one_hot=one_hot, seed=seed)
            explained = Play(Linear(effect_KK), mixer, rows=64, lag=seed).run(60).explain()
            wrong.append(np.abs(explained["matrix"] - 5 * effect_KK).max())
    table.line("linear: largest error of A; q .2 .5 .75 1, 3 orders, lag 0-2", max(wrong), at_most=1e-9, form="7.1e")
    print("  score, its cosine alone, and the noise that Aioli itself reports over its signal; means of 4 rounds")
    quiet, noisy = {"learning_rate": 4.0, "rows": 512}, {"learning_rate": 20.0, "rows": 256}
    cases: list[tuple[str, Callable[[int], Text], dict[str, Any], float | None]] = [
        ("lr 4, batch 512, domains of experiment 5", one_unlearnable, quiet, 0.7),
        ("lr 4, batch 512, domains of experiment 6", alike, quiet, 0.7),
        ("lr 4, batch 512, three exchangeable domains", overlapping, quiet, None),
        ("lr 20, batch 256, domains of experiment 5", one_unlearnable, noisy, None),
        ("lr 20, batch 256, three exchangeable domains", overlapping, noisy, None),
    ]
    for what, make, setting, limit in cases:
        found = [measure(make, seed, **setting) for seed in table.seeds]
        table.line(f"score:  {what}", [f["score"] for f in found], at_least=limit)
        table.line("cosine", [f["cosine"] for f in found])
        table.line("noise", [f["noise"] for f in found])


# --- 5 and 6: a bigram LM where mixing pays, and one where it does not ------------------------------------------------


def bigram(text: Text, seed: int, mixer: Any = None, prior_K: np.ndarray | None = None) -> Play:
    """Train the bigram LM of `text` for 1000 steps of 512 pairs."""
    return Play(Bigram(text, learning_rate=4.0, seed=seed), mixer, rows=512, prior_K=prior_K).run(1000)


@cache
def static_grid(make: Callable[[int], Text], seed: int) -> tuple[float, float, tuple[float, ...]]:
    """Return the mean loss with uniform weights, and the lowest of a grid in steps of .1 with its weights."""
    grid = [np.array([a, b, 10 - a - b]) / 10 for a in range(1, 9) for b in range(1, 10 - a)]
    text = make(seed)
    losses = [bigram(text, seed, prior_K=weights_K).world.validate().mean() for weights_K in grid]
    uniform = bigram(text, seed).world.validate().mean()
    best = int(np.argmin(losses))
    return uniform, losses[best], tuple(grid[best])


def bigram_mixers() -> dict[str, Any]:
    """Return the methods that both bigram worlds are played with."""
    windows: dict[str, Any] = {"ignore_steps": 60, "start_step": 100, "update_interval": 100, "window": 51}
    return {
        "ADO released form, short windows, log eps >= -4": ADO.reference(**windows, log_eps_min=-4.0),
        "ADO the same, own counts": ADO.reference(**windows, log_eps_min=-4.0, same_step=False),
        "ADO(), short windows": ADO(**windows),
        "Aioli() with probes of three domains (eta 1, ema .1)": aioli(eta=1.0, ema=0.1),
        "Aioli eta 3, ema .1": aioli(eta=3.0, ema=0.1),
        "Aioli eta .1, ema .5": aioli(ema=0.5),
        "Aioli eta .2": aioli(eta=0.2),
        "Aioli eta 1": aioli(eta=1.0),
        "Aioli eta 3": aioli(eta=3.0),
        "Aioli eta 5, not normalised": aioli(eta=5.0, normalise=False),
        "ODM": ODM(),
    }


def shares(table: Table, make: Callable[[int], Text], limits: Mapping[str, float]) -> None:
    grids = [static_grid(make, seed) for seed in table.seeds]
    print(f"  {'seed':>6}  uniform  best of the static grid   gain")
    for seed, (uniform, lowest, best) in zip(table.seeds, grids):
        print(f"  {seed:>6}  {uniform:.4f}   {lowest:.4f} {text_of(best)}  {uniform - lowest:.4f}")
    for what, mixer in bigram_mixers().items():
        plays = [bigram(make(seed), seed, mixer) for seed in table.seeds]
        found = [
            share(play.world.validate().mean(), uniform=uniform, best=lowest)
            for play, (uniform, lowest, _) in zip(plays, grids)
        ]
        last = text_of(np.mean([play.weights_TK[-1] for play in plays], axis=0))
        table.line(f"share: {what} -> {last}", found, at_least=limits.get(what))


def mixing_pays(table: Table) -> None:
    table.title("5. One domain is noise (bigram LM; 4 easy contexts, 36 structured, 8 of noise; 1000 steps of 512)")
    limits = {"ADO released form, short windows, log eps >= -4": 0.8, "Aioli eta 1": 0.3}
    shares(table, one_unlearnable, limits | {"ADO(), short windows": 0.75})


def mixing_does_not_pay(table: Table) -> None:
    table.title("6. Honest negatives. Domains nearly alike: uniform is near the best (8, 16, 24 contexts)")
    shares(table, alike, {})
    print("  Exchangeable domains: no reason to leave uniform. Loss above that of uniform, in thousandths of a nat")
    uniform = [bigram(overlapping(seed), seed).world.validate().mean() for seed in table.seeds]
    for what, mixer in bigram_mixers().items():
        losses = [bigram(overlapping(seed), seed, mixer).world.validate().mean() for seed in table.seeds]
        table.line(what, 1e3 * np.subtract(losses, uniform), at_most=1.0 if what == "ADO(), short windows" else None)


# --- 7: going on where a run was cut ----------------------------------------------------------------------------------


def resume(table: Table) -> None:
    table.title("7. Resume: 1000 steps against some, saved as JSON, loaded, and the rest; repeated and early reports")
    mixers: dict[str, tuple[Any, int]] = {
        "ADO": (ADO.reference(ignore_steps=100, start_step=200, update_interval=200), 500),
        "ADO, between a refit and its effect, lag 4": (ADO(ignore_steps=100, start_step=200, update_interval=200), 601),
        "Aioli": (aioli(eta=1.0), 500),
        "Aioli, cut within a probe": (aioli(eta=1.0), 533),
        "ODM": (ODM(), 500),
    }
    for what, (mixer, cut) in mixers.items():
        lag = 4 if "lag" in what else 0
        whole = Play(PowerLaws(noise=0.01), mixer, rows=64, lag=lag).run(1000)
        first = Play(PowerLaws(noise=0.01), mixer, rows=64, lag=lag).run(cut)
        rest = Play(first.world, mixer, rows=64, lag=lag).load(first.save()).run(1000 - cut)
        same = np.array(whole.weights_TK) == np.array(first.weights_TK + rest.weights_TK)
        table.line(f"{what}, cut at {cut}: weights that differ", float((~same).sum()), at_most=0, form="7.0f")
    play = Play(PowerLaws(noise=0.01), aioli(eta=1.0), rows=64).run(600)
    assert play.loop is not None
    saved, taken = play.save(), 0
    for step in (0, 598, 599, 601, 700):
        with contextlib.suppress(FeedbackError):
            play.loop.conclude(step, np.ones(3), np.ones(3))
            taken += 1
    table.line("reports of steps 0 598 599 601 700 that were taken where 600 is due", taken, at_most=0, form="7.0f")
    table.line("state that changed by them", float(play.save() != saved), at_most=0, form="7.0f")
    print("  (not played here: reports through a loader, which puts them in order)")


# --- 8: long runs, where a model forgets what it is not shown ---------------------------------------------------------


def long_runs(table: Table) -> None:
    table.title("8. Long runs: 10000 steps of 512 pairs, ADO with its defaults. Loss above that of uniform, in nats")
    worlds: dict[str, tuple[Callable[[int], Text], float | None]] = {
        "exchangeable domains, where nothing can be gained": (overlapping, 0.01),
        "an easy domain whose contexts another one uses otherwise": (easy_shared, 0.03),
        "domains of experiment 6": (alike, 0.0),
        "domains of experiment 5": (one_unlearnable, 0.0),
    }
    for what, (make, limit) in worlds.items():
        cases = {"ADO()": (ADO(), limit), "ADO(forgetting='ignore')": (ADO(forgetting="ignore"), None)}
        for name, (mixer, most) in cases.items():
            lost = []
            for seed in table.seeds:
                uniform, play = (
                    Play(Bigram(make(seed), learning_rate=4.0, seed=seed), policy, rows=512).run(10_000)
                    for policy in (None, mixer)
                )
                lost.append(play.world.validate().mean() - uniform.world.validate().mean())
            table.line(f"{name}: {what}", lost, at_most=most, form="7.4f")


EXPERIMENTS: dict[str, Callable[[Table], None]] = {
    "1": fit_recovery,
    "2": gain,
    "3": goldens,
    "4": recovery,
    "5": mixing_pays,
    "6": mixing_does_not_pay,
    "7": resume,
    "8": long_runs,
    "9": transfer,
}


def main() -> None:
    """Print the tables; exit with status 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="WHICH")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    table = Table(seeds=range(1 if options.quick else 3))
    for name in options.only:
        EXPERIMENTS[name](table)
    sys.exit(table.close())


if __name__ == "__main__":
    main()
