"""What the tests of the mixing log share: a log with known weights and losses. No test lives here."""

from __future__ import annotations

import contextlib

import numpy as np

from mixstream.feedback.log import MixingLog
from mixstream.plan.weights import quantise

NAMES = ("code", "law", "web")
SAMPLES_K = np.array([50, 19, 150])


def open_log(path, names=NAMES):
    """Give a log that is closed at the end of the `with`."""
    return contextlib.closing(MixingLog(path, names=names))


def weights_at(step):
    """Parts [K] that change every third step."""
    return quantise(np.random.default_rng(step // 3).dirichlet(np.ones(3)))


def begin(log, step=0, **facts):
    given = {"mixer": "ADO", "lag": 2, "global_batch_size": 8, "samples_K": SAMPLES_K, "row_tokens": 4}
    log.begin(step=step, **(given | facts))


def write(log, steps, weights=weights_at, rows=(3, 0, 5)):
    for step in steps:
        rows_K = np.array(rows, dtype=np.float64)
        log.write(
            step,
            weights_K=weights(step),
            rows_K=rows_K,
            loss_sum_K=rows_K * 4 * (2 + 1 / (1 + step)),
            count_K=rows_K * 4,
        )
