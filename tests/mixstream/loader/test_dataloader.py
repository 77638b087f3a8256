from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from harness import SIZES, Tilt, drive, joined, loaders_of, losses, make_dataset, row_ids, streams, sums, write_library
from torch.utils.data import DataLoader, TensorDataset

import mixstream as ms
from mixstream.errors import ConfigError, ExhaustedError, FeedbackError, ShardNotFoundError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores: so be it
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
]


def face(root: Any, workers: int = 0, *, data: dict[str, Any] | None = None, **kw: Any) -> Any:
    if workers:
        kw = {"num_workers": workers, "multiprocessing_context": "fork", "timeout": 60, **kw}
    return ms.StreamingDataLoader(make_dataset(root, **(data or {})), batch_size=8, **kw)


LEARNING: dict[str, Any] = {"mixer": Tilt(), "lag": 6}


@pytest.fixture(scope="module")
def learned(library) -> list[list[int]]:
    with loaders_of(library, **LEARNING) as loaders:
        return drive(loaders, 70)


def test_it_is_a_torch_dataloader(library):
    assert isinstance(face(library), DataLoader)
    loader = face(library)
    assert len(loader) == 28
    assert loader.batch_size == 8
    assert loader.num_samples_yielded == 0
    next(iter(loader))
    assert loader.num_samples_yielded == 8


def test_the_dataset_s_batch_size_is_taken_from_it_or_must_agree(library):
    dataset = make_dataset(library, batch_size=None)
    loader = ms.StreamingDataLoader(dataset, batch_size=8)
    assert dataset.batch_size == 8
    assert len(list(loader)) == 28
    with pytest.raises(ConfigError, match="batch_size=4 here and 8 on the dataset"):
        ms.StreamingDataLoader(make_dataset(library), batch_size=4)


def test_drop_last_of_the_loader_is_the_plan_s(library):
    loader = face(library, drop_last=True)
    assert len(list(loader)) == len(loader) == 27
    with loaders_of(library, drop_last=True) as loaders:
        assert drive([face(library, drop_last=True)], 60) == drive(loaders, 60)


def test_an_abandoned_epoch_is_followed_by_the_next_as_in_mosaicml_streaming(library):
    with loaders_of(library) as loaders:
        expected = drive(loaders, 28 * 3)
    for workers in (0, 2):
        loader = face(library, workers, persistent_workers=bool(workers))
        it = iter(loader)
        assert [row_ids(next(it)) for _ in range(3)] == expected[:3]
        assert [row_ids(batch) for batch in loader] == expected[28:56]
        assert [row_ids(batch) for batch in loader] == expected[56:]


def test_an_iterator_that_was_never_used_costs_no_epoch(library):
    with loaders_of(library) as loaders:
        expected = drive(loaders, 28)
    for workers in (0, 2):
        loader = face(library, workers, persistent_workers=bool(workers))
        for _ in range(3):
            iter(loader)
        assert [row_ids(batch) for batch in loader] == expected


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (3, True)])
def test_a_mixer_learns_through_workers(library, learned, workers, persistent):
    loader = face(library, workers, data=LEARNING, persistent_workers=persistent)
    assert drive([loader], 70) == learned


def test_losses_can_be_reported_as_to_a_loader(library, learned):
    loader = face(library, data=LEARNING)
    got = []
    for batch in loader:
        got.append(row_ids(batch))
        loader.report(batch, torch.from_numpy(losses(row_ids(batch))))
    assert got == learned[:28]


def test_a_missing_report_is_named(library):
    for workers in (0, 1):  # torch waits 5 s for a worker that waits for weights
        loader = face(library, workers, data=LEARNING)
        it = iter(loader)
        for _ in range(7):
            next(it)
        with pytest.raises(FeedbackError, match=r"step 0 has not been reported, .* step 7 depend on it \(lag 6\)"):
            next(it)


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_report_missing_at_the_start_of_an_epoch_can_be_made_up_for(library, learned, workers, persistent):
    """Also where persistent workers have begun that epoch already."""
    loader = face(library, workers, data=LEARNING, persistent_workers=persistent)
    first = list(loader_reporting(loader, until=21))
    for _ in range(2):
        with pytest.raises(FeedbackError, match="step 21 has not been reported"):
            next(iter(loader))
    for batch in first[21:]:
        loader.report_sums(batch.step, *sums(row_ids(batch), batch.domain, 3))
    assert list(map(row_ids, first)) + drive([loader], 42) == learned


