"""DsDm on a language model whose answer is known: scores find the target's documents, and training confirms them.

This is the gate's version of the specification's table: half the steps and batch of `bench/attribution.py`, which runs
the whole table by the commands; the limits are the same.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny_lm import World, loss_on, losses, make_world, train  # pyright: ignore[reportMissingImports]

from mixstream.selection.datamodels import Proxy, attribute, lds, random_subsets

STEPS, BATCH, RATE = 100, 32, 5e-3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scores_of(world: World, models: list, output: str) -> tuple[np.ndarray, np.ndarray]:
    """Return scores for the mean of the queries, [N], and for each of the queries, [Q, N]."""
    proxies = [Proxy(model, dims=256, key=member, output=output) for member, model in enumerate(models)]
    rows = [proxy.features(list(world.docs_NT.numpy())) for proxy in proxies]
    queries = [proxy.features(list(world.queries_QT.numpy())).phi_NF for proxy in proxies]
    phi, weights = [each.phi_NF for each in rows], [each.one_minus_p_N for each in rows]
    targets = [np.concatenate([phi_QF.mean(axis=0, keepdims=True), phi_QF]) for phi_QF in queries]
    score, spread = attribute(phi, targets, weights if output == "log-odds" else None, damping=1.0)
    assert (spread > 0).all()
    return score[0], score[1:]


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    ranks = score.argsort().argsort()
    return (ranks[positive].mean() - (positive.sum() - 1) / 2) / (~positive).sum()


def test_scores_find_the_targets_documents_and_predict_what_training_gives() -> None:
    world = make_world()
    models = [train(world.docs_NT, seed=seed, steps=STEPS, batch=BATCH, rate=RATE) for seed in range(4)]
    score, per_query = scores_of(world, models, "log-odds")
    plain, _ = scores_of(world, models, "loss")

    order, plainly = np.argsort(-score), np.argsort(-plain)
    precision = world.is_target[order[:200]].mean()
    assert precision >= 0.90, "chance is .20"
    assert area_under_curve(score, world.is_target) >= 0.98
    assert abs(world.is_target[plainly[:200]].mean() - precision) <= 0.05

    def held_out(rows: np.ndarray) -> float:
        return loss_on(train(world.docs_NT[rows], seed=50, steps=STEPS, batch=BATCH, rate=RATE), world.held_out_HT)

    random = np.random.default_rng(5).permutation(1000)
    by_random, top = held_out(random[:200]), held_out(order[:200])
    assert top <= by_random - 0.8
    assert top <= held_out(np.flatnonzero(world.is_target)) + 0.15
    assert held_out(order[-200:]) >= by_random + 0.8
    assert held_out(order[:400]) <= held_out(random[:400]) - 0.4

    subsets, outcomes = random_subsets(1000, 12, seed=9), []
    for number, chosen in enumerate(subsets):
        model = train(world.docs_NT[chosen], seed=1000 + number, steps=STEPS, batch=BATCH, rate=RATE)
        outcomes.append(-losses(model, world.queries_QT).detach().numpy())
    outcome = np.array(outcomes)
    assert lds(score, subsets, outcome.mean(axis=1))[0] >= 0.65
    assert lds(per_query, subsets, outcome).mean() > 0.1, "single queries are noisy: about .25 with these few steps"
