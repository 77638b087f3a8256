"""A process of the demo: `python -m mixstream_tools.demo.child SETTINGS PART`, with RANK and WORLD_SIZE set.

PART `before` starts the run and kills itself in the middle of it. PART `after` resumes from the checkpoint and runs to
the end. Both call examples/train.py and write step logs. PART `reference` reads the same run without training and
without interruption, for the proof.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mixstream_examples import train as example  # pyright: ignore[reportMissingImports]  # pyright cannot follow it

from .proof import write_references
from .settings import ROWS, Settings
from .step_log import StepLogWriter

if TYPE_CHECKING:
    import torch

    import mixstream as ms


def main() -> None:
    """Run one part of the demo."""
    settings, part = Settings.load(Path(sys.argv[1])), sys.argv[2]
    if part == "reference":
        write_references(settings)
    else:
        _train(settings, part)


def _train(settings: Settings, part: str) -> None:
    write = StepLogWriter(settings.step_logs(part)[example.RANK])

    def watch(loader: ms.Loader, batch: ms.Batch, loss: torch.Tensor) -> None:
        write(loader, batch, loss)
        if part == "before" and loader.step == settings.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)  # no handler, no `finally`, no flush: as if the machine failed

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
