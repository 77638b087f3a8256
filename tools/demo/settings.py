"""The settings that all processes of a demo share: paths, length, the steps of checkpoint and kill, the mixer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mixstream import mixers
from mixstream.errors import ConfigError

SEQ_LEN = 128
"""Bytes in a row."""
ROWS = 32
"""Rows of the global batch."""
LEAST_STEPS = 8
PROCESSES = {"before": 1, "after": 2}
"""Processes before and after the kill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One demo.

    Attributes:
        out: its directory.
        steps: optimiser steps.
        seed: seed of the model and of the order of the data.
        samples: number of rows of each domain.
    """

    out: str
    steps: int
    seed: int
    samples: dict[str, int]

    def __post_init__(self) -> None:
        if self.steps < LEAST_STEPS:
            raise ConfigError(f"--steps {self.steps}: a run with a kill and a resume needs {LEAST_STEPS} or more.")

    @property
    def shards(self) -> Path:
        """The output of the conversion."""
        return Path(self.out, "shards")

    @property
    def run(self) -> Path:
        """The files of the training: settings, step logs, output, checkpoint."""
        return Path(self.out, "run")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint."""
        return self.run / "checkpoint.pt"

    def step_logs(self, part: str) -> list[Path]:
        """The step log of each process of `part`."""
        return [self.run / f"{part}-{rank}.jsonl" for rank in range(PROCESSES[part])]

    @property
    def reference(self) -> Path:
        """The files of the uninterrupted reference: a mixing log, and the hashes of its rows."""
        return self.run / "reference"

    def log(self, part: str, rank: int) -> Path:
        """The output of one process."""
        return self.run / f"{part}-{rank}.log"

    @property
    def save_every(self) -> int:
        """Steps between two checkpoints."""
        return max(1, self.steps // 10)

    @property
    def resume_from(self) -> int:
        """The step of the last checkpoint before the kill: about half of all steps."""
        return self.steps // 2 // self.save_every * self.save_every

    @property
    def kill_after(self) -> int:
        """Steps after which the training kills itself."""
        return self.resume_from + max(1, self.save_every // 4)

    def mixer(self) -> mixers.ADO:
        """The mixer of the run, whose prior is the sizes of the domains.

        ADO's defaults are for runs of tens of thousands of steps. These values are proportions of the run, chosen by
        their meaning and not by the result; all other values are the defaults of `ADO()`.

        - Ignore a twelfth: in it the model learns which bytes occur at all, which follows no power law.
        - Smooth over a tenth, and fit 240 points over the run, with 20 steps or more before the first law.
        - Start at a fifth, and fit again at every twentieth.

        In a run of fewer than about 200 steps, no law changes a batch: a fit needs 20 points, and weights apply `lag` =
        16 steps after their losses. Then the weights stay the prior.
        """
        return mixers.ADO(
            ignore_steps=self.steps // 12,
            window=max(5, self.steps // 10 | 1),
            subsample=max(1, self.steps // 240),
            start_step=self.steps // 5,
            update_interval=max(1, self.steps // 20),
        )

    def save(self) -> Path:
        """Write the settings for the training processes; returns the file."""
        file = self.run / "settings.json"
        file.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        return file

    @classmethod
    def load(cls, file: Path) -> Settings:
        """Read what `save` wrote."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))
