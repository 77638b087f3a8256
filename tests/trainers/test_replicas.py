"""Jobs of 8 ranks whose meshes have replicas of all kinds; the gate has one of 4."""

from __future__ import annotations

import json

import pytest
import replica_job
from harness import joined


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 2, 2, 2), (2, 4, 1, 1), (2, 1, 2, 2)])
def test_every_mesh_reads_and_learns_what_one_process_does(library, tmp_path, warm_programs, sizes):
    replica_job.check(warm_programs, library, tmp_path, sizes)


def test_a_run_goes_on_under_another_mesh(library, tmp_path, warm_programs):
    first = replica_job.run_job(warm_programs, library, tmp_path / "job", (1, 2, 2, 2))
    (tmp_path / "job" / "state.json").write_text(json.dumps(first[5]["state"]))
    second = replica_job.run_job(warm_programs, library, tmp_path / "job", (2, 4, 1, 1), steps=2 * replica_job.STEPS)
    rows, state = replica_job.alone(library, tmp_path / "alone", steps=2 * replica_job.STEPS)
    by_data = {of_rank["data rank"]: of_rank["rows"] for of_rank in second}
    assert [joined(parts) for parts in zip(*(by_data[d] for d in range(4)))] == rows[replica_job.STEPS :]
    assert all(of_rank["state"] == state for of_rank in second)
