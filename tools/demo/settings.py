"""What all processes of one demo have to agree on: where things are, how long it runs, when it dies, how it mixes."""

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
        seed: of the model and of the order of the data.
        samples: rows there are of each domain.
    """

    out: str
    steps: int
    seed: int
    samples: dict[str, int]

    def __post_init__(self) -> None:
        if self.steps < LEAST_STEPS:
            raise ConfigError(f"--steps {self.steps}: to be killed and to go on takes a run of {LEAST_STEPS} or more.")

    @property
    def shards(self) -> Path:
        """What `mixstream convert` wrote."""
        return Path(self.out, "shards")

    @property
    def run(self) -> Path:
        """What the training writes: settings, journals, logs, the checkpoint."""
        return Path(self.out, "run")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint."""
        return self.run / "checkpoint.pt"

    def journals(self, part: str) -> list[Path]:
        """What each process of `part` writes of every step."""
        return [self.run / f"{part}-{rank}.jsonl" for rank in range(PROCESSES[part])]

    @property
    def reference(self) -> Path:
        """What the uninterrupted reading writes: a mixing log and the hashes of its rows."""
        return self.run / "reference"

    def log(self, part: str, rank: int) -> Path:
        """What it prints."""
        return self.run / f"{part}-{rank}.log"

    @property
    def save_every(self) -> int:
        """Steps between two checkpoints."""
        return max(1, self.steps // 10)

    @property
    def resume_from(self) -> int:
        """Steps that the last checkpoint before the kill knows of: about half of all."""
        return self.steps // 2 // self.save_every * self.save_every

    @property
    def kill_after(self) -> int:
        """Steps after which the training kills itself."""
        return self.resume_from + max(1, self.save_every // 4)

    def mixer(self) -> mixers.ADO:
        """How the domains are mixed, from their size on. The one place that decides it.

        ADO's own settings are for runs of tens of thousands of steps. These are proportions of the run, chosen by what
        they mean and not by what comes out; whatever is not named here is as `ADO()` has it.

        - ignore a twelfth: it is spent on learning which bytes there are at all, which is on no power law;
        - smooth over a tenth, and fit 240 points over the run: with 20 steps or more before the first law;
        - begin at a fifth, and fit anew at every twentieth.

        In a run of fewer than about 200 steps no law, or none that matters, comes in time: a law takes 20 points, and
        weights come `lag` = 16 steps after the losses that they follow from. Then the weights stay the prior.
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
