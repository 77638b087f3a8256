"""Ranks that save a loader by `torch.distributed.checkpoint` and load it with other numbers of ranks. Not a test.

    python dcp_job.py '{"root": …, "out": …}'

Prints one JSON object: what each world read, by case. Ranks are forked from a process that has no threads yet.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from harness import Tilt, losses, make_dataset, row_ids
from torch import distributed

import mixstream as ms

GLOBAL, SAVED = 24, 9


def open_loader(root: Path, ranks: int, **options: Any) -> ms.Loader:
    dataset = make_dataset(root, batch_size=GLOBAL // ranks, mixer=Tilt(), lag=4, num_canonical_nodes=1)
    return ms.Loader(dataset, **options)


def steps(loader: ms.Loader, n: int) -> list[Any]:
    """Read and report until step `n`; return this rank's rows by step."""
    found = []
    while loader.step < n:
        for batch in loader:
            found.append(row_ids(batch))
            loader.report(batch, torch.from_numpy(losses(found[-1])))
            if loader.step == n:
                break
    return found


def rank_main(rank: int, ranks: int, root: Path, out: Path) -> None:
    """Save on two ranks, load on the others."""
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo", init_method=f"file://{out}/store-{ranks}", rank=rank, world_size=ranks)
    loader = open_loader(root, ranks)
    if ranks == 2:
        steps(loader, SAVED)
        dcp.save({"data": loader, "other": torch.ones(2)}, checkpoint_id=out / "waiting")
        saving = dcp.async_save({"data": loader, "other": torch.ones(2)}, checkpoint_id=out / "async")
    else:
        steps(loader, 2)  # a loader that is somewhere else already
        dcp.load({"data": loader}, checkpoint_id=out / ("async" if ranks == 3 else "waiting"))
        assert loader.step == SAVED
    found = steps(loader, SAVED + 12)
    if ranks == 2:
        saving.result()
    loader.state_dict()  # waits for the weights that follow from the last report
    (out / f"{ranks}-{rank}.json").write_text(json.dumps([found, loader.weights]))
    loader.close()
    distributed.destroy_process_group()


def main(root: Path, out: Path) -> None:
    """Run each world after the other."""
    torch.set_num_threads(1)
    with open_loader(root, 1, prefetch=0) as loader:
        next(iter(loader))  # compiles what the ranks need
    context = multiprocessing.get_context("fork")
    for ranks in (2, 1, 3, 4):
        children = [context.Process(target=rank_main, args=(rank, ranks, root, out)) for rank in range(ranks)]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
            assert child.exitcode == 0, (ranks, child.exitcode)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    main(Path(settings["root"]), Path(settings["out"]))
