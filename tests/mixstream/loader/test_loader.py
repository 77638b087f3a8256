from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import (
    FIRST,
    SIZES,
    drive,
    joined,
    loaders_of,
    make_dataset,
    row_ids,
    streams,
    write_library,
)
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError, ExhaustedError, ShardCorruptError, ShardNotFoundError, StoreChangedError

STORED = [FIRST[name] + i for name in SIZES for i in range(SIZES[name])]


def background() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mixstream")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert not background()
    yield
    assert not background()


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, Path]:
    """Return a library of this test's own, and its shard with rows 120 to 134, as stored."""
    write_library(tmp_path)
    return tmp_path, tmp_path / "web" / "shard.00008.mds"


# --- what it is -------------------------------------------------------------------------------------------------------


def test_it_is_sized_and_no_torch_dataloader(library):
    with ms.Loader(make_dataset(library)) as loader:
        assert len(loader) == 28
        assert not isinstance(loader, DataLoader)  # so that trainers pass it through
        assert (loader.batch_size, loader.drop_last, loader.sampler, loader.batch_sampler) == (8, False, None, None)
        assert loader.dataset.size == 219
        assert loader.device == torch.device("cpu")
    with ms.Loader(make_dataset(library, drop_last=True)) as loader:
        assert len(loader) == 27


def test_a_batch_is_a_dict_of_tensors_that_knows_its_step(library):
    with ms.Loader(make_dataset(library)) as loader:
        batch = next(iter(loader))
        assert isinstance(batch, ms.Batch)
        assert isinstance(batch, dict)
        assert set(batch) == {"tokens", "domain"}
        assert (batch["tokens"].shape, batch["tokens"].dtype) == ((8, 8), torch.int64)
        assert batch["domain"].tolist() == batch.domain.tolist() == [n // 1000 - 1 for n in row_ids(batch)]
        assert (batch.step, batch.repeats, loader.step, loader.epoch) == (0, 0, 1, 0)


def test_the_pictures_of_a_run(library):
    with loaders_of(library, world=2, lanes=2) as loaders:
        drive(loaders, 30)
        text = loaders[1].describe()
    for said in ("step 30: epoch 1, 2 of 28", "8 rows = 2 lane(s) x 4", "rank 1 of 2 takes rows 4 to 7", "web", "150"):
        assert said in text
    assert repr(loaders[0]).startswith("Loader([web, code, law], batch_size=4, step=30")
    assert len(repr(loaders[0])) < 120


# --- buffers ----------------------------------------------------------------------------------------------------------


def test_batches_that_somebody_holds_are_never_overwritten(library):
    with ms.Loader(make_dataset(library), prefetch=4) as loader:
        held, copies = [], []
        for batch in loader:
            held.append(batch)
            copies.append({key: value.clone() for key, value in batch.items()})
        for _ in loader:  # another epoch, through whatever is free
            pass
        assert all(torch.equal(batch[key], copy[key]) for batch, copy in zip(held, copies) for key in copy)


def test_a_batch_outlives_its_loader(library):
    with ms.Loader(make_dataset(library)) as loader:
        expected = [row_ids(batch) for batch in loader]
    gc.collect()
    gc.freeze()  # what other tests have left is not searched twenty times
    try:
        for _ in range(20):
            batches = list(ms.Loader(make_dataset(library)))
            gc.collect()
            assert list(map(row_ids, batches)) == expected
    finally:
        gc.unfreeze()
    deadline = time.monotonic() + 20
    while background() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_view_of_a_batch_holds_it_too(library):
    with ms.Loader(make_dataset(library), prefetch=4) as loader:
        views, arrays, copies = [], [], []
        for batch in loader:
            views.append(batch["tokens"][3, 2:])
            arrays.append(batch["tokens"].numpy()[1])
            copies.append(batch["tokens"].clone())
        for _ in range(2):
            list(loader)
        for view, array, copy in zip(views, arrays, copies):
            assert torch.equal(view, copy[3, 2:])
            assert np.array_equal(array, copy[1].numpy())


def test_a_trainer_may_change_a_batch_in_place(library):
    with ms.Loader(make_dataset(library)) as loader:
        expected = [row_ids(batch) for batch in loader]
    with ms.Loader(make_dataset(library)) as loader:
        got = []
        for batch in loader:
            got.append(row_ids(batch))
            batch["tokens"].fill_(-1)
            batch["domain"].fill_(-1)
            batch.clear()
    assert got == expected


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 4])
@pytest.mark.parametrize("how", ["truncated", "gone", "replaced"])
def test_a_background_error_surfaces_in_its_place_and_names_the_shard(damaged, how, prefetch):
    root, shard = damaged
    whole = shard.read_bytes()
    with ms.Loader(make_dataset(root, shuffle=False), prefetch=prefetch) as loader:
        it = iter(loader)
        got = [row_ids(next(it)) for _ in range(3)]
        if how == "gone":
            shard.unlink()
        else:
            shard.write_bytes(whole[:-100] if how == "truncated" else bytes(len(whole)))
        with pytest.raises(ShardNotFoundError if how == "gone" else ShardCorruptError) as error:
            got.extend(row_ids(batch) for batch in it)
        assert joined(got) == STORED[:120]  # all that stands before the shard was handed out
        assert error.value.__cause__ is None or not isinstance(error.value.__cause__, ms.errors.MixstreamError)
        text = f"{error.value} {' '.join(error.value.__notes__)}"
        assert "'web'" in text
        assert shard.name in text
        assert loader.step == 15
        with pytest.raises(ms.errors.MixstreamError, match=shard.name):  # it does not go away by itself
            next(iter(loader))
        shard.write_bytes(whole)  # once it is mended, the run goes on where it stopped
        got += [row_ids(batch) for batch in loader]
    assert joined(got)[:219] == STORED


