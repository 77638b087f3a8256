"""Which shards the plan will need, in which order, and in how many steps: what to fetch first and what to evict first.

Rules. Nothing here moves a cursor or knows a file. The near future (`upcoming`) is exact under the given weights: it
takes the plan's next rows, many steps at once. The far future (`distance`) is an estimate: a domain is read at the pace
of its weight, window after window (`Order.next_windows`), and a window's shards are needed when it begins. Only the
weights can turn out different. They change how fast the shards of a domain are needed, not the order of these shards.

A rank fetches for the lanes in which its rows lie. The ranks of one machine share its disk, so `distance` covers the
lanes of all of them.

Shape suffixes: B rows of the global batch, K domains, L lanes, N shards in question, P pieces (the part of a shard that
a lane owns, over all domains), R rows of a lane, S shards of all domains.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixstream.plan.run_plan import RunPlan
from mixstream.plan.weights import quantise
from mixstream.records import dataclass
from mixstream.types import Cursor, Float64, Int64, Rows
from mixstream.world import World


class Forecast:
    """What a run will read, seen from any cursor. Memory is O(shards + rows looked ahead).

    Safe to call from several threads at once.

    Domain "code" has shards 0 and 1, of 3 and 2 samples; "web" has shards 2 and 3, of 6 and 9. A step draws one row of
    "code" and three of "web", so shard 3 is first needed in step 2 and shard 1 in step 3:

    >>> from mixstream.plan.addressing import WholeShards
    >>> from types import SimpleNamespace as Record
    >>> size_S = {"code": np.array([3, 2]), "web": np.array([6, 9])}
    >>> run_plan = RunPlan(
    ...     domains=tuple(Record(name=n, fingerprint="", view=WholeShards(samples_S=size_S[n])) for n in size_S),
    ...     choose_K=np.array([5, 15]), epoch_size=20, max_epochs_K=(None, None), by_step=False, in_order=False,
    ...     shuffle=False, shuffle_seed=17, block_size=4, drop_last=False, mixer="static", lag=None, world=World(),
    ...     batch_size=4, lanes=1,
    ... )
    >>> shard_N, step_N = Forecast(run_plan).upcoming(run_plan.plan.start(), None, rows=20)
    >>> shard_N.tolist(), step_N.tolist()
    ([2, 0, 3, 1], [0.0, 0.0, 2.0, 3.0])

    Args:
        run_plan: what is drawn. Its `world` says which rows are this rank's, and which ranks share a machine.

    Attributes:
        lanes: the lanes in which this rank's rows lie.
        machine_lanes: the lanes in which the rows of any rank on this machine lie.
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
        """Return the shards that `lanes` read next, in the order of first need.

        They are exactly those of a walk from `cursor` under the weights `share_K`, across ends of epochs and domains
        that leave the mix. Under other weights, the shards of each domain are still in the order in which a lane reads
        them.

        Args:
            cursor: the position to look ahead from.
            share_K: the weights to assume, in the plan's order, float64 [K]; None for those of the streams. Static
                mixing ignores it.
            rows: how far to look, in rows of this rank, rounded up to whole steps.

        Returns:
            The shards, counted over all domains, int64 [N] without repeats; and the steps until each is needed,
            float64 [N], ascending, 0 for the next step.
        """
        plan = self._plan.plan
        weight_K = None if plan.part_LK is not None else quantise(self._plan.prior_K if share_K is None else share_K)
        cursor, steps = plan.settle(cursor), -(-rows // self._plan.batch_size)
        numbers: list[Int64] = []
        places: list[Int64] = []  # where each shard's first row is among all rows of these lanes, in the order of time
        done, step_rows = 0, len(self.lanes) * self._lane_rows
        while done < steps:
            count = min(steps - done, plan.steps_per_epoch - cursor.step_in_epoch)
            if (moved := self._advance(cursor, weight_K, count)) is None:
                break
            cursor, coming, count = moved
            per_lane = count * self._lane_rows
            part = slice(self.lanes.start * per_lane, self.lanes.stop * per_lane)
            (at,) = self._plan.addressing.locate([coming], part)
            # Lanes lie side by side in a batch; in time, row r of all lanes comes before row r + 1 of any.
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
        """Return the cursor after `steps` steps of one epoch, their rows as one wide batch, and the number of steps.

        The number is smaller if the run ends before; the result is None if it has ended. A lane is filled row by row
        across the ends of steps, so a plan with a wider batch draws the same rows.
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
        """Return the steps until lanes of this machine need each of the shards `numbers`, float64 [N]: an estimate.

        It is 0 for shards of the windows that are being read. For other shards it is the step in which their next
        window begins, if domains are read at the pace of their weights. It is inf for shards that no lane of this
        machine reads, for domains without weight, and beyond `max_epochs`. With static mixing or constant weights, and
        while no domain leaves, a shard is needed at most two rows of its domain, and one step per end of an epoch,
        earlier than this.

        Args:
            cursor: the position to look ahead from.
            share_K: as for `upcoming`. The first call with a cursor and an array of weights computes all shards;
                further calls with the same two objects look them up.
            numbers: shards, counted over all domains, int64 [N].
        """
        known = self._known
        if known is None or known[0] is not cursor or known[1] is not share_K:
            known = self._known = cursor, share_K, self._distance_S(cursor, share_K)
        return known[2][numbers]

    def _distance_S(self, cursor: Cursor, share_K: Float64 | None) -> Float64:
        plan = self._plan.plan
        cursor = plan.settle(cursor)
        steps_S = np.full(self._plan.addressing.shard_offset_K[-1], np.inf)
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
            np.minimum.at(steps_S, queue.number_P, steps_P)  # several domains may read one shard
        return steps_S

    def _shares(self, lane: int, cursor: Cursor, share_K: Float64 | None) -> Float64:
        """Return each domain's share of a lane's rows, float64 [K]; 0 for domains that have left the lane."""
        plan = self._plan.plan
        left_K = cursor.drawn_LK[lane] >= plan.last_LK[lane]
        if plan.part_LK is None:
            part_K = self._plan.prior_K if share_K is None else np.asarray(share_K, dtype=np.float64)
        else:
            part_K = plan.part_LK[lane]
            if plan.choose_K is not None and (left_K & (part_K > 0)).any():  # as in `lanes.Lane.fill`
                part_K = plan.choose_K
        part_K = np.where(left_K, 0, part_K).astype(np.float64)
        return part_K / max(part_K.sum(), np.finfo(np.float64).tiny)

    def _rows_in_order(self, lane: int, cursor: Cursor, domain_P: Int64, draw_P: Int64) -> Float64:
        """Return the rows of a lane until it draws `draw_P`, float64 [P], if domains are read one after the other."""
        plan = self._plan.plan
        assert plan.quotas is not None
        left_K = cursor.drawn_LK[lane] >= plan.last_LK[lane]
        part_K = np.where(left_K, 0, plan.quotas.first_LK[lane])
        if not part_K.any() and plan.choose_K is not None:  # as in `lanes.Lane.fill`
            part_K = np.where(left_K, 0, plan.choose_K)
        before_K, whole = np.cumsum(part_K) - part_K, int(part_K.sum())
        read = int((cursor.drawn_LK[lane] - cursor.base_LK[lane])[~left_K].sum())
        passes_P, rest_P = np.divmod(draw_P - cursor.base_LK[lane][domain_P], np.maximum(part_K, 1)[domain_P])
        rows_P = np.maximum(passes_P * whole + before_K[domain_P] + rest_P - read, 0).astype(np.float64)
        return np.where(part_K[domain_P] > 0, rows_P, np.inf)

    def _queue(self, lane: int, drawn_K: Int64) -> _Queue:
        """Return the next windows of all domains in `lane`; only domains that left their window are updated."""
        addressing = self._plan.addressing
        if (known := self._queues.get(lane)) is None:
            size_K = [len(order.shards_of(lane)) for order in addressing.orders]
            known = _Queue.outdated(np.array(size_K, dtype=np.int64))
        moved = np.flatnonzero((drawn_K < known.since_K) | (drawn_K >= known.until_K)).tolist()
        if not moved:
            return known
        known = known.copy()  # another thread may be reading the old one
        for k in moved:
            shard_P, begin_P, running = addressing.orders[k].next_windows(lane=lane, draw=int(drawn_K[k]))
            here = slice(known.bound_K[k], known.bound_K[k + 1])
            known.number_P[here], known.begin_P[here] = addressing.shard_offset_K[k] + shard_P, begin_P
            known.since_K[k], known.until_K[k] = running
        self._queues[lane] = known
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queue:
    """The next window of every shard of one lane; the pieces of a domain are contiguous.

    Attributes:
        number_P: int64 [P], shards, counted over all domains.
        domain_P: int64 [P], the domain of each shard.
        begin_P: int64 [P], the first draw of its next window.
        bound_K: int64 [K + 1], where the pieces of each domain begin.
        since_K: int64 [K], the first draw for which the pieces of a domain are valid.
        until_K: int64 [K], the first later draw for which they are outdated.
    """

    number_P: Int64
    domain_P: Int64
    begin_P: Int64
    bound_K: Int64
    since_K: Int64
    until_K: Int64

    @classmethod
    def outdated(cls, size_K: Int64) -> _Queue:
        """Return a queue of `size_K` pieces, int64 [K], that is valid for no draw yet."""
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
        changing = ("number_P", "begin_P", "since_K", "until_K")
        return replace(self, **{name: getattr(self, name).copy() for name in changing})


def _machine(rank: int, world: World) -> int:
    """Return the machine on which a rank runs; the ranks of one machine are consecutive."""
    return rank * world.nodes // world.size
