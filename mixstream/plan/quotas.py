"""What an epoch takes from each domain in each lane, where that is a fixed count of rows (`Plan.choose_K`).

Rule 1: an epoch takes exactly `choose_K` over all lanes; of a domain that it takes whole, each lane takes what it owns.
Rule 2: nothing is rounded the same way in every epoch. Lanes take turns in getting rows that do not divide by their
number, and domains in losing rows with `drop_last`. Both follow from the credits at the start of the epoch, which are
part of the cursor, so a run that resumes takes the same. While lanes take turns, each may be a row of a domain off
its part in an epoch, and over many epochs more; over all lanes, every epoch is exact.

Shape suffixes: K domains, L lanes.
"""

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import MOST
from mixstream.cached import cached_property
from mixstream.plan.dealing import deal_rows
from mixstream.plan.jump import LEAST_JUMP, credit_after, drawn_after
from mixstream.plan.weights import deal, deal_beside
from mixstream.records import dataclass
from mixstream.types import Int64

_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """The quotas of a plan's epochs.

    Seven rows of "code" and five of "web" over two lanes. An epoch gives each lane six rows. Lane 0 begins with the odd
    row of "code", which is owed to lane 1 then:

    >>> quotas = Quotas(
    ...     choose_K=np.array([7, 5]), samples_K=np.array([50, 90]), owned_LK=deal([50, 90], 2), step_rows=3,
    ...     drop_last=False, in_order=False,
    ... )
    >>> credit_LK = np.zeros((2, 2), dtype=np.int64)
    >>> for epoch in range(2):
    ...     print(quotas.of_epoch(credit_LK).tolist())
    ...     credit_LK = quotas.credit_after(credit_LK)
    [[4, 2], [3, 3]]
    [[3, 3], [4, 2]]

    Args:
        choose_K: int64 [K], rows that an epoch takes from each domain, over all lanes.
        samples_K: int64 [K], samples of each domain.
        owned_LK: int64 [L, K], samples that each lane owns.
        step_rows: rows of a lane in a step.
        drop_last: whether rows that do not fill the last batch are dropped.
        in_order: whether domains are read one after the other.
    """

    choose_K: Int64
    samples_K: Int64
    owned_LK: Int64
    step_rows: int
    drop_last: bool
    in_order: bool

    @cached_property
    def _whole_K(self) -> NDArray[np.bool_]:
        """The domains of which an epoch takes every sample once."""
        return np.asarray(self.choose_K == self.samples_K)

    @cached_property
    def first_LK(self) -> Int64:
        """What an epoch takes, int64 [L, K], if nothing is owed from before."""
        if not self._whole_K.any():
            return deal(self.choose_K, len(self.owned_LK))
        return deal_beside(self.choose_K, self.owned_LK, fixed_K=self._whole_K)

    @cached_property
    def steps(self) -> int:
        """Steps of an epoch: of the lane with the most rows or, with `drop_last`, with the fewest."""
        rows_L = self.first_LK.sum(axis=1)
        return int(rows_L.min()) // self.step_rows if self.drop_last else -(-int(rows_L.max()) // self.step_rows)

    @property
    def lane_rows(self) -> int:
        """Rows of a lane in an epoch: those of its steps."""
        return self.steps * self.step_rows

    @cached_property
    def take_turns(self) -> bool:
        """Whether lanes take turns in getting the rows that do not divide by their number.

        They do not where they own unequal numbers of the samples that every epoch takes: the others make up for it.
        """
        lanes, whole_L = len(self.owned_LK), self.owned_LK[:, self._whole_K].sum(axis=1)
        odd = (self.choose_K[~self._whole_K] % lanes).any()
        return bool(odd and (whole_L == whole_L[0]).all() and not self.in_order)

    @cached_property
    def part_LK(self) -> Int64:
        """The weights of each lane in whole parts, int64 [L, K]: its part of an epoch, on average over epochs."""
        if not self.take_turns:
            return self.first_LK
        return np.where(self._whole_K, len(self.owned_LK) * self.owned_LK, self.choose_K)

    def before_drops(self, credit_LK: Int64) -> Int64:
        """Return what an epoch that begins with `credit_LK` takes before rows are dropped, int64 [L, K]."""
        if not self.take_turns:
            return self.first_LK
        return deal_beside(self.choose_K, self.owned_LK, fixed_K=self._whole_K, owed_LK=credit_LK)

    def of_epoch(self, credit_LK: Int64) -> Int64:
        """Return what an epoch that begins with `credit_LK` takes, int64 [L, K].

        Dropped rows are those of the domains that are owed the least, so that over epochs each loses its share.
        """
        quota_LK, rows = self.before_drops(credit_LK), self.lane_rows
        if not self.drop_last or self.in_order:
            return quota_LK
        owed_LK = self.part_LK.astype(object) * rows + credit_LK  # of Python's integers: they may exceed 64 bits
        return np.stack(
            [
                without(quota_K, owed_K, int(part_K.sum()), rows)
                for quota_K, owed_K, part_K in zip(quota_LK, owed_LK, self.part_LK)
            ]
        )

    def credit_after(self, credit_LK: Int64) -> Int64:
        """Return the credits at the end of an epoch that begins with `credit_LK`, int64 [L, K]."""
        quota_LK = self.of_epoch(credit_LK)
        after_LK = moved_credit(credit_LK, self.part_LK, quota_LK, quota_LK.sum(axis=1))
        for part_K, after_K, rows in zip(self.part_LK, after_LK, quota_LK.sum(axis=1).tolist()):
            pass_rows(part_K, after_K, self.lane_rows - rows)
        return after_LK

    def pass_epochs(self, credit_LK: Int64, epochs: int) -> tuple[Int64, Int64]:
        """Return the draws that `epochs` epochs move each domain on by, and the credits after them, int64 [L, K]."""
        credit_LK = credit_LK.copy()
        spare_L = self.lane_rows - self.first_LK.sum(axis=1)
        if self.in_order or not (self.take_turns or (spare_L < 0).any()):  # each has the same quota
            for part_K, credit_K, spare in zip(self.part_LK, credit_LK, spare_L.tolist()):
                pass_rows(part_K, credit_K, 0 if self.in_order else epochs * spare)
            return epochs * self.first_LK, credit_LK
        moved_LK = np.zeros_like(self.first_LK)
        for _ in range(epochs):
            moved_LK += self.before_drops(credit_LK)
            credit_LK = self.credit_after(credit_LK)
        return moved_LK, credit_LK


