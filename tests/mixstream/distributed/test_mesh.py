"""Ranks that read the same rows, and what their losses count: tensor, context and pipeline parallelism."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replica_job
from children import in_child
from harness import make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.world import World, groups_like


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_rank_of_a_mesh_finds_the_same_groups(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    shared = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    ranks = int(np.prod(sizes))
    order_R = data.draw(st.permutations(range(ranks)))
    mesh = np.array(order_R).reshape(sizes)
    together = [axis for axis, same in enumerate(shared) if same]
    rows = np.moveaxis(mesh, together, range(-len(together), 0)).reshape(ranks // _size(sizes, together), -1)
    expected = sorted(sorted(row) for row in rows.tolist())
    found = {tuple(groups_like(data.draw(st.permutations(row)), order_R).tolist()) for row in rows.tolist()}
    (group_R,) = found
    assert [[r for r in range(ranks) if group_R[r] == g] for g in range(len(expected))] == expected
    worlds = [World(rank=r, size=ranks).replicated(group_R) for r in range(ranks)]
    assert [world.rank for world in worlds] == list(group_R)
    assert {(world.size, world.replicas, world.groups) for world in worlds} == {
        (len(expected), ranks // len(expected), worlds[0].groups)
    }


def _size(sizes: list[int], axes: list[int]) -> int:
    return int(np.prod([sizes[axis] for axis in axes]))


def test_groups_that_are_of_no_mesh_are_none():
    for members, ranks in [([1, 2], 4), ([0, 2, 5], 8), ([0, 3], 8), ([0, 1, 2], 8), ([0, 2, 3], 6)]:
        assert groups_like(members, range(ranks)) is None


@pytest.mark.parametrize(
    ("ranks", "nodes", "replication", "expected"),
    [
        (8, 2, 2, 2),  # each machine has replicas of its own
        (16, 4, 8, 2),  # a replica on two machines: these are one
        (8, 2, (0, 1, 2, 3, 0, 1, 2, 3), 1),  # stages of a pipeline: both machines read all rows
        (8, 4, (0, 1, 0, 1, 2, 3, 2, 3), 2),
        (12, 3, 12, 1),
    ],
)
def test_machines_that_share_a_rank_are_one(ranks, nodes, replication, expected):
    assert World(rank=0, size=ranks, nodes=nodes).replicated(replication).nodes == expected


def mesh_answers(library: Path) -> list[list[Any]]:
    """Return, for each rank of 8, what its dataset takes for its rank, or the error, for each thing given."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    found = []
    for rank in range(8):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=8)
        three = ("pp", "dp", "tp")
        mesh = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=three)
        hybrid = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("dp_replicate", "dp_shard", "tp"))
        mixed = DeviceMesh("cpu", torch.tensor([[7, 5], [6, 4], [3, 1], [2, 0]]), mesh_dim_names=("dp", "tp"))
        half = list(range(rank // 4 * 4, rank // 4 * 4 + 4))
        answers = []
        for options in [
            {"replication": mesh["pp", "tp"]},
            {"replication": mesh["pp", "tp"]._flatten("both")},
            {"replication": hybrid["tp"]},
            {"replication": mixed["tp"]},
            {"replication": mesh["pp"].get_group()},
            {"replication": mesh["pp", "tp"], "loss_parts": mesh["tp"]},
            {"replication": 2, "loss_parts": 2},
            {"replication": 4, "loss_parts": mesh["tp"]},
            {"replication": mesh["tp"]},
            {"replication": mesh["dp"]},
            {"replication": mesh["dp"].get_group()},
            {"replication": mesh},
            {"replication": init_device_mesh("cpu", (8,))},
            {"replication": DeviceMesh("cpu", half, mesh_dim_names=("tp",))},
            {"replication": dist.new_group([0, 1])},
            {"replication": dist.new_group([rank, (rank + 3) % 8])},
            {"replication": mesh["tp"].get_group(), "loss_parts": mesh["pp"]},
            {"replication": 2, "loss_parts": mesh["pp"]},
            {"replication": mesh["pp"].get_group(), "loss_parts": 2},
            {"loss_parts": mesh["tp"]},
            {"replication": mesh["pp", "tp"], "rank": 0, "world_size": 4},
        ]:
            try:
                world = make_dataset(library, batch_size=1, **options).run.run_plan.world
                answers.append([world.rank, world.size, world.part, world.parts])
            except ConfigError as error:
                answers.append(str(error))
        found.append(answers)
        dist.destroy_process_group()
    return found


def test_a_mesh_or_group_says_which_ranks_read_the_same_rows(library):
    told = in_child(mesh_answers, library)
    data = [r // 2 % 2 for r in range(8)]
    known = [
        [[d, 2, 0, 1] for d in data],
        [[d, 2, 0, 1] for d in data],
        [[r // 2, 4, 0, 1] for r in range(8)],
        [[d, 4, 0, 1] for d in [0, 1, 0, 1, 2, 3, 2, 3]],
        [[r % 4, 4, 0, 1] for r in range(8)],
        [[d, 2, r % 2, 2] for r, d in enumerate(data)],
        [[r // 2, 4, r % 2, 2] for r in range(8)],
        [[r // 4, 2, r % 2, 2] for r in range(8)],
    ]
    assert [list(answers) for answers in zip(*told)][: len(known)] == known
    for rank, answers in enumerate(told):
        for text, answer in zip(
            [
                'replication leaves out "pp" of the mesh (2 ranks)',
                'replication is given "dp", whose ranks read different rows',
                'replication is given "mesh_dp", whose ranks read different rows',
                'replication is given "dp", whose ranks read different rows',
                "the mesh of replication has no names",
                "give a slice of a mesh of all ranks",
                f"rank {rank} is not in the group given as replication",
                "cannot be in groups like it",
                "they do not all read the same rows",
                "they do not all read the same rows",
                "loss_parts=2 are consecutive ranks, and they do not all read the same rows",
                "give replication too",
                "replication was given for the 8 ranks of torch.distributed",
            ],
            answers[len(known) :],
            strict=True,
        ):
            assert text in answer or (rank < 2 and "is not in the group" in text), answer


def test_stages_and_parts_of_rows_count_once(library, tmp_path, warm_programs):
    """Two stages of a pipeline, of which one has losses, each of two parts of every row: 4 ranks that read the same."""
    replica_job.check(warm_programs, library, tmp_path, (2, 1, 2, 1))