def loader_reporting(loader: Any, until: int) -> Any:
    for batch in loader:
        if batch.step < until:
            loader.report_sums(batch.step, *sums(row_ids(batch), batch.domain, 3))
        yield batch


def test_workers_must_not_fetch_past_the_lag(library):
    with pytest.raises(ConfigError, match=r"4 workers x prefetch_factor 2 fetch 8 batches ahead, .*lag=8"):
        face(library, 4, data=LEARNING)
    assert face(library, 3, data=LEARNING)


def test_a_plain_dataloader_cannot_feed_a_mixer(library):
    with pytest.raises(
        ConfigError, match=r"Tilt learns from losses.*mixstream\.Loader or mixstream\.StreamingDataLoader"
    ):
        next(iter(DataLoader(make_dataset(library, **LEARNING), batch_size=8)))


@pytest.mark.filterwarnings("ignore:domain .* has been read")
def test_a_run_that_is_over_says_so_once_and_then_refuses(library):
    limited = {"streams": streams(library, **{name: {"max_epochs": 1} for name in SIZES})}
    for workers in (0, 2):
        loader = face(library, workers, data=limited, persistent_workers=bool(workers))
        with pytest.warns(UserWarning, match=r"the run ends at step 27: .*max_epochs"):
            assert len(list(loader)) == 27  # 219 samples fill no 28th batch
        with pytest.raises(ExhaustedError, match="the run ends at step 27"):
            next(iter(loader))


def test_over_another_kind_of_dataset_it_is_torch_s(library):
    other: Any = TensorDataset(torch.arange(10))
    loader = ms.StreamingDataLoader(other, batch_size=4)
    assert [batch[0].tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert loader.state_dict() is None
    loader.load_state_dict({})
    loader.report_sums(0, np.ones(1), np.ones(1))


def test_a_collate_fn_may_be_given_by_position_or_name(library):
    def collate(rows: list[Any]) -> list[int]:
        return [int(row["tokens"][0]) for row in rows]

    with loaders_of(library) as loaders:
        expected = drive(loaders, 28)
    assert list(face(library, collate_fn=collate)) == expected
    assert list(ms.StreamingDataLoader(make_dataset(library), 8, None, None, None, 0, collate)) == expected


def test_the_state_counts_what_was_handed_out_not_what_workers_fetched(library):
    loader = face(library, 3, prefetch_factor=4)
    it = iter(loader)
    for step in range(5):
        assert loader.state_dict()["step"] == step
        next(it)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_keeps_its_type_and_names_domain_and_shard(tmp_path, workers):
    write_library(tmp_path)
    (tmp_path / "code" / "shard.00002.mds").unlink()
    loader = face(tmp_path, workers, data={"shuffle": False})
    got = []
    with pytest.raises(ShardNotFoundError, match=r"shard\.00002\.mds") as error:
        got.extend(joined(map(row_ids, loader)))
    assert "domain 'code', shard 2 of 4" in f"{error.value} {getattr(error.value, '__notes__', '')}"
    if not workers:
        assert loader.state_dict()["step"] == (150 + 30) // 8


def test_the_batch_size_is_the_datasets_where_the_loader_is_given_none(library):
    assert ms.StreamingDataLoader(make_dataset(library, batch_size=6)).batch_size == 6


def test_batches_out_of_order_are_refused_since_their_steps_and_domains_would_be_of_others(library):
    with pytest.raises(ConfigError, match=r"in_order=False .* reports and states would be of other rows"):
        face(library, 2, in_order=False)
    assert len(list(face(library, in_order=False))) == 28  # torch: without effect where there are no workers


class Halved(ms.StreamingDataset):
    """Leaves out every other sample."""

    def __iter__(self) -> Any:
        yield from list(super().__iter__())[::2]


@pytest.mark.parametrize("loader", [ms.Loader, ms.StreamingDataLoader])
def test_a_subclass_that_iterates_otherwise_is_refused_by_loaders_that_tag_rows(library, loader):
    dataset = Halved(streams=streams(library), batch_size=8)
    with pytest.raises(ConfigError, match=r"Halved overrides __iter__.*Override __getitem__ or get_item"):
        loader(dataset)
    assert len(list(DataLoader(dataset, batch_size=8))) == 14
