"""`batching_method="per_stream"` and `"device_per_stream"`: one domain per batch, exact, resumable, for any ranks."""

from __future__ import annotations

import json
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from harness import SIZES, Tilt, drive, loaders_of, make_dataset, row_ids, streams
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import StateError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
]
STEPS = 60  # two epochs of 27 steps, and some of a third
SCHEDULE = ms.mixers.Schedule({0: {"web": 6, "code": 3, "law": 1}, 50: {"web": 1, "code": 2, "law": 3}}, kind="linear")
WEIGHTS = {"web": {"proportion": 0.5}, "code": {"proportion": 0.3}, "law": {"proportion": 0.2}}
CONFIGS = {
    "natural": {},
    "weighted": {"each": WEIGHTS, "epoch_size": 150},
    "repeat and choose": {"each": {"web": {"repeat": 0.5}, "code": {"choose": 77}, "law": {"repeat": 3.0}}},
    "as stored": {"shuffle": False},
    "fixed": {"each": {"web": {"choose": 40}}, "sampling_method": "fixed"},
    "schedule": {"mixer": SCHEDULE},
    "learning": {"mixer": Tilt(), "lag": 8},
    "max_epochs": {"each": {"law": {"max_epochs": 2}}},
}


def simulated(root, config="natural", method="per_stream", **kw):
    given = dict(CONFIGS[config])
    return loaders_of(root, streams=streams(root, **given.pop("each", {})), batching_method=method, **{**given, **kw})


def run(root, config="natural", steps=STEPS, state=None, at=None, **kw):
    """Return the global batches, and the state after `at` of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="domain 'law' has been read")
        with simulated(root, config, **kw) as loaders:
            for loader in loaders if state else []:
                loader.load_state_dict(json.loads(json.dumps(state)))
            before = drive(loaders, at or 0)
            saved = loaders[-1].state_dict()
            return before + drive(loaders, steps - len(before)), saved


def domains_of(batch):
    return {row // 1000 for row in batch}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_global_batch_has_one_domain_for_any_ranks_and_states_resume(library, config):
    batches, state = run(library, config, lanes=2, at=31)
    assert all(len(domains_of(batch)) == 1 and len(batch) == 8 for batch in batches)
    assert len({min(domains_of(batch)) for batch in batches}) == 3
    assert run(library, config, steps=40, lanes=2, world=4)[0] == batches[:40]
    assert run(library, config, steps=STEPS - 31, state=state, world=2)[0] == batches[31:]


def test_shares_are_exact_over_batches_and_no_sample_is_lost_or_read_early(library):
    batches, _ = run(library)
    shares = {1: 150 / 219, 2: 50 / 219, 3: 19 / 219}
    for n in range(1, STEPS + 1):
        counts = {k: sum(domains_of(batch) == {k} for batch in batches[:n]) for k in shares}
        assert all(abs(counts[k] - n * share) < 1 for k, share in shares.items())
    for k, size in zip((1, 2, 3), SIZES.values()):
        rows = [row for batch in batches for row in batch if row // 1000 == k]
        for begin in range(0, len(rows) - size + 1, size):
            assert len(set(rows[begin : begin + size])) == size  # every pass has each sample once
    web = [row for batch in batches for row in batch if row // 1000 == 1]
    assert len(set(web)) == 150


@pytest.mark.parametrize("workers", [0, 3])
def test_data_loaders_give_the_same_batches(library, workers):
    expected, _ = run(library, steps=30)
    for loader in (
        DataLoader(make_dataset(library, batching_method="per_stream"), batch_size=8, num_workers=workers),
        ms.StreamingDataLoader(make_dataset(library, batching_method="per_stream"), num_workers=workers),
    ):
        assert len(loader) == 27
        assert [row_ids(batch) for _ in range(2) for batch in loader][:30] == expected


def test_each_ranks_part_has_one_domain_and_other_ranks_go_on_with_the_same_batches(library):
    given = {"method": "device_per_stream", "batch": 16}
    batches, state = run(library, at=17, steps=40, world=4, **given)
    parts = [batch[i : i + 4] for batch in batches for i in range(0, 16, 4)]
    assert all(len(domains_of(part)) == 1 for part in parts)
    assert any(len(domains_of(batch)) > 1 for batch in batches)
    shares = np.array([150, 50, 19]) / 219
    counts = np.array([sum(domains_of(part) == {k} for part in parts) for k in (1, 2, 3)])
    assert (np.abs(counts - len(parts) * shares) < 1).all()
    assert state["settings"]["stretch"] == 4
    for world in (4, 8, 2, 1):
        fewer = pytest.warns(UserWarning, match="began with ranks of 4 rows each, .* go on with 4 ranks or a multiple")
        with fewer if world < 4 else nullcontext():
            assert run(library, steps=23, state=state, world=world, **given)[0] == batches[17:]


def test_lanes_that_do_not_divide_are_fewer_with_a_word(library):
    with pytest.warns(UserWarning, match="3 lanes .* cannot share a global batch of 8 rows evenly, so there are 1"):
        batches, state = run(library, steps=5, lanes=3)
    assert batches == run(library, steps=5)[0]
    assert state["num_canonical_nodes"] == 1
    dataset = make_dataset(library, batch_size=12, num_canonical_nodes=64)
    with pytest.warns(UserWarning, match="64 lanes .* so there are 4"):
        _ = dataset.run
    assert (dataset.run.run_plan.lanes, dataset.num_canonical_nodes) == (4, 64)


def test_a_domain_smaller_than_a_batch_is_named(library):
    with pytest.warns(UserWarning, match=r"domains \['law'\] have fewer samples than the 24 rows of one domain"):
        batches, _ = run(library, steps=12, batch=24)
    small = [batch for batch in batches if domains_of(batch) == {3}]
    assert small
    assert all(set(batch) == set(range(3000, 3019)) for batch in small)


def test_a_state_of_mixed_batches_is_refused_and_the_reverse(library):
    mixed, single = run(library, method="random", steps=5, at=3), run(library, steps=5, at=3)
    assert "stretch" not in mixed[1]["settings"]
    with pytest.raises(StateError, match=r"have one domain \(batching_method\): saved any, mixed, now 8"):
        run(library, state=mixed[1], steps=1)
    with pytest.raises(StateError, match=r"have one domain \(batching_method\): saved 8, now any, mixed"):
        run(library, method="random", state=single[1], steps=1)


def test_a_log_of_such_a_run_replays_it(library, tmp_path):
    dataset = make_dataset(library, streams=streams(library, **WEIGHTS), batching_method="per_stream")
    with ms.Loader(dataset, log=tmp_path) as loader:
        expected = drive([loader], 9)
    replay = ms.replay(tmp_path)
    again = make_dataset(library, batching_method="per_stream", mixer=replay)
    with ms.Loader(again) as loader:
        assert drive([loader], 9) == expected
    with pytest.warns(UserWarning, match="8 rows of a global batch had one domain"):
        _ = make_dataset(library, mixer=replay).run
