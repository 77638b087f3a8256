"""`torch.distributed.checkpoint` saves and loads a loader as it is, `{"data": loader}`, on any number of ranks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import Tilt, drive, joined, loaders_of, make_dataset, row_ids

import mixstream as ms
from mixstream.errors import StateError

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated"),
]
HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Import it with the first test: every worker collects this file, and forks what it has in memory."""
    global dcp  # noqa: PLW0603
    import torch.distributed.checkpoint as dcp


@pytest.fixture(scope="module")
def worlds(library, tmp_path_factory, warm_programs) -> dict[int, Any]:
    """Ranks -> the global batches after the checkpoint, and the weights."""
    out = tmp_path_factory.mktemp("dcp")
    done = subprocess.run(
        [warm_programs / "python", str(HERE / "dcp_job.py"), json.dumps({"root": str(library), "out": str(out)})],
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for ranks in (1, 2, 3, 4):
        parts = [json.loads((out / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
        after = [rows[-12:] for rows, _ in parts]
        found[ranks] = ([joined(batch) for batch in zip(*after, strict=True)], parts[0][1])
    return found


def test_a_loader_saved_on_two_ranks_goes_on_with_one_three_and_four(library, worlds):
    assert worlds[1] == worlds[2] == worlds[3] == worlds[4]
    with loaders_of(library, batch=24, lanes=1, mixer=Tilt(), lag=4) as loaders:
        assert drive(loaders, 21)[9:] == worlds[1][0]


def test_the_state_is_one_value_of_bytes_however_it_grows(library, tmp_path):
    with ms.Loader(make_dataset(library, mixer=Tilt(), lag=4)) as loader:
        drive([loader], 30)
        dcp.save({"train": {"step": 30}, "data": loader}, checkpoint_id=tmp_path / "ours")
        state, following = loader.state_dict(), row_ids(next(iter(loader)))
    assert set(dcp.FileSystemReader(tmp_path / "ours").read_metadata().state_dict_metadata) == {
        "train.step",
        "data.state",
    }
    with ms.Loader(make_dataset(library, mixer=Tilt(), lag=4)) as fresh:
        dcp.load({"data": fresh}, checkpoint_id=tmp_path / "ours")
        assert fresh.state_dict() == state
        assert row_ids(next(iter(fresh))) == following
    loader = ms.StreamingDataLoader(make_dataset(library, mixer=Tilt(), lag=4), batch_size=8)
    dcp.load({"data": loader}, checkpoint_id=tmp_path / "ours")
    assert loader.state_dict() == state


def test_a_state_in_the_order_of_mosaicml_streaming_is_loaded_and_goes_on_in_ours_at_an_epochs_end(library, tmp_path):
    with ms.Loader(make_dataset(library, order="mosaic")) as loader:
        epoch = drive([loader], len(loader))
        dcp.save({"data": loader}, checkpoint_id=tmp_path / "end")
        drive([loader], 3)
        dcp.save({"data": loader}, checkpoint_id=tmp_path / "middle")
        state, following = loader.state_dict(), row_ids(next(iter(loader)))
    assert len(epoch) == 28
    for fresh in (ms.Loader(make_dataset(library, order="mosaic")), ms.Loader(make_dataset(library, order="mosaic"))):
        with fresh:
            dcp.load({"data": fresh}, checkpoint_id=tmp_path / "middle")
            assert fresh.state_dict() == state
            assert row_ids(next(iter(fresh))) == following
    with ms.Loader(make_dataset(library)) as ours:
        dcp.load({"data": ours}, checkpoint_id=tmp_path / "end")
        assert (ours.epoch, ours.run.plan.settle(ours.run.start()).epoch) == (1, 0)


def test_a_state_within_an_object_of_the_users_own_is_one_value_too(library, tmp_path):
    class App:
        """As torch's recipes have it: model, optimizer and data in one object."""

        def __init__(self, loader: ms.Loader) -> None:
            self.loader = loader

        def state_dict(self) -> dict[str, Any]:
            return {"data": self.loader.state_dict()}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.loader.load_state_dict(state["data"])

    with ms.Loader(make_dataset(library)) as loader, ms.Loader(make_dataset(library)) as fresh:
        drive([loader], 5)
        dcp.save({"app": App(loader)}, checkpoint_id=tmp_path / "app")
        dcp.load({"app": App(fresh)}, checkpoint_id=tmp_path / "app")
        assert fresh.state_dict() == loader.state_dict()
        assert isinstance(loader.state_dict()["step"], int)


def test_a_loader_of_other_domains_refuses_the_checkpoint_and_keeps_its_place(library, tmp_path):
    with ms.Loader(make_dataset(library)) as loader:
        drive([loader], 3)
        dcp.save({"data": loader}, checkpoint_id=tmp_path, no_dist=True)
    with ms.Loader(make_dataset(library, names=("web", "code"))) as other:
        drive([other], 1)
        with pytest.raises(Exception, match="law"):
            dcp.load({"data": other}, checkpoint_id=tmp_path, no_dist=True)
        assert other.step == 1


def test_damaged_bytes_are_no_state(library):
    with ms.Loader(make_dataset(library)) as loader, pytest.raises(StateError, match="the state is damaged"):
        loader.load_state_dict({"state": b'{"mixstream":'})
