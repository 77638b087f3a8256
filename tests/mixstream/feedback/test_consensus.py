"""What ranks conclude together: ranks of one process in lockstep, without torch.distributed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mixstream.distributed import differences
from mixstream.errors import RanksDisagreeError
from mixstream.feedback.consensus import RankConsensus
from mixstream.world import World

DOMAINS = 3


class Lockstep:
    """What all ranks of a job give, summed and compared as `Exchange` does."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self._given, self._meet = ranks, [None] * ranks, threading.Barrier(ranks, timeout=5)

    def exchange(self, rank: int) -> Any:
        def gathered(value: Any) -> list[Any]:
            self._given[rank] = value
            self._meet.wait()
            found = list(self._given)
            self._meet.wait()
            return found

        def agree(facts: Any, *, what: str) -> None:
            if found := differences(gathered(dict(facts))):
                raise RanksDisagreeError(f"the ranks disagree {what}:{found}")

        return SimpleNamespace(
            world=World(rank=rank, size=self.ranks),
            ranks=self.ranks,
            agree=agree,
            all_reduce=lambda values, **_: np.sum(gathered(np.array(values, dtype=np.float64)), axis=0),
            broadcast=lambda values, **_: gathered(values)[0],
        )


class Heard:
    """A feedback loop that remembers what it was given."""

    prior_K = np.full(DOMAINS, 1 / DOMAINS)

    def __init__(self) -> None:
        self.matrix_VK = self.validation_V = None
        self.missed: list[Any] = []

    def conclude(self, step: int, loss_sum_K: Any, count_K: Any, *, matrix_VK: Any, agree: Any) -> None:
        self.matrix_VK = matrix_VK

    def evaluated(self, step: int, validation_V: Any, *, agree: Any) -> tuple[int, Any]:
        self.validation_V = validation_V
        return step, self.prior_K

    def explain(self) -> dict[str, Any]:
        return {}


def together(ranks: int, act: Any) -> list[Any]:
    """Return what `act(consensus, rank)` returns or raises on each of `ranks`, and the loop of each."""
    lockstep = Lockstep(ranks)

    def run(rank: int) -> Any:
        consensus = RankConsensus(
            loop=Heard(),  # type: ignore[arg-type]
            weights=lambda step: None,
            facts=None,
            publish=lambda *_: None,
            channel=SimpleNamespace(exchange=lockstep.exchange(rank)),  # type: ignore[arg-type]
            log=None,
        )
        try:
            act(consensus, rank)
        except RanksDisagreeError as error:
            return str(error)
        except threading.BrokenBarrierError:
            return "another rank has ended"
        return consensus.loop

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, range(ranks)))


def decide(consensus: RankConsensus, step: int, matrix_VK: Any = None) -> None:
    ones_K = np.ones(DOMAINS)
    consensus.decide(
        step,
        np.ones((2, DOMAINS)),
        rows_K=ones_K,
        drawn_by_K=None,
        matrix_VK=matrix_VK,
        over_all_ranks=False,
    )


@pytest.mark.parametrize("step", [9, 100_000_001])
def test_steps_that_differ_are_named_also_if_their_sum_does_not(step):
    for told in together(3, lambda consensus, rank: decide(consensus, step + rank - 1)):
        assert f"step: {step - 1} on ranks [0]; {step} on ranks [1]; {step + 1} on ranks [2]" in told


def test_the_same_step_is_the_same_however_large():
    """Its square, over many ranks, is more than a float64 holds."""
    for heard in together(7, lambda consensus, rank: decide(consensus, (1 << 31) - 1)):
        assert isinstance(heard, Heard)


def test_matrices_of_ranks_are_averaged():
    matrix_VK = np.arange(2.0 * DOMAINS).reshape(2, DOMAINS)
    for heard in together(3, lambda consensus, rank: decide(consensus, 4, matrix_VK * (rank + 1))):
        np.testing.assert_array_equal(heard.matrix_VK, 2 * matrix_VK)


def test_a_validation_domain_without_rows_has_no_loss():
    sums = [np.array([[4.0, 0.0, 6.0], [2.0, 0.0, 1.0]]), np.array([[0.0, 0.0, 6.0], [0.0, 0.0, 3.0]])]
    found = together(2, lambda consensus, rank: consensus.decide_evaluation(5, sums[rank], means=False))
    for heard in found:
        np.testing.assert_array_equal(heard.validation_V, [2.0, np.nan, 3.0])
