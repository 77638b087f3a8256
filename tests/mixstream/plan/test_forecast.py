"""What the plan will need: exactly for the near future, near enough to Belady's rule for the far one."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.plan.addressing import WholeShards
from mixstream.plan.forecast import Forecast
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.shuffle import window_size
from mixstream.plan.walk import Walk
from mixstream.plan.weights import quantise
from mixstream.types import Cursor
from mixstream.world import World


def make_run(
    shelves: dict[str, list[int]],
    *,
    batch_size: int = 4,
    lanes: int = 1,
    world: World | None = None,
    by_step: bool = False,
    weighted: bool = False,
    **kw: Any,
) -> RunPlan:
    """Return a plan over domains of shards with so many samples; `kw` counts domains as `shelves` lists them."""
    listed = list(shelves)
    shuffle = kw.get("shuffle", True)
    in_order = not shuffle and not weighted and not by_step
    order = list(range(len(listed))) if in_order else sorted(range(len(listed)), key=listed.__getitem__)
    views = [WholeShards(samples_S=np.array(samples, dtype=np.int64)) for samples in shelves.values()]
    choose_K = np.array(kw.get("choose", [view.samples_S.sum() for view in views]), dtype=np.int64)[order]
    max_epochs_K = kw.get("max_epochs_K", (None,) * len(listed))
    return RunPlan(
        domains=tuple(SimpleNamespace(name=listed[k], fingerprint="", view=views[k]) for k in order),
        choose_K=choose_K,
        epoch_size=int(choose_K.sum()),
        max_epochs_K=tuple(max_epochs_K[k] for k in order),
        by_step=by_step,
        in_order=in_order,
        shuffle=shuffle,
        shuffle_seed=9176,
        block_size=window_size("py1e", kw.get("shuffle_block_size"), lanes),
        drop_last=kw.get("drop_last", False),
        mixer="",
        lag=None,
        world=world or World(),
        batch_size=batch_size,
        lanes=lanes,
    )


def start(run: RunPlan) -> Cursor:
    return run.plan.start(quantise(run.prior_K) if run.by_step else None)


def walked(run: RunPlan, cursor: Cursor, lanes: Iterable[int], steps: int, share_K: np.ndarray | None = None):
    """Return [(step from here, shard)], every row of these lanes that a walk touches, in the order of time."""
    weights = None if share_K is None else (lambda step: quantise(share_K))
    walk = Walk(plan=run.plan, cursor=cursor, weights=weights)
    touched = []
    for step in range(steps):
        if (rows := walk.advance()) is None:
            break
        per_lane = len(rows.domain_B) // run.lanes
        (at,) = run.addressing.locate([rows], slice(None))
        number_LR = at.shard_B.reshape(run.lanes, per_lane)
        touched += [(step, int(number)) for i in range(per_lane) for number in number_LR[list(lanes), i]]
    return touched


def first_needs(touched: list[tuple[int, int]]) -> dict[int, int]:
    """Return shard -> step of its first need, in the order of first needs."""
    needs: dict[int, int] = {}
    for step, number in touched:
        needs.setdefault(number, step)
    return needs


def moved(run: RunPlan, steps: int, share_K: np.ndarray | None = None) -> Cursor:
    weights = None if share_K is None else (lambda step: quantise(share_K))
    walk = Walk(plan=run.plan, cursor=start(run), weights=weights)
    for _ in range(steps):
        if walk.advance() is None:
            break
    return walk.cursor


@st.composite
def runs(draw: Callable[..., Any], *, by_step: bool = False, limited: bool = True) -> tuple[RunPlan, np.ndarray | None]:
    """Draw a run, and weights if it takes them by step."""
    K = draw(st.integers(1, 4))
    shelves = {
        f"d{k}": [draw(st.integers(0, 9))] * draw(st.integers(0, 2)) + [draw(st.integers(1, 20))] for k in range(K)
    }
    lanes = draw(st.sampled_from([1, 2, 4, 8]))
    ranks = draw(st.sampled_from([1, 2, 4, 8]))
    batch_size = draw(st.integers(1, 4)) * max(lanes // ranks, 1)
    kw: dict[str, Any] = {
        "shuffle": draw(st.booleans()),
        "shuffle_block_size": draw(st.sampled_from([1, 7, 30, None])),
        "weighted": draw(st.booleans()),
        "drop_last": draw(st.booleans()),
    }
    if limited:
        kw["max_epochs_K"] = tuple(draw(st.sampled_from([None, None, 0.5, 1, 1.5, 2])) for _ in range(K))
    share_K = None
    if by_step:
        kw["by_step"] = True
        share_K = np.array(draw(st.lists(st.sampled_from([0, 0.01, 1, 5]), min_size=K, max_size=K).filter(any)))
    elif draw(st.booleans()):
        kw["choose"] = [draw(st.integers(0, 2 * sum(samples))) for samples in shelves.values()]
        assume(any(kw["choose"]))
    world = World(rank=draw(st.integers(0, ranks - 1)), size=ranks, nodes=draw(st.sampled_from([1, ranks])))
    run = make_run(shelves, batch_size=batch_size, lanes=lanes, world=world, **kw)
    try:
        assert run.plan
    except ConfigError:  # an epoch that holds no batch
        assume(False)
    return run, share_K


# --- upcoming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_step", [False, True])
@settings(max_examples=40)
@given(data=st.data())
def test_upcoming_is_exactly_what_the_walk_needs_in_its_order(by_step, data):
    run, share_K = data.draw(runs(by_step=by_step))
    steps = data.draw(st.integers(0, 25))
    cursor = moved(run, data.draw(st.integers(0, 20)), share_K)
    forecast = Forecast(run)
    numbers_N, steps_N = forecast.upcoming(cursor, share_K, steps * run.batch_size)
    assert (numbers_N.dtype, steps_N.dtype) == (np.int64, np.float64)
    expected = first_needs(walked(run, cursor, forecast.lanes, steps, share_K))
    assert list(zip(numbers_N.tolist(), steps_N.tolist())) == list(expected.items())


@pytest.mark.parametrize(
    ("rank", "ranks", "machines", "B", "L", "own", "beside"),
    [
        (0, 1, 1, 16, 4, [0, 1, 2, 3], [0, 1, 2, 3]),
        (1, 2, 1, 16, 4, [2, 3], [0, 1, 2, 3]),
        (1, 2, 2, 16, 4, [2, 3], [2, 3]),
        (5, 8, 2, 16, 4, [2], [2, 3]),
        (5, 8, 2, 16, 2, [1], [1]),
        (0, 2, 1, 18, 3, [0, 1], [0, 1, 2]),  # its rows end in the middle of a lane
        (1, 2, 2, 18, 3, [1, 2], [1, 2]),
    ],
)
def test_a_rank_looks_at_the_lanes_that_its_rows_lie_in(rank, ranks, machines, B, L, own, beside):
    run = make_run({"web": [90]}, batch_size=B // ranks, lanes=L, world=World(rank=rank, size=ranks, nodes=machines))
    forecast = Forecast(run)
    assert (list(forecast.lanes), list(forecast.machine_lanes)) == (own, beside)


@settings(max_examples=25)
@given(data=st.data())
def test_under_other_weights_each_domain_keeps_its_own_order(data):
    run, assumed_K = data.draw(runs(by_step=True, limited=False))
    K = len(run.plan.names)
    true_K = np.array(data.draw(st.lists(st.integers(1, 9), min_size=K, max_size=K)), dtype=float)
    cursor = moved(run, data.draw(st.integers(0, 20)), true_K)
    forecast = Forecast(run)
    for lane in forecast.lanes:
        forecast.lanes = range(lane, lane + 1)
        listed = forecast.upcoming(cursor, assumed_K, 20 * run.batch_size)[0].tolist()
        needed = list(first_needs(walked(run, cursor, [lane], 20, true_K)))
        for k in range(K):
            own = range(*run.addressing.shard_offset_K[k : k + 2].tolist())
            ours, theirs = [n for n in listed if n in own], [n for n in needed if n in own]
            common = min(len(ours), len(theirs))
            assert ours[:common] == theirs[:common]
            if assumed_K is not None and assumed_K[k] == 0:
                assert not ours


def test_streams_weigh_until_somebody_says_otherwise():
    run = make_run({"web": [10] * 4, "code": [10] * 4}, by_step=True, choose=[40, 0])
    numbers_N, _ = Forecast(run).upcoming(start(run), None, 400)
    assert sorted(numbers_N.tolist()) == [4, 5, 6, 7]  # those of web: domains are sorted by name


# --- distance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_step", [False, True])
@settings(max_examples=25)
@given(data=st.data())
def test_nothing_is_needed_much_earlier_than_distance_says(by_step, data):
    run, share_K = data.draw(runs(by_step=by_step, limited=False))
    plan, steps = run.plan, 25
    cursor = moved(run, data.draw(st.integers(0, 20)), share_K)
    forecast = Forecast(run)
    distance_N = forecast.distance(cursor, share_K, np.arange(run.addressing.shard_offset_K[-1]))
    assert (distance_N >= 0).all()
    needs = first_needs(walked(run, cursor, forecast.machine_lanes, steps, share_K))
    epochs = steps // plan.steps_per_epoch + 1
    for number, step in needs.items():
        k = int(np.searchsorted(run.addressing.shard_offset_K, number, side="right")) - 1
        if plan.part_LK is not None:
            share = (plan.part_LK[:, k] / plan.part_LK.sum(axis=1))[list(forecast.machine_lanes)]
        else:
            assert share_K is not None
            share = share_K[[k]] / share_K.sum()
        pace = share[share > 0].min() * plan.global_batch_size / plan.lanes
        late = 0 if plan.in_order else 2 / pace
        assert distance_N[number] <= step + late + epochs


def ordered(run: RunPlan, cursor: Cursor) -> dict[int, float]:
    numbers_N = np.arange(run.addressing.shard_offset_K[-1])
    return dict(zip(numbers_N.tolist(), Forecast(run).distance(cursor, None, numbers_N).tolist()))


def test_distance_grows_along_the_queue_of_a_domain_read_in_order():
    run = make_run({"web": [8, 8, 8, 8]}, shuffle=False)
    assert ordered(run, start(run)) == {0: 0, 1: 2, 2: 4, 3: 6}
    assert ordered(run, moved(run, 5)) == {0: 3, 1: 5, 2: 0, 3: 1}


def test_domains_read_one_after_the_other_wait_for_their_turn():
    run = make_run({"b": [8, 8], "a": [4, 8]}, shuffle=False)
    assert ordered(run, start(run)) == {0: 0, 1: 2, 2: 4, 3: 5}
    assert ordered(run, moved(run, 4)) == {0: 3, 1: 5, 2: 0, 3: 1}


def test_all_shards_of_the_running_window_are_near():
    run = make_run({"web": [10] * 8}, shuffle_block_size=20)
    order = run.addressing.orders[0]
    _, shard_B, _ = order.locate(lane=0, draw_B=np.arange(80))
    for step in (0, 4, 5, 12, 19):
        distance = ordered(run, moved(run, step))
        window = step * 4 // 20
        assert {n for n, far in distance.items() if far == 0} == set(shard_B[window * 20 : window * 20 + 20].tolist())
        for later in range(window + 1, 4):
            for shard in shard_B[later * 20 : later * 20 + 20].tolist():
                assert distance[shard] == later * 5 - step


def test_what_other_machines_read_is_never_needed_here():
    run = make_run({"web": [8] * 8}, batch_size=4, lanes=2, world=World(rank=1, size=2, nodes=2), shuffle=False)
    distance = ordered(run, start(run))
    assert [np.isinf(distance[n]) for n in range(8)] == [True] * 4 + [False] * 4
    neighbour = make_run({"web": [8] * 8}, batch_size=4, lanes=2, world=World(rank=1, size=2), shuffle=False)
    assert np.isfinite(list(ordered(neighbour, start(neighbour)).values())).all()  # a rank beside us reads them


def test_a_shard_at_the_border_of_two_lanes_is_as_near_as_the_nearer_takes_it():
    run = make_run({"web": [8, 8, 8]}, batch_size=4, lanes=2, shuffle=False)
    assert ordered(run, start(run)) == {0: 0, 1: 0, 2: 2}  # lane 0: 8 + 4 samples; lane 1: 4 + 8; 2 rows a step each


def test_domains_without_weight_and_those_that_have_left_are_never_needed():
    run = make_run({"code": [10, 10], "web": [10, 10]}, by_step=True, max_epochs_K=(1, None), shuffle_block_size=1)
    numbers_N = np.arange(4)
    one_K, halves_K = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert np.isinf(Forecast(run).distance(start(run), one_K, numbers_N)).tolist() == [False, False, True, True]
    at = moved(run, 7, halves_K)  # the second shard of code runs, and the first will not be read again
    assert sorted(Forecast(run).distance(at, halves_K, numbers_N[:2]).tolist()) == [0, np.inf]
    gone = moved(run, 12, halves_K)
    assert np.isinf(Forecast(run).distance(gone, halves_K, numbers_N)).tolist() == [True, True, False, False]


def test_it_may_be_asked_about_any_cursor_in_any_order():
    run = make_run({"web": [10] * 8, "code": [7] * 5}, shuffle_block_size=20, batch_size=8, lanes=2)
    numbers_N, one = np.arange(13), Forecast(run)
    cursors = [moved(run, step) for step in (0, 3, 30, 7, 55, 7, 0)]
    for cursor in cursors:
        assert one.distance(cursor, None, numbers_N).tolist() == list(ordered(run, cursor).values())


def test_a_trillion_samples_take_memory_for_their_shards_only():
    run = make_run({"web": [10**8] * 6000, "code": [10**8] * 4000}, batch_size=64, lanes=4)
    numbers_N = np.arange(10_000)
    small = make_run({"web": [9], "code": [9]}, batch_size=8)
    Forecast(small).distance(start(small), None, numbers_N[:2])  # compiled, imported
    Forecast(small).upcoming(start(small), None, 8)
    tracemalloc.start()
    began = time.thread_time()
    forecast = Forecast(run)
    for step in (0, 40, 80):
        cursor = moved(run, step)
        assert len(forecast.upcoming(cursor, None, 4096)[0]) > 0
        assert (forecast.distance(cursor, None, numbers_N) >= 0).all()
    took, (held, peak) = time.thread_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4 << 20
    assert peak < 8 << 20
    assert took < 2


# --- eviction ---------------------------------------------------------------------------------------------------------


def misses(batches: list[list[int]], room: int, worst: Callable[[int, set[int]], int]) -> int:
    """Count shards that had to be fetched by a cache of `room` shards that gives up `worst(step, may go)`."""
    held: dict[int, int] = {}
    missed = 0
    for step, batch in enumerate(batches):
        for number in batch:
            if number not in held:
                missed += 1
                if len(held) == room:
                    del held[worst(step, set(held) - set(batch))]
            held.pop(number, None)
            held[number] = step
    return missed


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("kind", ["in order", "unshuffled, mixed", "py1s"])
def test_eviction_of_what_is_farthest_is_nearly_as_good_as_can_be(kind, lanes):
    shelves = {"web": [20] * 24, "code": [12] * 12, "law": [16] * 4}
    options: dict[str, Any] = {"shuffle": False} if kind != "py1s" else {"shuffle_block_size": 1}
    run = make_run(shelves, batch_size=8, lanes=lanes, weighted=kind == "unshuffled, mixed", **options)
    steps = 2 * run.plan.steps_per_epoch
    by_step: list[list[int]] = [[] for _ in range(steps)]
    for step, number in dict.fromkeys(walked(run, start(run), range(lanes), steps)):
        by_step[step].append(number)
    uses = {n: [s for s, batch in enumerate(by_step) if n in batch] for n in range(run.addressing.shard_offset_K[-1])}
    cursors, forecast = [moved(run, step) for step in range(steps)], Forecast(run)

    def farthest(step: int, may_go: set[int]) -> int:
        numbers_N = np.array(sorted(may_go))
        return int(numbers_N[np.argmax(forecast.distance(cursors[step], None, numbers_N))])

    def belady(step: int, may_go: set[int]) -> int:
        return max(sorted(may_go), key=lambda n: next((s for s in uses[n] if s > step), steps))

    def oldest(step: int, may_go: set[int]) -> int:
        return min(may_go, key=lambda n: max(s for s in uses[n] if s <= step))

    room = run.addressing.shard_offset_K[-1] // 2
    ours, best, lru = (misses(by_step, room, worst) for worst in (farthest, belady, oldest))
    assert best <= ours <= best + 3
    assert lru >= best + room // 3 if kind != "py1s" else lru > ours
