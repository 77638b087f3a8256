"""What a run with other domains keeps of a state (`strict=False`): a pass over a kept domain reads each sample once."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from types import SimpleNamespace as Record
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import StateError
from mixstream.plan.addressing import WholeShards
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.state import load_state, parse_state, save_state
from mixstream.plan.state_carry import with_shares
from mixstream.plan.weights import deal, deal_beside, quantise
from mixstream.types import Cursor, Int64
from mixstream.world import World

Sizes = dict[str, int]


def run_of(sizes: Sizes, *, lanes: int = 1, per_lane: int = 2, choose: Sizes | None = None, **given: Any) -> RunPlan:
    """Return a shuffled run over domains of these sizes, in shards of at most 7 samples."""
    names = sorted(sizes)
    shards = {name: [min(7, n - at) for at in range(0, n, 7)] for name, n in sizes.items()}
    choose_K = np.array([(choose or sizes)[name] for name in names], dtype=np.int64)
    domains = tuple(
        Record(name=name, fingerprint=f"{name} {sizes[name]}", view=WholeShards(samples_S=np.array(shards[name])))
        for name in names
    )
    whole: dict[str, Any] = {
        "domains": domains,
        "choose_K": choose_K,
        "epoch_size": int(choose_K.sum()),
        "max_epochs_K": (None,) * len(names),
        "by_step": False,
        "in_order": False,
        "shuffle": True,
        "shuffle_seed": 17,
        "block_size": 16,
        "drop_last": False,
        "mixer": "static",
        "lag": None,
        "world": World(),
        "batch_size": lanes * per_lane,
        "lanes": lanes,
    }
    return RunPlan(**{**whole, **given})


def taken(run: RunPlan, cursor: Cursor, steps: int, weight_K: Int64 | None = None) -> tuple[Cursor, list[Any]]:
    """Take steps; return the cursor after them and (domain, lane, draw, shard, row) of every row."""
    batches = []
    for _ in range(steps):
        if (moved := run.plan.advance(cursor, weight_K)) is None:
            break
        cursor = run.plan.settle(moved[0])
        batches.append(moved[1])
    rows: list[Any] = []
    for batch, at in zip(batches, run.addressing.locate(batches, slice(0, None)) if batches else ()):
        shard_B, lane_B = at.shard_B - run.addressing.shard_offset_K[at.domain_B], np.arange(len(at)) * run.lanes
        columns = (batch.domain_B, lane_B // len(at), batch.draw_B, shard_B, at.row_B)
        rows += [(run.names[k], *rest) for k, *rest in zip(*(column.tolist() for column in columns))]
    return cursor, rows


def carried(document: dict[str, Any], run: RunPlan, *, strict: bool = False) -> tuple[RunPlan, Cursor]:
    """Load a state, as a dataset does."""
    state = parse_state(json.loads(json.dumps(document)))
    run = with_shares(run, state)
    weight_K = np.ones(len(run.names), dtype=np.int64) if run.by_step else None
    return run, load_state(state, run, fresh=run.plan.start(weight_K), strict=strict)[0]


def check_passes(rows: list[Any], run: RunPlan) -> None:
    """Check that the first passes of the lanes over a domain read no sample twice, and all if they are complete."""
    for k, name in enumerate(run.names):
        size, owned_L = int(run.plan.samples_K[k]), run.plan.owned_LK[:, k].tolist()
        if min(owned_L) < 1:
            continue  # a lane that owns nothing reads a sample of its neighbour
        of_draw = {row[1:3]: row[3:] for row in rows if row[0] == name}
        first = [of_draw.get((lane, draw)) for lane, owned in enumerate(owned_L) for draw in range(owned)]
        read = Counter(at for at in first if at is not None)
        assert max(read.values(), default=1) == 1, f"{name}: samples were read twice in one pass"
        if None not in first:
            assert len(read) == size


def test_two_domains_of_41_in_two_lanes_of_which_one_is_dropped():
    run = run_of({"a": 41, "b": 41}, lanes=2, per_lane=4)
    cursor, before = taken(run, run.plan.start(), 4)
    state = save_state(run, cursor, mixing=None)
    for kept in ("a", "b"):
        rest, place = carried(state, run_of({kept: 41}, lanes=2, per_lane=4))
        _, after = taken(rest, place, 12)
        rows = [row for row in before if row[0] == kept] + after
        check_passes(rows, rest)
        assert len({row[3:] for row in rows if row[2] < rest.plan.owned_LK[row[1], 0]}) == 41


sizes_of = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(8, 60), min_size=1, max_size=6)


@given(data=st.data(), before=sizes_of, lanes=st.integers(1, 8), per_lane=st.integers(1, 5), steps=st.integers(0, 60))
def test_every_pass_over_a_kept_domain_is_exact(data, before, lanes, per_lane, steps):
    """Domains are dropped, added and replaced, twice; in mid-epoch, and with weights by step too."""
    by_step = data.draw(st.booleans())
    kw: dict[str, Any] = {"lanes": lanes, "per_lane": per_lane, "by_step": by_step}
    run = run_of(before, **kw)
    weight_K = quantise(np.arange(1, len(before) + 1)) if by_step else None
    cursor, rows = taken(run, run.plan.start(weight_K), steps, weight_K)
    sizes = before
    for _ in range(2):
        state = save_state(run, cursor, mixing=None)
        kept = data.draw(st.sets(st.sampled_from(sorted(sizes)), min_size=1))
        added = data.draw(sizes_of)
        sizes = {**{n: s for n, s in added.items() if n not in sizes}, **{name: sizes[name] for name in kept}}
        was = dict(zip(run.names, run.plan.owned_LK.T.tolist()))
        run, cursor = carried(state, run_of(sizes, **kw))
        assert {name: was[name] for name in kept} == {
            name: owned for name, owned in zip(run.names, run.plan.owned_LK.T.tolist()) if name in kept
        }
        rows = [row for row in rows if row[0] in kept]
        weight_K = quantise(np.arange(1, len(sizes) + 1)) if by_step else None
        cursor, more = taken(run, cursor, data.draw(st.integers(0, 60)), weight_K)
        rows += more
        check_passes(rows, run)
        again, place = carried(save_state(run, cursor, mixing=None), run_of(sizes, **kw), strict=True)
        assert taken(again, place, 9, weight_K)[1] == taken(run, cursor, 9, weight_K)[1]
    cursor, more = taken(run, cursor, 0 if by_step else 250, weight_K)
    check_passes(rows + more, run)


@given(data=st.data(), before=sizes_of, lanes=st.integers(2, 6), per_lane=st.integers(1, 4))
def test_later_epochs_read_every_sample_once(data, before, lanes, per_lane):
    """A run with the odd samples of all domains in few lanes fills the other lanes up with repeats that it counts."""
    run = run_of(before, lanes=lanes, per_lane=per_lane)
    state = save_state(run, run.plan.start(), mixing=None)
    kept = data.draw(st.sets(st.sampled_from(sorted(before)), min_size=1))
    run, cursor = carried(state, run_of({name: before[name] for name in kept}, lanes=lanes, per_lane=per_lane))
    for _ in range(2):
        steps, counted = run.plan.steps_per_epoch, cursor.repeats
        cursor, rows = taken(run, cursor, steps)
        read = Counter((row[0], *row[3:]) for row in rows)
        assert len(read) == sum(before[name] for name in kept)
        assert len(rows) - len(read) == cursor.repeats - counted


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("steps", [0, 5, 29, 40])
def test_the_epoch_that_begins_takes_what_its_settings_say_and_no_more(steps, drop_last):
    """What was drawn before is no part of it: neither missing from it nor repeated in it."""
    before = {"a": 41, "b": 60, "c": 30}
    run = run_of(before, lanes=2, per_lane=2)
    cursor, _ = taken(run, run.plan.start(), steps)
    state = save_state(run, cursor, mixing=None)
    after = {"a": 41, "c": 30, "d": 25}
    run, cursor = carried(state, run_of(after, lanes=2, per_lane=2, drop_last=drop_last))
    assert (cursor.step, cursor.step_in_epoch, cursor.repeats) == (steps, 0, state["repeats"])
    for _ in range(3):
        counted = cursor.repeats
        cursor, rows = taken(run, cursor, run.plan.steps_per_epoch)
        assert len(rows) == 4 * run.plan.steps_per_epoch
        drawn, repeats = Counter(row[0] for row in rows), cursor.repeats - counted
        assert repeats == (0 if drop_last else 4 * run.plan.steps_per_epoch - sum(after.values()))
        assert 0 <= sum(abs(drawn[name] - size) for name, size in after.items()) <= 3


def test_rows_that_were_repeated_are_still_counted_after_loading():
    run = run_of({"a": 41, "b": 8}, lanes=2, per_lane=4)
    cursor, _ = taken(run, run.plan.start(), 3 * run.plan.steps_per_epoch)
    assert cursor.repeats == 3 * 7
    state = save_state(run, cursor, mixing=None)
    assert carried(state, run, strict=True)[1].repeats == 3 * 7
    assert carried(state, run_of({"a": 41}, lanes=2, per_lane=4))[1].repeats == 3 * 7


def test_only_parts_that_are_not_the_usual_ones_are_in_a_state():
    run = run_of({"a": 41, "b": 41, "c": 7}, lanes=2)
    state = save_state(run, run.plan.start(), mixing=None)
    assert all("owned" not in domain for domain in state["domains"])
    for kept, owned in (
        ({"b": 41, "c": 7}, [[20, 21], [4, 3]]),
        ({"a": 41, "c": 7}, [None, [4, 3]]),
        ({"a": 41}, [None]),
    ):
        rest, place = carried(state, run_of(kept, lanes=2))
        assert [domain.get("owned") for domain in save_state(rest, place, mixing=None)["domains"]] == owned


@pytest.mark.parametrize("owned", [[20], [20, 20], [0, 41], [-1, 42], [20, 21, 0], "20"])
def test_parts_that_cannot_be_are_damage(owned):
    run = run_of({"a": 41}, lanes=2)
    state = save_state(run, run.plan.start(), mixing=None)
    state["domains"][0]["owned"] = owned
    with pytest.raises(StateError, match="damaged"):
        parse_state(state)


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=9),
    lanes=st.integers(1, 9),
    fixed=st.sets(st.integers(0, 8)),
)
def test_what_is_dealt_beside_others_is_dealt_evenly(counts, lanes, fixed):
    counts_K = np.array(counts, dtype=np.int64)
    fixed_K = np.array([k in fixed for k in range(len(counts))])
    whole_LK = deal(counts_K, lanes)
    found_LK = deal_beside(counts_K, whole_LK, fixed_K=fixed_K)
    assert found_LK.sum(axis=0).tolist() == counts
    assert (found_LK[:, fixed_K] == whole_LK[:, fixed_K]).all()
    assert (found_LK.max(axis=0) - found_LK.min(axis=0)).max() <= 1
    held_L, total_L = whole_LK[:, fixed_K].sum(axis=1), found_LK.sum(axis=1)
    assert np.ptp(total_L) <= max(np.ptp(held_L), 1)
    nothing_K = np.zeros(len(counts), dtype=bool)
    assert (deal_beside(counts_K, whole_LK, fixed_K=nothing_K) == whole_LK).all()


# --- what cannot be kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"shuffle_seed": 18}, r"shuffle_seed: saved 17, now 18\n.*pass shuffle_seed=17, or start without"),
        ({"shuffle": False}, r"shuffle: saved True, now False\n.*pass shuffle=True"),
        ({"block_size": 32}, r"shuffle_block_size: saved 16, now 32\n.*shuffle_block_size=16"),
        ({"block_size": 8}, r"shuffle_block_size: saved 16, now 8\n.*shuffle_algo='py1e', shuffle_block_size=16"),
        ({"lanes": 4, "batch_size": 8}, r"lanes \(num_canonical_nodes\): saved 2, now 4\n.*num_canonical_nodes=2"),
        (
            {"shuffle_seed": 18, "block_size": 8},
            r"(?s)shuffle_seed: .*shuffle_block_size: .*pass shuffle_seed=17, shuf",
        ),
    ],
)
def test_settings_under_which_positions_mean_other_samples_are_refused(change, pattern):
    run = run_of({"a": 41, "b": 20}, lanes=2)
    cursor, _ = taken(run, run.plan.start(), 3)
    state = save_state(run, cursor, mixing=None)
    other = run_of({"a": 41, "c": 9}, **{"lanes": 2, **change})
    with pytest.raises(StateError, match=r"positions of the domains \['a'\] cannot be kept") as refused:
        carried(state, other)
    assert re.search(pattern, str(refused.value))
    nothing = save_state(run, run.plan.start(), mixing=None)
    assert not carried(nothing, other)[1].drawn_LK.any()  # nothing was read, so nothing is read again
    strange = run_of({"c": 9}, **{"lanes": 2, **change})
    assert not carried(state, strange)[1].drawn_LK.any()


def test_without_shuffling_neither_seed_nor_window_decide():
    kw: dict[str, Any] = {"lanes": 2, "shuffle": False}
    run = run_of({"a": 41, "b": 20}, **kw)
    cursor, before = taken(run, run.plan.start(), 3)
    other, place = carried(save_state(run, cursor, mixing=None), run_of({"a": 41}, **kw, shuffle_seed=3, block_size=5))
    _, after = taken(other, place, 9)
    check_passes([row for row in before if row[0] == "a"] + after, other)


def test_other_batch_sizes_weights_and_limits_keep_positions():
    run = run_of({"a": 41, "b": 41, "c": 30}, lanes=2)
    cursor, before = taken(run, run.plan.start(), 7)
    state = save_state(run, cursor, mixing=None)
    changes: list[dict[str, Any]] = [
        {"per_lane": 7},
        {"choose": {"b": 90, "c": 5}},
        {"max_epochs_K": (1.0, None)},
        {"drop_last": True},
        {"by_step": True, "mixer": "Tilt", "lag": 3},
    ]
    for change in changes:
        other, place = carried(state, run_of({"b": 41, "c": 30}, lanes=2, **change))
        weight_K = np.array([3, 1], dtype=np.int64) if other.by_step else None
        _, after = taken(other, place, 40, weight_K)
        check_passes([row for row in before if row[0] != "a"] + after, other)


def test_a_domain_that_was_rewritten_begins_anew_and_is_named():
    run = run_of({"a": 41, "b": 41, "c": 30}, lanes=2)
    cursor, _ = taken(run, run.plan.start(), 7)
    state = save_state(run, cursor, mixing=None)
    with pytest.warns(UserWarning, match=r"begin anew(?s:.*)domain 'b' has other shards \(fingerprint") as said:
        _, place = carried(state, run_of({"a": 41, "b": 42}, lanes=2))
    assert len(said) == 1
    assert (place.drawn_LK == [[cursor.drawn_LK[0, 0], 0], [cursor.drawn_LK[1, 0], 0]]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        carried(save_state(run, run.plan.start(), mixing=None), run_of({"a": 41, "b": 42}, lanes=2))


def renamed(run: RunPlan, **names: str) -> RunPlan:
    """Return the run with other names of domains."""
    known = [Record(**{**vars(domain), "name": names.get(domain.name, domain.name)}) for domain in run.domains]
    return RunPlan(**{**vars_of(run), "domains": tuple(sorted(known, key=lambda domain: domain.name))})


def vars_of(run: RunPlan) -> dict[str, Any]:
    return {name: getattr(run, name) for name in RunPlan.__dataclass_fields__}


def test_a_domain_under_another_name_is_refused():
    run = run_of({"a": 20, "b": 20}, lanes=2)
    cursor, _ = taken(run, run.plan.start(), 7)
    state = save_state(run, cursor, mixing=None)
    with pytest.raises(StateError, match=r"'z' is not in the state, and has the samples of 'a'.*Stream\(name='a'\)"):
        carried(state, renamed(run, a="z"))
    carried(save_state(run, run.plan.start(), mixing=None), renamed(run, a="z"))  # nothing of it was read


def bucketed(labels: str, window: int, **kw: Any) -> RunPlan:
    """Return a run over the buckets `s/q=LABEL` of a stream, and a domain "w"."""
    sizes = {**{f"s/q={label}": 20 for label in labels}, "w": 30}
    run = run_of(sizes, block_size=window, **kw)
    family_K = tuple("s" if name.startswith("s/") else None for name in run.names)
    return RunPlan(**{**vars_of(run), "family_K": family_K})


def test_a_bucket_whose_window_changes_with_its_stream_begins_anew():
    run = bucketed("012", 16)
    cursor, before = taken(run, run.plan.start(), 9)
    state = save_state(run, cursor, mixing=None)
    with pytest.warns(UserWarning, match="stream 's' was split into 3 buckets .*, and is now split into 2 buckets"):
        other, place = carried(state, bucketed("01", 16))
    assert place.drawn_LK[0, :2].tolist() == [0, 0]
    _, after = taken(other, place, 30)
    check_passes([row for row in before if row[0] == "w"] + after, other)