def moved_credit(credit_LK: Int64, part_LK: Int64, drawn_LK: Int64, rows_L: Int64 | int) -> Int64:
    """Return the credits after `rows_L` more rows of each lane, of which `drawn_LK` were drawn; negative to go back."""
    rows_L1 = np.broadcast_to(np.asarray(rows_L, dtype=object), len(part_LK))[:, None]
    moved_LK = credit_LK + part_LK.astype(object) * rows_L1 - drawn_LK.astype(object) * part_LK.sum(axis=1)[:, None]
    return np.clip(moved_LK, -MOST, MOST).astype(np.int64)


def pass_rows(part_K: Int64, credit_K: Int64, rows: int) -> Int64:
    """Return how many of the next `rows` rows of a lane are of each domain, int64 [K]; change `credit_K` in place.

    They are known without dealing (`jump.drawn_after`), or else rows repeat after sum(part_K / gcd) of them, or a few
    times as many, so this takes no longer than that, whatever `rows` is.

    >>> credit_K = np.zeros(2, dtype=np.int64)
    >>> pass_rows(np.array([30, 10]), credit_K, 4 * 10**12 + 1).tolist(), credit_K.tolist()
    ([3000000000001, 1000000000000], [-10, 10])
    """
    drawn_K = np.zeros_like(credit_K)
    if rows <= 0:
        return drawn_K
    if rows >= LEAST_JUMP and (found_K := drawn_after(part_K, credit_K, rows)) is not None:
        credit_K[:] = credit_after(part_K, credit_K, rows, found_K)
        return found_K
    unit = int(np.gcd.reduce([*part_K.tolist(), *credit_K.tolist()]))
    part_K, small_K = part_K // unit, credit_K // unit
    period = int(part_K.sum())
    while rows > period:
        before_K = small_K.copy()
        _deal(part_K, small_K, drawn_K, period)
        rows -= period
        if (small_K == before_K).all():
            drawn_K += rows // period * part_K
            rows %= period
    _deal(part_K, small_K, drawn_K, rows)
    credit_K[:] = small_K * unit
    return drawn_K


def _deal(part_K: Int64, credit_K: Int64, drawn_K: Int64, rows: int) -> None:
    domain_B, draw_B = np.empty(min(rows, _CHUNK), dtype=np.int32), np.empty(min(rows, _CHUNK), dtype=np.int64)
    never_K = np.full_like(drawn_K, MOST)
    while rows > 0:
        here = slice(0, rows)
        rows -= deal_rows(part_K, credit_K, drawn_K, never_K, never_K, False, domain_B[here], draw_B[here])


def without(quota_K: Int64, owed_K: NDArray[np.object_], total: int, rows: int) -> Int64:
    """Return `quota_K` without the rows that exceed `rows`, int64 [K].

    They are taken from the domains that are owed the least, so that each gets about what it is owed.

    >>> without(np.array([9, 1]), np.array([9 * 8, 8], dtype=object), 10, 8).tolist()  # of 7.2 and 0.8 rows owed
    [7, 1]

    Args:
        quota_K: int64 [K], the most rows for each domain.
        owed_K: [K], rows that each is owed, in units of 1 / total row; Python numbers of any size.
        total: the sum of the weights.
        rows: how many there are.
    """
    whole_K, rest_K = owed_K // total, (owed_K % total).astype(np.int64)
    kept_K = np.clip(whole_K, 0, quota_K).astype(np.int64)
    while left := rows - int(kept_K.sum()):
        ahead_K = np.where(kept_K == whole_K, rest_K, (whole_K - kept_K).astype(np.float64) * total + rest_K)
        able = np.flatnonzero(kept_K < quota_K if left > 0 else kept_K > 0)
        if not len(able):
            break
        first = able[np.argsort(-ahead_K[able] if left > 0 else ahead_K[able], kind="stable")]
        kept_K[first[: abs(left)]] += 1 if left > 0 else -1
    return kept_K