def test_an_error_of_the_user_s_code_comes_as_it_is(library):
    def collate(rows: list[Any]) -> Any:
        if int(rows[0]["tokens"][0]) == STORED[16]:
            raise KeyError("mine")
        return rows

    with ms.Loader(make_dataset(library, shuffle=False), collate_fn=collate) as loader:
        it = iter(loader)
        assert len([next(it), next(it)]) == 2
        with pytest.raises(KeyError, match="mine"):
            next(it)


@pytest.mark.parametrize("prefetch", [-1, -8])
def test_prefetch_cannot_be_negative(library, prefetch):
    with pytest.raises(ConfigError, match=f"`prefetch` must be at least 0 batches, got {prefetch}"):
        ms.Loader(make_dataset(library), prefetch=prefetch)


def test_a_dataset_without_batch_size_is_refused(library):
    with pytest.raises(ConfigError, match="Please pass `batch_size` to StreamingDataset"):
        ms.Loader(make_dataset(library, batch_size=None))


# --- life -------------------------------------------------------------------------------------------------------------


def test_after_close_no_thread_is_left_and_the_run_goes_on(library):
    with loaders_of(library) as loaders:
        expected = drive(loaders, 40)
    loader = ms.Loader(make_dataset(library), prefetch=4)
    it = iter(loader)
    got = [row_ids(next(it)) for _ in range(3)]
    assert len(background()) == 1
    for _ in range(2):
        loader.close()
    assert not background()
    got += [row_ids(batch) for batch in loader]
    loader.close()
    with loader:
        got += drive([loader], 40 - len(got))
    assert got == expected


def test_with_closes_also_after_an_error(library):
    def train() -> None:
        with ms.Loader(make_dataset(library)) as loader:
            next(iter(loader))
            raise RuntimeError("of the trainer")

    with pytest.raises(RuntimeError, match="of the trainer"):
        train()
    assert not background()


def test_close_lets_go_of_the_shards(tmp_path):
    write_library(tmp_path)

    def mapped() -> int:
        return sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    loader = ms.Loader(make_dataset(tmp_path))
    list(loader)
    assert mapped() == 16
    loader.close()
    assert mapped() == 0


def test_two_loaders_over_one_dataset_do_not_disturb_each_other(library):
    dataset = make_dataset(library)
    with ms.Loader(dataset) as one, ms.Loader(dataset) as other:
        assert drive([one], 30)[28:] == drive([other], 30)[28:]
        pairs = list(zip(one, other))
        assert all(row_ids(a) == row_ids(b) for a, b in pairs)
        assert row_ids({"tokens": torch.tensor(dataset[3]["tokens"].astype("i8"))[None]}) == [1003]


def test_a_loader_that_nobody_holds_any_more_ends_its_thread(library):
    loader = ms.Loader(make_dataset(library), prefetch=4)
    batch = next(iter(loader))
    rows = row_ids(batch)
    assert len(background()) == 1
    del loader
    gc.collect()
    deadline = time.monotonic() + 20
    while background() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not background()
    assert row_ids(batch) == rows


