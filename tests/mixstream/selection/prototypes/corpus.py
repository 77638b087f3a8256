"""A corpus of unit vectors whose difficulty and duplicates are known, for the tests of this folder."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Corpus:
    """4,000 originals around 40 directions, 1,000 near-duplicates of some of them, and 300 copies of one template."""

    vectors_ND: np.ndarray
    group_N: np.ndarray  # rows of one group are duplicates of each other
    spread_N: np.ndarray  # of the originals: how far each was moved from its direction
    originals: int


def make_corpus(
    seed: int = 0, *, originals: int = 4000, copies: int = 1000, template: int = 300, d: int = 64
) -> Corpus:
    rng = np.random.default_rng(seed)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    directions = unit(rng.standard_normal((40, d)))
    spread = rng.uniform(0.05, 0.25, originals)
    base = unit(directions[rng.integers(40, size=originals)] + spread[:, None] * rng.standard_normal((originals, d)))
    of = rng.integers(originals, size=copies)
    near = unit(base[of] + 0.01 * rng.standard_normal((copies, d)))
    boilerplate = unit(unit(rng.standard_normal(d)) + 0.01 * rng.standard_normal((template, d)))
    return Corpus(
        vectors_ND=np.concatenate([base, near, boilerplate]).astype(np.float32),
        group_N=np.concatenate([np.arange(originals), of, np.full(template, originals)]),
        spread_N=spread,
        originals=originals,
    )
