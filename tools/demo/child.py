"""A process of the demo: `python -m mixstream_tools.demo.child SETTINGS PART`, with RANK and WORLD_SIZE set.

PART `before` begins the run and kills itself in the middle of it, PART `after` goes on from the checkpoint to the end:
these train as examples/train.py does, by calling it, and keep a journal. PART `reference` reads the same run without
training and without interruption, for the proof.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mixstream_examples import train as example  # pyright: ignore[reportMissingImports]  # pyright cannot follow it

from .journal import Recorder
from .proof import write_references
from .settings import ROWS, Settings

if TYPE_CHECKING:
    import torch

    import mixstream as ms


def main() -> None:
    """Do one part of the demo."""
    settings, part = Settings.load(Path(sys.argv[1])), sys.argv[2]
    if part == "reference":
        write_references(settings)
    else:
        _train(settings, part)


def _train(settings: Settings, part: str) -> None:
    record = Recorder(settings.journals(part)[example.RANK])

    def watch(loader: ms.Loader, batch: ms.Batch, loss: torch.Tensor) -> None:
        record(loader, batch, loss)
        if part == "before" and loader.step == settings.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)  # no handler, no `finally`, no flush: like a lost machine

    example.train(
        data=settings.shards,
        checkpoint=settings.checkpoint,
        steps=settings.steps,
        rows=ROWS,
        mixer=settings.mixer(),
        resume=part == "after",
        save_every=settings.save_every,
        seed=settings.seed,
        watch=watch,
    )


if __name__ == "__main__":
    main()