ENDS = """
import atexit, sys, threading
from pathlib import Path
sys.path.append(sys.argv[1])
from harness import make_dataset
import mixstream as ms
# Runs after the library's own, and before the interpreter goes: a thread inside torch at that point would abort.
atexit.register(lambda: sys.stdout.write(str([t.name for t in threading.enumerate() if t.name.startswith("mix")])))
loader = ms.Loader(make_dataset(Path(sys.argv[2])), prefetch=3)
for step, batch in zip(range(5), loader):
    pass
sys.stdout.write("done ")
sys.stdout.flush()
"""


def test_an_interpreter_that_ends_in_the_middle_of_an_epoch_ends(library):
    """Nothing to clean up: no hang, no complaint, status 0, though nobody closed the loader."""
    command = [sys.executable, "-W", "error", "-c", ENDS, str(Path(__file__).parents[1]), str(library)]
    # Unbuffered: `communicate` does not see what a buffer took beyond the five bytes.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"done "
        began = time.monotonic()
        rest, complaints = process.communicate(timeout=50)
    assert (process.returncode, rest, complaints) == (0, b"[]", b"")
    assert time.monotonic() - began < 45  # a wait for the thread would be a minute


# --- position ---------------------------------------------------------------------------------------------------------


def test_set_epoch(library):
    with loaders_of(library) as loaders:
        expected = drive(loaders, 28 * 4)
    epochs = [expected[at : at + 28] for at in range(0, 112, 28)]
    with loaders_of(library) as (loader,):
        loader.set_epoch(0)  # trainers say it every epoch, also where it is so anyway
        assert drive([loader], 28) == epochs[0]
        loader.set_epoch(1)
        assert drive([loader], 5) == epochs[1][:5]
        loader.set_epoch(1)  # in the middle of the epoch too, as after a resume
        assert drive([loader], 23) == epochs[1][5:]
        loader.set_epoch(3)
        assert (loader.epoch, loader.step) == (3, 84)
        assert [row_ids(batch) for batch in loader] == epochs[3]
        loader.set_epoch(0)
        drive([loader], 3)
        loader.set_epoch(2)
        assert [row_ids(batch) for batch in loader] == epochs[2]


def test_set_epoch_under_a_schedule_is_where_its_steps_lead(library):
    schedule = ms.mixers.Schedule({0: {"web": 1, "code": 1, "law": 1}})
    with loaders_of(library, mixer=schedule) as (loader,):
        drive([loader], 5)
        loader.set_epoch(4)
        assert (loader.epoch, loader.step) == (4, 4 * 28)
        there = drive([loader], 28)
    with loaders_of(library, mixer=schedule) as (loader,):
        assert drive([loader], 5 * 28)[-28:] == there


SCHEDULE = ms.mixers.Schedule({0: {"web": 6, "code": 3, "law": 1}, 60: {"web": 1, "code": 2, "law": 3}}, kind="linear")


@pytest.mark.filterwarnings("ignore:domain .* has been read")
@pytest.mark.parametrize("config", ["natural", "weights", "schedule", "max_epochs"])
def test_set_epoch_begins_an_epoch_where_it_began_from_anywhere(library, config):
    """In the middle of an epoch, forwards and backwards, and back to the beginning of the running one."""

    def made() -> ms.StreamingDataset:
        each = {"law": {"max_epochs": 2}} if config == "max_epochs" else {}
        if config == "weights":
            each = {name: {"proportion": share} for name, share in (("web", 0.5), ("code", 0.3), ("law", 0.2))}
        mixer = SCHEDULE if config == "schedule" else None
        return make_dataset(library, streams=streams(library, **each), mixer=mixer)

    expected = drive([ms.Loader(made())], 4 * 28)
    for steps, epoch in ((5, 0), (5, 2), (33, 0), (33, 1), (28, 0), (60, 1), (60, 3)):
        loader: Any = ms.Loader(made())
        drive([loader], steps)
        state = loader.state_dict()
        loader.set_epoch(epoch)
        begun = steps if epoch == steps // 28 else 28 * epoch  # nothing happens if the next batch belongs to it
        assert loader.step == begun
        assert drive([loader], 2) == expected[begun : begun + 2]
        dataloader = ms.StreamingDataLoader(made(), batch_size=8)
        drive([dataloader], steps)  # its next `iter()` would begin the next epoch
        dataloader.set_epoch(epoch)
        assert drive([dataloader], 2) == expected[28 * epoch : 28 * epoch + 2]
        plain = made()
        plain.load_state_dict(state)
        assert len(list(plain)) == 8 * (28 - steps % 28)
        plain.next_epoch = epoch
        assert row_ids({"tokens": np.stack([row["tokens"] for row in plain])})[:16] == joined(
            expected[28 * epoch : 28 * epoch + 2]
        )


