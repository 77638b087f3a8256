"""What a rank does in tests of replicas. Not a test.

Started by `torchrun replica_job.py LIBRARY OUT SIZE,SIZE,… STEPS`. The sizes are those of a mesh ("pp", "dp", "cp",
"tp"). Writes what the rank has read and learned to OUT/RANK.json.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from harness import WIDTH, Tilt, joined, losses, make_dataset, row_ids
from torch.distributed.device_mesh import init_device_mesh

import mixstream as ms
from mixstream.errors import RanksDisagreeError

GLOBAL, STEPS = 8, 12
NAMES = ("pp", "dp", "cp", "tp")


def token_losses(ids: list[int]) -> np.ndarray:
    """Return a made-up loss per token, float64 [B, T]: multiples of 1/64 that differ along the row."""
    return losses(ids)[:, None] + np.arange(WIDTH) / 64


def train(loader: ms.Loader, report: Callable[[ms.Batch, np.ndarray], Any], steps: int = STEPS) -> Iterator[list[int]]:
    """Train `steps` steps, from wherever the loader is; `report` returns what this rank reports of a batch."""
    while loader.step < steps:
        for batch in loader:
            found = report(batch, token_losses(row_ids(batch)))
            loader.report(batch, found if found is None else torch.from_numpy(np.ascontiguousarray(found)))
            yield row_ids(batch)
            if loader.step >= steps:
                break


def open_loader(library: str, ranks: int, *, log: str | None = None, **kw: Any) -> ms.Loader:
    """Return a loader of this rank, of `ranks` that read different rows."""
    dataset = make_dataset(Path(library), mixer=Tilt(), lag=4, batch_size=GLOBAL // ranks, **kw)
    return ms.Loader(pickle.loads(pickle.dumps(dataset)), prefetch=2, log=log)


def refused(loader: ms.Loader, report: Callable[[ms.Batch, np.ndarray], Any]) -> str | None:
    """Return the error of ranks that disagree."""
    try:
        with loader:
            list(train(loader, report))
    except RanksDisagreeError as error:
        return str(error)
    return None


def run_job(programs: Path, library: Path, out: Path, sizes: tuple[int, ...], steps: int = STEPS) -> list[Any]:
    """Return what each rank of a job on this mesh ("pp", "dp", "cp", "tp") has read and learned, up to step `steps`.

    It goes on from OUT/state.json, if that is there. `programs` has its torchrun (the fixture `warm_programs`).
    """
    out.mkdir(exist_ok=True)
    ranks = int(np.prod(sizes))
    command = [programs / "torchrun", "--standalone", f"--nproc-per-node={ranks}"]
    where = [__file__, str(library), str(out), ",".join(map(str, sizes)), str(steps)]
    done = subprocess.run([*command, *where], check=False, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(ranks)]


def alone(library: Path, log: Path, steps: int = STEPS) -> tuple[list[list[int]], Any]:
    """Return the global batches and the state of one process that has all losses."""
    with open_loader(str(library), 1, log=str(log)) as loader:
        rows = list(train(loader, lambda batch, loss_BT: loss_BT, steps))
        return rows, json.loads(json.dumps(loader.state_dict()))


def logged(directory: Path) -> list[Any]:
    """Return the losses and counts of each step in a log."""
    lines = [json.loads(line) for line in next(directory.rglob("*.jsonl")).read_text().splitlines()]
    return [{key: line[key] for key in line if key != "time"} for line in lines if "loss" in line or "count" in line]


def check(programs: Path, library: Path, tmp_path: Path, sizes: tuple[int, ...]) -> list[Any]:
    """Check that a job reads, learns and logs what one process does, and that wrong reports are refused."""
    told = run_job(programs, library, tmp_path / "job", sizes)
    rows, state = alone(library, tmp_path / "alone")
    by_data = {of_rank["data rank"]: of_rank["rows"] for of_rank in told}
    assert all(of_rank["rows"] == by_data[of_rank["data rank"]] for of_rank in told)
    assert [joined(parts) for parts in zip(*(by_data[d] for d in sorted(by_data)))] == rows
    assert all(of_rank["state"] == state for of_rank in told)
    assert logged(tmp_path / "job") == logged(tmp_path / "alone") != []
    for of_rank in told if sizes[2] > 1 else ():
        assert 'loss_parts=mesh["cp"]' in of_rank["parts"]
        assert "they are copies" in of_rank["copies"]
    return told


def main(library: str, out: str, sizes: tuple[int, ...], steps: int) -> None:
    """Read and learn as each rank of the mesh would."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=NAMES)
    stage, data, context, _ = mesh.get_coordinate()
    last, part = stage == sizes[0] - 1, slice(context * WIDTH // sizes[2], (context + 1) * WIDTH // sizes[2])
    same_rows, state, told = mesh["pp", "cp", "tp"], Path(out) / "state.json", {"data rank": data}
    given: dict[str, Any] = {"replication": same_rows, "loss_parts": mesh["cp"]}
    with open_loader(library, sizes[1], log=f"{out}/log", **given) as loader:
        if state.exists():
            loader.load_state_dict(json.loads(state.read_text()))
        told["rows"] = list(train(loader, lambda batch, loss_BT: loss_BT[:, part] if last else None, steps))
        told["state"] = loader.state_dict()
    if sizes[2] > 1:
        loader = open_loader(library, sizes[1], replication=same_rows)  # parts, taken for copies
        told["parts"] = refused(loader, lambda batch, loss_BT: loss_BT[:, part])
        told["copies"] = refused(open_loader(library, sizes[1], **given), lambda batch, loss_BT: loss_BT)
    Path(out, f"{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], tuple(map(int, sys.argv[3].split(","))), int(sys.argv[4]))
