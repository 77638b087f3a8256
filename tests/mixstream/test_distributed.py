"""Who we are among how many, from wherever it is said; and a real process group."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import Tilt, drive, loaders_of, make_dataset

import mixstream as ms
from mixstream.distributed import World, sum_over_ranks
from mixstream.errors import ConfigError

JOB = """
import json, sys
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from harness import Tilt, losses, make_dataset, row_ids
from pathlib import Path
import mixstream as ms
dist.init_process_group("gloo")
import os
for name in ("RANK", "WORLD_SIZE"):
    del os.environ[name]  # the process group has to be enough
rank = dist.get_rank()
dataset = make_dataset(Path(sys.argv[2]), batch_size=4, mixer=Tilt(), lag=4)
taken = []
with ms.Loader(dataset, prefetch=2) as loader:
    while len(taken) < 40:
        for batch in loader:
            taken.append(row_ids(batch))
            loader.report(batch, torch.from_numpy(losses(taken[-1])))
            if len(taken) == 40:
                break
    state = loader.state_dict()
from mixstream.distributed import sum_over_ranks
import numpy as np
summed = [sum_over_ranks(np.array([1.0, rank]), size=size).tolist() for size in (2, 1)]  # 1: replicas, each counts once
Path(sys.argv[3]).joinpath(f"{rank}.json").write_text(json.dumps([taken, state, summed]))
dist.destroy_process_group()
"""


def test_the_world_is_said_by_arguments_or_environment(monkeypatch):
    assert World.detect() == World(rank=0, size=1, nodes=1)
    assert World.detect(rank=3, world_size=4) == World(rank=3, size=4, nodes=1)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert World.detect() == World(rank=5, size=8, nodes=4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert World.detect().nodes == 1


def test_worlds_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="rank 4 of world size 4"):
        World.detect(rank=4, world_size=4)
    with pytest.raises(ConfigError, match="both rank and world_size or neither"):
        World.detect(rank=1)
    with pytest.raises(ConfigError, match="replication=3"):
        World(rank=0, size=4).replicated(3)


def test_replicated_ranks_see_the_same_rows(library):
    with loaders_of(library, world=4, batch=16, replication=2) as loaders:
        rows = [next(iter(loader))["tokens"][:, 0].tolist() for loader in loaders]
    assert rows[0] == rows[1] != rows[2] == rows[3]


def test_losses_of_several_ranks_without_a_process_group_are_refused():
    assert sum_over_ranks(np.ones(3), size=1).tolist() == [1, 1, 1]
    with pytest.raises(ConfigError, match="init_process_group"):
        sum_over_ranks(np.ones(3), size=2)


def test_two_real_processes_learn_what_one_does(library, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(JOB)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    where = [str(Path(__file__).parent), str(library), str(tmp_path)]
    subprocess.run([*command, *where], check=True, capture_output=True, timeout=200)
    (rows_0, state_0, summed_0), (rows_1, state_1, summed_1) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)
    )
    with loaders_of(library, mixer=Tilt(), lag=4) as loaders:
        alone = drive(loaders, 40)
        state = loaders[0].state_dict()
    assert [a + b for a, b in zip(rows_0, rows_1)] == alone
    assert state_0 == state_1 == json.loads(json.dumps(state))
    assert summed_0 == summed_1 == [[2, 1], [1, 0.5]]
    assert make_dataset(library).run.world.size == 1


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
