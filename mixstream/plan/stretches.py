"""Stretches: neighbouring rows of a global batch that have one domain (`batching_method="per_stream"` and its like).

Rule 1: a stretch is dealt as a row is elsewhere (`kernels.deal_rows_reference`), with credits in parts of a stretch. So
after any step, a domain has had less than two stretches more or less than its share of them.
Rule 2: lanes that share a stretch deal alike: they have equal credits, and each draws its own samples of the domain.
Rule 3: draws go on through a domain from epoch to epoch. What an epoch leaves over comes in the next one.

Shape suffixes: B rows of the global batch, G lanes that share a stretch, K domains, L lanes, R rows of a lane, r rows
of a lane in one stretch, U stretches.
"""

from math import gcd
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.plan.dealing import deal_rows
from mixstream.plan.weights import rescale, stagger
from mixstream.records import dataclass
from mixstream.types import Int64

_NEVER = np.int64(1) << 62


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """How long a stretch is: so many rows in each of so many neighbouring lanes.

    A global batch of 16 rows over 4 lanes, of one domain as a whole, or in two halves:

    >>> Stretch.of(16, global_batch_size=16, lanes=4), Stretch.of(8, global_batch_size=16, lanes=4)
    (Stretch(rows=4, lanes=4), Stretch(rows=4, lanes=2))

    Args:
        rows: rows of a lane.
        lanes: lanes that share a stretch.
    """

    rows: int
    lanes: int

    @classmethod
    def of(cls, size: int, *, global_batch_size: int, lanes: int) -> Self:
        """Return a stretch of `size` rows of the global batch.

        Raises:
            ConfigError: the batch has no whole number of them, or the lanes cut through some.
        """
        share = global_batch_size // lanes
        whole, rest = divmod(size, share)
        if global_batch_size % size or (rest if whole else share % size):
            raise ConfigError(
                f"parts of {size} rows of one domain each do not fit into a global batch of {global_batch_size} rows "
                f"over {lanes} lanes (num_canonical_nodes): pass num_canonical_nodes="
                f"{gcd(lanes, global_batch_size // size) if global_batch_size % size == 0 else 1}, and a batch_size "
                f"by which batch_size x ranks is a multiple of {size}"
            )
        return cls(rows=min(size, share), lanes=max(whole, 1))

    def left_LK(self, drawn_LK: Int64, last_LK: Int64) -> NDArray[np.bool_]:
        """Return which domains cannot fill another stretch, bool [L, K].

        Args:
            drawn_LK: int64 [L, K], draws so far.
            last_LK: int64 [L, K], draws after which a domain is used up in a lane.
        """
        room_GK = (last_LK - drawn_LK).reshape(-1, self.lanes, last_LK.shape[1]).min(axis=1)
        return np.repeat(room_GK < self.rows, self.lanes, axis=0)

    def fresh_credit(self, weight_K: Int64, lanes: int) -> Int64:
        """Return the initial credits, int64 [L, K]; lanes that share stretches have the same."""
        credit_UK = stagger(np.tile(weight_K, (lanes // self.lanes, 1)))
        return np.repeat(credit_UK, self.lanes, axis=0)

    def fill_batch(
        self,
        part_K: Int64,
        *,
        drawn_LK: Int64,
        credit_LK: Int64,
        total_L: Int64,
        last_LK: Int64,
        domain_B: NDArray[np.int32],
        draw_B: Int64,
    ) -> bool:
        """Fill a batch, in place; return whether the remaining domains can.

        Two lanes of four rows each, in stretches of two rows a lane, under weights of 3 and 1:

        >>> zeros_LK, credit_LK, last_LK = np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64), np.full((2, 2), 99)
        >>> batch = {"domain_B": np.zeros(8, np.int32), "draw_B": np.zeros(8, np.int64)}
        >>> cursor = {"drawn_LK": zeros_LK, "credit_LK": credit_LK, "total_L": np.array([4, 4]), "last_LK": last_LK}
        >>> for _ in range(2):
        ...     _ = Stretch(rows=2, lanes=2).fill_batch(np.array([3, 1]), **cursor, **batch)
        ...     print(batch["domain_B"].tolist(), batch["draw_B"].tolist(), credit_LK[0].tolist())
        [0, 0, 0, 0, 0, 0, 0, 0] [0, 1, 2, 3, 0, 1, 2, 3] [-2, 2]
        [0, 0, 1, 1, 0, 0, 1, 1] [4, 5, 0, 1, 4, 5, 0, 1] [0, 0]

        Args:
            part_K: int64 [K], the weights in whole parts.
            drawn_LK: int64 [L, K], draws so far; written to.
            credit_LK: int64 [L, K], credits in parts of `total_L` of a stretch; written to.
            total_L: int64 [L], the sum of the weights to which the credits belong; written to.
            last_LK: int64 [L, K], draws after which a domain is used up.
            domain_B: int32 [B], written to.
            draw_B: int64 [B], written to.
        """
        share = len(domain_B) // len(drawn_LK)
        for first in range(0, len(drawn_LK), self.lanes):
            group, mine = slice(first, first + self.lanes), slice(first * share, (first + self.lanes) * share)
            credit_K = credit_LK[first]
            total = self._fill(
                part_K,
                credit_K=credit_K,
                total=int(total_L[first]),
                drawn_GK=drawn_LK[group],
                last_GK=last_LK[group],
                domain_GR=domain_B[mine].reshape(self.lanes, share),
                draw_GR=draw_B[mine].reshape(self.lanes, share),
            )
            if total is None:
                return False
            credit_LK[group], total_L[group] = credit_K, total
        return True

    def _fill(
        self,
        part_K: Int64,
        *,
        credit_K: Int64,
        total: int,
        drawn_GK: Int64,
        last_GK: Int64,
        domain_GR: NDArray[np.int32],
        draw_GR: Int64,
    ) -> int | None:
        """Fill the rows of lanes that share their stretches; return the sum of the weights, None if none is left."""
        stretches, filled = domain_GR.shape[1] // self.rows, 0
        domain_U, number_U = np.empty(stretches, dtype=np.int32), np.empty(stretches, dtype=np.int64)
        draw_GUr = draw_GR.reshape(self.lanes, stretches, self.rows)
        never_K, row_r = np.full_like(credit_K, _NEVER), np.arange(self.rows)
        while filled < stretches:
            room_K = (last_GK - drawn_GK).min(axis=0) // self.rows
            weight_K, owed = np.where(room_K > 0, part_K, 0), bool(credit_K[room_K <= 0].any())
            if not (now := int(weight_K.sum())):
                return None
            if now != total or owed:  # a domain has left the mix, or returned to it
                credit_K[:], total = rescale(credit_K, total, weight_K), now
            dealt_K, rest = np.zeros_like(credit_K), slice(filled, None)
            filled += deal_rows(weight_K, credit_K, dealt_K, never_K, room_K, False, domain_U[rest], number_U[rest])
            here = slice(rest.start, filled)
            first_GU = drawn_GK[:, domain_U[here]] + number_U[here] * self.rows
            draw_GUr[:, here] = first_GU[:, :, None] + row_r
            drawn_GK += dealt_K * self.rows
        domain_GR[:] = np.repeat(domain_U, self.rows)
        return total


def fitting_lanes(wanted: int, *, global_batch_size: int, stretch: int | None) -> int:
    """Return the most lanes, at most `wanted`, that divide it and share a global batch evenly.

    >>> fitting_lanes(8, global_batch_size=12, stretch=None), fitting_lanes(3, global_batch_size=24, stretch=12)
    (4, 1)

    Args:
        wanted: the lanes that were asked for.
        global_batch_size: rows of a step over all ranks.
        stretch: rows of the batch that have one domain; None if rows are mixed one by one.
    """
    lanes = gcd(wanted, global_batch_size)
    share = global_batch_size // lanes
    if stretch is None or stretch % share == 0 or share % stretch == 0:
        return lanes
    return gcd(lanes, global_batch_size // stretch)
