"""What became of every row, held against what was planted.

Rules: pure functions on arrays. A near-copy and the passage that it was made of are worth the same, so that of a group
every member but one can go. Counts are reported as they are: real text that goes is not called a mistake (it may be a
real duplicate), and not called right.

Shape suffix: N rows of a domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.types import Int64

from .planted import Passage

DUPLICATE, OUTLIER, TYPICAL, KEPT = "duplicate", "outlier", "typical", "kept"
FATES = (DUPLICATE, OUTLIER, TYPICAL, KEPT)
"""What can become of a row: dropped by `prune dedup`, by the outlier cut, by the fraction; or kept."""

ALONE = 1e-5
"""A row at such a distance is its prototype; the rest is rounding."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One domain after pruning.

    Attributes:
        passages: its rows, in stored order.
        distance_N: float [N], distances to the nearest prototype.
        unique_N: bool [N], rows that `prune dedup` kept.
        kept_N: bool [N], rows that `prune keep --side hard` kept.
        easy_N: bool [N], rows that `prune keep --side easy` keeps instead.
    """

    passages: Sequence[Passage]
    distance_N: NDArray[np.floating]
    unique_N: Mask
    kept_N: Mask
    easy_N: Mask

    @property
    def kind_N(self) -> NDArray[np.str_]:
        """The kind of each row."""
        return np.array([each.kind for each in self.passages])

    @property
    def fate_N(self) -> NDArray[np.str_]:
        """What became of each row. Of those that are no duplicates, `keep` drops both ends of the distances."""
        return fates(self.distance_N, self.unique_N, self.kept_N)

    def kinds(self) -> dict[str, dict[str, int]]:
        """Return, for each kind of row, how many there are, what became of them, and how many `easy` keeps."""
        kind_N, fate_N, found = self.kind_N, self.fate_N, {}
        for kind in sorted(set(kind_N.tolist()), key=[each.kind for each in self.passages].index):
            here_N = kind_N == kind
            count = Counter(fate_N[here_N].tolist())
            found[kind] = {
                "rows": int(here_N.sum()),
                **{fate: count[fate] for fate in FATES},
                "easy_keeps": int(self.easy_N[here_N].sum()),
            }
        return found

    def alone(self, cluster_N: NDArray[np.integer]) -> int:
        """Return how many rows are the only one of their cluster."""
        return int((np.bincount(cluster_N[cluster_N >= 0]) == 1).sum())


def fates(distance_N: NDArray[np.floating], unique_N: Mask, kept_N: Mask) -> NDArray[np.str_]:
    """Say what became of each row.

    >>> unique_N, kept_N = np.array([True, True, False, True]), np.array([False, True, False, False])
    >>> fates(np.array([0.1, 0.2, 0.3, 0.9]), unique_N, kept_N)
    array(['typical', 'kept', 'duplicate', 'outlier'], dtype='<U9')
    """
    highest = distance_N[kept_N].max(initial=-np.inf)
    return np.select([~unique_N, kept_N, distance_N > highest], [DUPLICATE, KEPT, OUTLIER], TYPICAL)


def duplicates(domain: Domain) -> dict[str, Any]:
    """Hold the rows that `prune dedup` dropped against the planted groups; returns counts, precision and recall."""
    groups: dict[int, list[bool]] = {}
    for passage, unique in zip(domain.passages, domain.unique_N.tolist()):
        if passage.group is not None:
            groups.setdefault(passage.group, []).append(unique)
    could_go = sum(len(members) - 1 for members in groups.values())
    went = sum(min(members.count(False), len(members) - 1) for members in groups.values())
    dropped = int((~domain.unique_N).sum())
    return {
        "could_go": could_go,
        "went": went,
        "dropped": dropped,
        "precision": went / dropped if dropped else None,
        "recall": went / could_go if could_go else None,
        "groups": len(groups),
        "groups_without_any_row_left": sum(not any(members) for members in groups.values()),
    }


def twin(domain: Domain, vectors_ND: NDArray[Any], row: int) -> tuple[int, float]:
    """Return the kept row that is most like `row`, and the cosine of the two."""
    others_N = np.flatnonzero(domain.unique_N)
    cosine_N = vectors_ND[others_N].astype(np.float32) @ vectors_ND[row].astype(np.float32)
    return int(others_N[cosine_N.argmax()]), float(cosine_N.max())


def examples(domain: Domain, fate: str) -> Int64:
    """Return the rows of a fate, those first that show it best: the farthest outliers, the most typical rows."""
    rows = np.flatnonzero(domain.fate_N == fate)
    far = domain.distance_N[rows]
    return rows[np.argsort(-far if fate in (OUTLIER, KEPT) else far, kind="stable")]