@pytest.mark.parametrize("mixer", [None, SCHEDULE])
def test_set_epoch_back_in_a_run_that_keeps_positions_of_another(library, mixer):
    """Its epochs begin where the state left off (`strict=False`), not at the first draw of each domain."""
    with loaders_of(library) as (loader,):
        drive([loader], 20)
        state = loader.state_dict()
    with loaders_of(library, batch=4, mixer=mixer) as (loader,):
        loader.load_state_dict(state, strict=False)
        expected = drive([loader], 2 * 55 + 5)
        for epoch in (1, 0):
            loader.set_epoch(epoch)
            assert loader.step == 20 + 55 * epoch
            assert drive([loader], 5) == expected[55 * epoch : 55 * epoch + 5]


def test_max_epochs_warns_leaves_and_ends(library):
    each = {"law": {"max_epochs": 1}, "code": {"max_epochs": 2}, "web": {"max_epochs": 1}}
    with loaders_of(library, streams=streams(library, **each)) as (loader,):
        with pytest.warns(UserWarning, match="max_epochs") as warned:
            rows = joined(row_ids(batch) for _ in range(2) for batch in loader)
        with pytest.raises(ExhaustedError, match=r"ends at step 33.*'law', 'web'"):
            list(loader)
    said = "\n".join(str(warning.message) for warning in warned)
    assert "domain 'law' has been read 1 times (max_epochs) and leaves the mix after step" in said
    assert "domain 'web' has been read 1 times" in said
    counts = {name: sum(n // 1000 == FIRST[name] // 1000 for n in rows) for name in SIZES}
    assert counts["web"] == 150
    assert counts["law"] == 19
    assert 100 - 8 < counts["code"] <= 100  # what does not fill a batch at the very end is left out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_the_gpu_are_the_same(library):
    with loaders_of(library) as loaders:
        expected = drive(loaders, 60)
    with ms.Loader(make_dataset(library), device="cuda") as loader:
        assert drive([loader], 60) == expected
        batch = next(iter(loader))
        assert batch["tokens"].is_cuda
        assert batch["domain"].is_cuda


def test_batches_made_together_and_states_between_them_are_those_of_batches_made_one_by_one(library):
    """Over epochs; without prefetching, each batch is made by itself."""
    one, many = (ms.Loader(make_dataset(library), prefetch=depth) for depth in (0, 6))
    steps = 3 * len(one) // 2
    with one, many:
        for _ in range(2):
            for alone, together in zip(one, many, strict=True):
                assert alone.step == together.step
                assert alone.keys() == together.keys()
                assert all(torch.equal(alone[name], together[name]) for name in alone)
                assert one.state_dict() == many.state_dict()
    assert many.step > steps


# --- files that change ------------------------------------------------------------------------------------------------


def test_a_shard_that_is_written_to_while_batches_are_made_together_is_refused_and_no_row_of_it_is_handed_out(tmp_path):
    """It is mapped, so its rows change: batches made before have the old ones, and those made after are an error."""
    rows = np.arange(4096, dtype=np.uint16)
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:64"}, out=str(tmp_path / "web")) as writer:
        for row in rows:
            writer.write({"tokens": np.full(64, row, dtype=np.uint16)})
    dataset = ms.StreamingDataset(streams=[ms.Stream(local=str(tmp_path / "web"))], batch_size=8, shuffle=False)
    with ms.Loader(dataset, widen=False) as loader:
        batches, seen = iter(loader), []
        for _ in range(8):
            seen.extend(next(batches)["tokens"][:, 0].tolist())
        until = time.monotonic() + 20
        while loader.stats().ready < 4 and time.monotonic() < until:
            time.sleep(0.01)
        (shard,) = (tmp_path / "web").glob("*.mds")
        time.sleep(0.11)  # what was looked at less than 0.1 s ago counts as unchanged
        with shard.open("r+b") as file:
            file.seek(-64 * 2 * 3000, 2)
            file.write(bytes(64 * 2 * 3000))
        with pytest.raises(StoreChangedError, match=shard.name):
            seen.extend(row for batch in batches for row in batch["tokens"][:, 0].tolist())
    assert seen == rows[: len(seen)].tolist()
    assert len(seen) < 1024
