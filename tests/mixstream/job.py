"""A training job in a process of its own, for tests that kill it. Not a test.

    python job.py '{"root": ..., "steps": 40, "state": ..., "dataset": {...}}'

Writes one line per step, the step and a hash of this rank's rows, and after each step its state, at once or not at all.
With "state" naming a file that is there, it goes on from that.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from harness import Tilt, digest, losses, make_dataset, row_ids

import mixstream as ms


def main(settings: dict[str, Any]) -> None:
    """Run the job."""
    mixer = Tilt() if settings.get("learns") else None
    loader = ms.Loader(
        make_dataset(Path(settings["root"]), mixer=mixer, lag=4, **settings.get("dataset", {})), prefetch=3
    )
    state = Path(settings["state"]) if "state" in settings else None
    if state is not None and state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
    while loader.step < settings["steps"]:
        for batch in loader:
            ids = row_ids(batch)
            sys.stdout.write(f"{batch.step} {digest(ids)}\n")
            sys.stdout.flush()
            loader.report(batch, torch.from_numpy(losses(ids)))
            if state is not None:
                aside = state.with_suffix(f".{os.getpid()}")
                aside.write_text(json.dumps(loader.state_dict()))
                aside.replace(state)
            if loader.step >= settings["steps"]:
                break
    loader.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
