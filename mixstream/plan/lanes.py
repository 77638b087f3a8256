"""A lane's rows of a step, dealt one by one (`stretches` deals neighbouring rows of one domain together).

Rule 1: rows are dealt by credit (`kernels.deal_rows_reference`), at most as many of a domain as are left of the lane's
quota. In order, domains are dealt one after the other instead.
Rule 2: a lane that has dealt its quota before its last batch of the epoch is full goes on by its credits (in order,
with the first domain again): these rows are repeats.
Rule 3: a domain that has used up its `max_epochs` leaves the lane. Epochs are no longer exact there from then on.

Shape suffixes: B rows of this lane in the step, K domains.
"""

import numpy as np
from numpy.typing import NDArray

from mixstream.plan.dealing import deal_lanes, deal_rows
from mixstream.plan.weights import rescale
from mixstream.records import dataclass
from mixstream.types import Cursor, Int64

_NEVER = np.int64(1) << 62


@dataclass(slots=True, kw_only=True)
class Lane:
    """One lane's part of a cursor while its rows are dealt.

    Four rows under weights of 3 and 1, of a lane that may draw domain 0 twice:

    >>> zeros_K = np.zeros(2, dtype=np.int64)
    >>> lane = Lane(base_K=zeros_K, drawn_K=zeros_K.copy(), credit_K=zeros_K.copy(), total=4, quota_K=None,
    ...             last_K=np.array([2, 99]), limited=True, in_order=False)
    >>> domain_B, draw_B = np.zeros(4, dtype=np.int32), zeros_K.repeat(2)
    >>> lane.fill(np.array([3, 1]), whole_K=None, domain_B=domain_B, draw_B=draw_B)
    0
    >>> domain_B.tolist(), draw_B.tolist()
    ([0, 0, 1, 1], [0, 1, 0, 1])

    Attributes:
        base_K: int64 [K], draws at the start of the epoch; written to.
        drawn_K: int64 [K], draws so far; written to.
        credit_K: int64 [K], credits in parts of `total`; written to.
        total: sum of the weights to which the credits belong.
        quota_K: int64 [K], rows that the running epoch takes; None under weights.
        last_K: int64 [K], draws after which a domain has left the lane.
        limited: whether any domain ever does.
        in_order: whether domains are dealt one after the other.
    """

    base_K: Int64
    drawn_K: Int64
    credit_K: Int64
    total: int
    quota_K: Int64 | None
    last_K: Int64
    limited: bool
    in_order: bool

    def fill(self, weight_K: Int64, *, whole_K: Int64 | None, domain_B: NDArray[np.int32], draw_B: Int64) -> int | None:
        """Fill the rows and move on; return how many of them are repeats, None if no domain is left.

        Args:
            weight_K: int64 [K], the lane's weights in whole parts.
            whole_K: int64 [K], what an epoch takes over all lanes, by which the lane goes on once a domain has left it:
                its own quota may be zero for all domains that are left. None under weights.
            domain_B: int32 [B], written to.
            draw_B: int64 [B], written to.
        """
        filled, repeats, owed, beyond = 0, 0, False, False
        while filled < len(domain_B):
            part_K, exact = weight_K, self.quota_K is not None and not beyond
            if self.limited and (left_K := self.drawn_K >= self.last_K).any():
                if whole_K is not None and (part_K[left_K] > 0).any():
                    own = self.in_order and (part_K > 0)[~left_K].any()
                    part_K, exact = part_K if own else whole_K, False
                part_K, owed = np.where(left_K, 0, part_K), bool(self.credit_K[left_K].any())
            if not (total := int(part_K.sum())):
                return None
            if total != self.total or owed:  # a domain has left the mix, or returned to it
                self.credit_K[:] = rescale(self.credit_K, self.total, part_K)
                self.total = total
            limit_K = np.full_like(self.drawn_K, _NEVER)
            if exact or self.in_order:
                limit_K = self.base_K + (self.quota_K if exact and self.quota_K is not None else part_K)
            rest = slice(filled, None)
            filled += deal_rows(
                part_K,
                self.credit_K,
                self.drawn_K,
                limit_K,
                self.last_K,
                self.in_order,
                domain_B[rest],
                draw_B[rest],
            )
            if (exact or self.in_order) and filled < len(domain_B) and (self.drawn_K >= limit_K).all():
                repeats = repeats or (len(domain_B) - filled if exact else 0)
                beyond = not self.in_order
                self.base_K += limit_K - self.base_K
        return repeats


def fill_lanes(
    part_LK: Int64, cursor: Cursor, last_LK: Int64, domain_B: NDArray[np.int32], draw_B: Int64
) -> tuple[Int64, Int64] | None:
    """Fill the rows of all lanes at once, where `Lane.fill` would take one turn in each.

    Returns credits and draws afterwards, int64 [L, K] each; None if a lane has to be filled by itself.

    Args:
        part_LK: int64 [L, K], the weights of each lane in whole parts.
        cursor: the position.
        last_LK: int64 [L, K], draws after which a domain leaves; none has left.
        domain_B: int32 [B], written to.
        draw_B: int64 [B], written to.
    """
    if (part_LK.sum(axis=1) != cursor.total_L).any():
        return None
    limit_LK = last_LK if cursor.quota_LK is None else cursor.base_LK + cursor.quota_LK
    filled_LK = cursor.credit_LK.copy(), cursor.drawn_LK.copy()
    return filled_LK if deal_lanes(part_LK, filled_LK, limit_LK, last_LK, domain_B, draw_B) else None
