"""Who we are among how many, from wherever it is said; and a real process group."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Asking, Tilt, drive, joined, loaders_of, losses, make_dataset, row_ids
from selections import keep

import mixstream as ms
from mixstream.distributed import detect_world
from mixstream.errors import ConfigError
from mixstream.world import World

JOB = """
import json, os, sys
import numpy as np
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from harness import Asking, Tilt, losses, make_dataset, row_ids
from pathlib import Path
import mixstream as ms
dist.init_process_group("gloo")
for name in ("RANK", "WORLD_SIZE"):
    del os.environ[name]  # the process group has to be enough
rank, world = dist.get_rank(), dist.get_world_size()

def loader_of(mixer, **kw):
    return ms.Loader(make_dataset(Path(sys.argv[2]), batch_size=8 // world, lag=4, mixer=mixer, **kw), prefetch=2)

def train(loader, steps):
    taken = []
    while len(taken) < steps:
        for batch in loader:
            if loader.wants_validation:  # on all ranks' rows the model is as good as the number of its step
                loader.report_evaluation(([0.0 if rank else 1.0 * batch.step * world, 2.0, 3.0], [1.0, 1.0, 1.0]))
            taken.append(row_ids(batch))
            for part in batch.split(2):
                loader.report(part, torch.from_numpy(losses(row_ids(part))))
            if len(taken) == steps:
                break
    return taken

def refused(job):
    try:
        job()
    except ms.errors.RanksDisagreeError as error:
        return str(error)

class Odd(Tilt):
    def update(self, state, feedback):
        state, weights = super().update(state, feedback)
        return state, np.roll(weights, rank if feedback.step == 3 else 0)

told = {}
for name, mixer in {"losses": Tilt(), "evaluations": Asking()}.items():
    with loader_of(mixer) as loader:
        told[name] = [train(loader, 40), loader.state_dict()]
with loader_of(Tilt(), replication=2) as loader:
    taken = train(loader, 3)
    told["replicas"] = [taken, loader.state_dict()]
with loader_of(Tilt(), replication=world) as loader:
    for batch in loader:  # as the stages of a pipeline: the last one alone has losses
        loader.report(batch, torch.from_numpy(losses(row_ids(batch))) if rank == world - 1 else None)
    told["stages"] = loader.state_dict()
with loader_of(Tilt(), shuffle_seed=rank) as loader:
    told["seeds"] = refused(lambda: train(loader, 9))
where = f"{sys.argv[3]}/{'one' if rank else 'other'}"
each = [ms.Stream(remote=f"{sys.argv[2]}/law", selection=where), ms.Stream(remote=f"{sys.argv[2]}/web")]
with loader_of(Tilt(), streams=each) as loader:
    told["selections"] = refused(lambda: train(loader, 9))
with loader_of(Odd()) as loader:
    told["weights"] = refused(lambda: train(loader, 19))
with loader_of(Tilt()) as loader:  # another count in the mixer's state, which changes no weights
    state = loader.state_dict()
    state["mixing"]["state"]["seen"] = rank
    loader.load_state_dict(state)
    told["states"] = refused(lambda: train(loader, 9))
with loader_of(Tilt()) as loader:
    def measure_on_one():
        for batch in loader:
            loader.report(batch, torch.ones(8 // world), matrix=np.eye(3) if rank else None)
    told["matrix"] = refused(measure_on_one)
Path(sys.argv[3]).joinpath(f"{rank}.json").write_text(json.dumps(told))
dist.destroy_process_group()
"""


def test_the_world_is_said_by_arguments_or_environment(monkeypatch):
    assert detect_world() == World(rank=0, size=1, nodes=1)
    assert detect_world(rank=3, world_size=4) == World(rank=3, size=4, nodes=1)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert detect_world() == World(rank=5, size=8, nodes=4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert detect_world().nodes == 1


def test_worlds_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="rank 4 of world size 4"):
        detect_world(rank=4, world_size=4)
    with pytest.raises(ConfigError, match="both rank and world_size or neither"):
        detect_world(rank=1)
    with pytest.raises(ConfigError, match="replication=3"):
        World(rank=0, size=4).replicated(3)


def test_replicated_ranks_see_the_same_rows(library):
    with loaders_of(library, world=4, batch=16, replication=2) as loaders:
        rows = [next(iter(loader))["tokens"][:, 0].tolist() for loader in loaders]
    assert rows[0] == rows[1] != rows[2] == rows[3]


@pytest.mark.parametrize("world", [2, 4])
def test_real_processes_learn_what_one_does_and_name_who_disagrees(library, tmp_path, warm_programs, world):
    ids = [keep(tmp_path / name, library / "law", [3, at], domain="law").id for at, name in ((7, "other"), (9, "one"))]
    script = tmp_path / "job.py"
    script.write_text(JOB)
    command = [warm_programs / "torchrun", "--standalone", f"--nproc-per-node={world}", str(script)]
    where = [str(Path(__file__).parents[1]), str(library), str(tmp_path)]
    done = subprocess.run([*command, *where], check=False, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    for name, mixer in {"losses": Tilt(), "evaluations": Asking()}.items():
        alone, state = learn_alone(library, mixer)
        assert [joined(parts) for parts in zip(*(of_rank[name][0] for of_rank in told))] == alone
        assert all(of_rank[name][1] == state for of_rank in told)
    replicas = [of_rank["replicas"] for of_rank in told]
    assert replicas[0] == replicas[1]
    assert all(of_rank[1] == replicas[0][1] for of_rank in replicas)
    assert all(of_rank["stages"] == told[0]["stages"] for of_rank in told)
    parts = told[0]["stages"]["mixing"]["log"][-1][1]
    assert max(parts) > 1.1 * min(parts)
    for of_rank in told:
        assert "disagree about the run:\n  - shuffle_seed: 0 on ranks [0]; 1 on ranks [1]" in of_rank["seeds"]
        assert f"\n  - selections of 'law': '{ids[0]}' on ranks [0]; '{ids[1]}' on ranks [1" in of_rank["selections"]
        assert "'web'" not in of_rank["selections"]
        assert "disagree at step 4:\n  - weights of step 8: None on ranks [0" in of_rank["weights"]
        assert "on ranks [1]" in of_rank["weights"]
        assert re.search(
            r"disagree about the run:\n  - state of the mixer: '\w+' on ranks \[0\]; '\w+' on", str(of_rank["states"])
        )
        assert f"matrix: False on ranks [0]; True on ranks {list(range(1, world))}" in of_rank["matrix"]


def learn_alone(library: Path, mixer: Any) -> tuple[list[list[int]], Any]:
    """Return the rows and the state of 40 steps in one process, over the same global batches."""
    batches: list[list[int]] = []
    with ms.Loader(make_dataset(library, mixer=mixer, lag=4), prefetch=2) as loader:
        while len(batches) < 40:
            for batch in loader:
                if loader.wants_validation:
                    loader.report_validation([batch.step, 2.0, 3.0])
                batches.append(row_ids(batch))
                loader.report(batch, torch.from_numpy(losses(batches[-1])))
                if len(batches) == 40:
                    break
        return batches, json.loads(json.dumps(loader.state_dict()))


def rows_of_rank(dataset, rank: int, results) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    with ms.Loader(dataset) as loader:
        results.put([rank, *(int(number) for number in next(iter(loader))["tokens"][:, 0])])


@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")
@pytest.mark.parametrize("asked_before", [False, True])
def test_a_dataset_made_before_the_ranks_were_started_finds_its_rank(library, asked_before):
    """As with torch.multiprocessing.spawn, Lightning's ddp_spawn and notebooks."""
    dataset = make_dataset(library, batch_size=4)
    if asked_before:
        len(dataset)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=rows_of_rank, args=(dataset, rank, results)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = sorted(results.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join()
    with loaders_of(library) as loaders:
        assert found[0][1:] + found[1][1:] == drive(loaders, 1)[0]
