"""Which shards the plan will need, in which order, and in how many steps: what to fetch first and what to evict first.

Rules. Nothing here moves a position or knows a file: both questions are answered from a cursor, any number of times.
The near future (`upcoming`) is not estimated: the plan itself is asked for its next rows, as if the weights given held,
many steps at once. The far future (`distance`) is: every domain is read at the pace of its share, window after window
(`Order.next_windows`), and a window is needed when it begins. Weights are all that may turn out otherwise; they alter
how fast each domain's own queue is consumed, not its order.

A rank fetches for the lanes that its rows lie in. Ranks of one machine share its disk, so what is far away is asked
about the lanes of all of them.

Shape suffixes: B rows of the global batch, K domains, L lanes, N shards asked about, P pieces (the part of a shard that
a lane owns, over all domains), R rows of a lane, S shards of all domains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixstream.plan.run_plan import RunPlan
from mixstream.plan.weights import quantise
from mixstream.types import Cursor, Float64, Int64, Rows
from mixstream.world import World


class Forecast:
    """What a run will read, seen from any cursor. Memory is O(shards + rows looked ahead).

    May be asked by several threads at once.

    Args:
        run_plan: what is drawn; its `world` says which rows are this rank's, and which ranks share a machine.

    Attributes:
        lanes: the lanes that this rank's rows lie in.
        machine_lanes: the lanes that the rows of any rank on this machine lie in.
    """

    def __init__(self, run_plan: RunPlan) -> None:
        self._plan = run_plan
        plan, world, rank = run_plan.plan, run_plan.world, run_plan.world.rank
        self._lane_rows = plan.global_batch_size // plan.lanes
        beside = [other for other in range(world.size) if _machine(other, world) == _machine(rank, world)]
        self.lanes = self._lanes_of(rank, rank)
        self.machine_lanes = self._lanes_of(beside[0], beside[-1])
        self._queues: dict[int, _Queue] = {}
        self._known: tuple[Cursor, Float64 | None, Float64] | None = None

    def _lanes_of(self, first: int, last: int) -> range:
        begin, end = first * self._plan.batch_size, (last + 1) * self._plan.batch_size
        return range(begin // self._lane_rows, -(-end // self._lane_rows))

    def upcoming(self, cursor: Cursor, share_K: Float64 | None, rows: int) -> tuple[Int64, Float64]:
        """Return the shards that `lanes` read next, in the order in which they need them first.

        They are exactly those of a walk from `cursor` under the weights `share_K`, epochs that end and domains that
        leave on the way included. Under other weights each domain's shards are still in the order in which a lane comes
        to them.

        Args:
            cursor: the position to look ahead from.
            share_K: weights in the plan's order, float64 [K], that are taken to hold; None for those of static mixing,
                which has no others, or of the streams themselves.
            rows: how far, in rows of this rank; whole steps are looked at.

        Returns:
            Numbers of shards, counted over all domains, int64 [N] without repeats; and steps
            until each is needed, float64 [N], 0 for the step that comes next, ascending.
        """
        plan = self._plan.plan
        weight_K = None if plan.choose_K is not None else quantise(self._plan.prior_K if share_K is None else share_K)
        cursor, steps = plan.settle(cursor), -(-rows // self._plan.batch_size)
        numbers: list[Int64] = []
        places: list[Int64] = []  # of each one's first row among all rows of these lanes, in the order of time
        done, step_rows = 0, len(self.lanes) * self._lane_rows
        while done < steps:
            count = min(steps - done, plan.steps_per_epoch - cursor.step_in_epoch)
            if (moved := self._advance(cursor, weight_K, count)) is None:
                break
            cursor, coming, count = moved
            per_lane = count * self._lane_rows
            part = slice(self.lanes.start * per_lane, self.lanes.stop * per_lane)
            (at,) = self._plan.addressing.locate([coming], part)
            # Lanes lie side by side; row after row of all of them is the order of time.
            number_RL = at.shard_B.reshape(-1, per_lane).T
            found, first = np.unique(number_RL, return_index=True)
            numbers.append(found)
            places.append(first + done * step_rows)
            done += count
        if not numbers:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
        number_N, place_N = np.concatenate(numbers), np.concatenate(places)
        by_need = np.argsort(place_N)
        number_N, place_N = number_N[by_need], place_N[by_need]
        first = np.sort(np.unique(number_N, return_index=True)[1])
        return number_N[first], (place_N[first] // step_rows).astype(np.float64)

    def _advance(self, cursor: Cursor, weight_K: Int64 | None, steps: int) -> tuple[Cursor, Rows, int] | None:
        """Return the cursor after `steps` steps of one epoch, their rows as one wide batch, and how many they are.

        Fewer where the run ends before; None where it has ended. A lane is filled row by row without regard to where a
        step ends, so a plan with a wider batch draws the same.
        """
        plan = self._plan.plan
        while steps:
            wide = replace(plan, global_batch_size=plan.global_batch_size * steps, drop_last=False)
            moved = wide.advance(replace(cursor, step_in_epoch=0), weight_K)
            if moved is not None:
                passed = replace(moved[0], step=cursor.step + steps, step_in_epoch=cursor.step_in_epoch + steps)
                return plan.settle(passed), moved[1], steps
            steps //= 2  # the run ends in one of them
        return None

    def distance(self, cursor: Cursor, share_K: Float64 | None, numbers: Int64) -> Float64:
        """Return the steps until lanes of this machine need each of the shards `numbers`, float64 [N].

        An estimate: 0 for the shards of windows that are being read; for the others, when their next window begins, if
        domains are read at the pace of their shares. inf for shards that no lane of this machine reads, of domains
        without weight, and beyond `max_epochs`. With static mixing, or weights that hold, no shard is needed more than
        two rows of its domain and a step for each epoch that ends earlier than this says, unless domains leave before.

        Args:
            cursor: the position to look ahead from.
            share_K: as for `upcoming`. For one cursor and one array of weights all shards are looked at once; then
                further calls only look up.
            numbers: shards counted over all domains, int64 [N].
        """
        known = self._known
        if known is None or known[0] is not cursor or known[1] is not share_K:
            known = self._known = cursor, share_K, self._distance_S(cursor, share_K)
        return known[2][numbers]

    def _distance_S(self, cursor: Cursor, share_K: Float64 | None) -> Float64:
        plan = self._plan.plan
        cursor = plan.settle(cursor)
        steps_S = np.full(self._plan.shards, np.inf)
        for lane in self.machine_lanes:
            queue = self._queue(lane, cursor.drawn_LK[lane])
            draw_P = np.maximum(queue.begin_P, cursor.drawn_LK[lane][queue.domain_P])
            if plan.in_order:
                steps_P = self._rows_in_order(lane, cursor, queue.domain_P, draw_P) / self._lane_rows
            else:
                pace_K = self._shares(lane, cursor, share_K) * self._lane_rows
                ahead_P = draw_P - cursor.drawn_LK[lane][queue.domain_P]
                pace_P = pace_K[queue.domain_P]
                steps_P = np.where(pace_P > 0, ahead_P / np.where(pace_P > 0, pace_P, 1.0), np.inf)
            steps_P[draw_P >= plan.last_LK[lane][queue.domain_P]] = np.inf
            steps_S[queue.number_P] = np.minimum(steps_S[queue.number_P], steps_P)
        return steps_S

    def _shares(self, lane: int, cursor: Cursor, share_K: Float64 | None) -> Float64:
        """Return each domain's share of a lane's rows, float64 [K], without those that have left it."""
        plan = self._plan.plan
        left_K = cursor.drawn_LK[lane] >= plan.last_LK[lane]
        if plan.choose_K is None:
            part_K = self._plan.prior_K if share_K is None else np.asarray(share_K, dtype=np.float64)
        else:
            assert plan.quota_LK is not None
            quota_K = plan.quota_LK[lane]
            part_K = plan.choose_K if (left_K & (quota_K > 0)).any() else quota_K  # as `Plan` goes on without it
        part_K = np.where(left_K, 0, part_K).astype(np.float64)
        return part_K / max(part_K.sum(), np.finfo(np.float64).tiny)

    def _rows_in_order(self, lane: int, cursor: Cursor, domain_P: Int64, draw_P: Int64) -> Float64:
        """Return the rows of a lane until it comes to `draw_P`, domains being read one after the other; float64 [P]."""
        plan = self._plan.plan
        assert plan.quota_LK is not None
        left_K = cursor.drawn_LK[lane] >= plan.last_LK[lane]
        part_K = np.where(left_K, 0, plan.quota_LK[lane])
        if not part_K.any() and plan.choose_K is not None:  # as `Plan` goes on when nothing of the lane's own is left
            part_K = np.where(left_K, 0, plan.choose_K)
        before_K, whole = np.cumsum(part_K) - part_K, int(part_K.sum())
        read = int((cursor.drawn_LK[lane] - cursor.base_LK[lane])[~left_K].sum())
        passes_P, rest_P = np.divmod(draw_P - cursor.base_LK[lane][domain_P], np.maximum(part_K, 1)[domain_P])
        rows_P = np.maximum(passes_P * whole + before_K[domain_P] + rest_P - read, 0).astype(np.float64)
        return np.where(part_K[domain_P] > 0, rows_P, np.inf)

    def _queue(self, lane: int, drawn_K: Int64) -> _Queue:
        """Return the next windows of all domains in `lane`, of which only those that have moved on are looked up."""
        known = self._queues.get(lane)
        if known is None:
            moved = range(len(drawn_K))
            orders = self._plan.addressing.orders
            size_K = [len(order.shards_of(lane)) for order in orders]
            known = _Queue.empty(np.array(size_K, dtype=np.int64))
        else:
            moved = np.flatnonzero((drawn_K < known.since_K) | (drawn_K >= known.until_K)).tolist()
        if not len(moved):
            return known
        known = known.copy()  # another thread may be reading the old one
        for k in moved:
            shard_P, begin_P, running = self._plan.addressing.orders[k].next_windows(lane=lane, draw=int(drawn_K[k]))
            here = slice(known.bound_K[k], known.bound_K[k + 1])
            known.number_P[here], known.begin_P[here] = self._plan.shard_offset_K[k] + shard_P, begin_P
            known.since_K[k], known.until_K[k] = running
        self._queues[lane] = known
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queue:
    """The next window of every shard of one lane; domains lie one after the other.

    Attributes:
        number_P: int64 [P], shards counted over all domains.
        domain_P: int64 [P], the plan's domain of each.
        begin_P: int64 [P], the draw with which its next window begins.
        bound_K: int64 [K + 1], where each domain's part begins.
        since_K: int64 [K], the first draw for which a domain's part holds.
        until_K: int64 [K], the first one for which it does not.
    """

    number_P: Int64
    domain_P: Int64
    begin_P: Int64
    bound_K: Int64
    since_K: Int64
    until_K: Int64

    @classmethod
    def empty(cls, size_K: Int64) -> _Queue:
        total = int(size_K.sum())
        return cls(
            number_P=np.zeros(total, dtype=np.int64),
            domain_P=np.repeat(np.arange(len(size_K)), size_K),
            begin_P=np.zeros(total, dtype=np.int64),
            bound_K=np.concatenate([[0], np.cumsum(size_K)]).astype(np.int64),
            since_K=np.zeros(len(size_K), dtype=np.int64),
            until_K=np.zeros(len(size_K), dtype=np.int64),
        )

    def copy(self) -> _Queue:
        return replace(
            self,
            number_P=self.number_P.copy(),
            begin_P=self.begin_P.copy(),
            since_K=self.since_K.copy(),
            until_K=self.until_K.copy(),
        )


def _machine(rank: int, world: World) -> int:
    """Return which machine a rank runs on: ranks of one machine are neighbours."""
    return rank * world.nodes // world.size
