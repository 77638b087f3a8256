"""The proof: every batch that the killed and the resumed run trained on, against a run that nothing interrupted.

The reference is a loader that only reads, from step 0, in one process. What is compared is the rows of each global
batch in their order; so it also shows that what a kill wastes (batches read ahead, steps since the checkpoint) is
neither lost nor seen twice by the model that goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixstream_examples import train as example  # pyright: ignore[reportMissingImports]  # pyright cannot follow it

from .demo_journal import Step, row_hashes
from .demo_settings import ROWS, Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What came out.

    Attributes:
        compared: global batches that were held against the reference.
        differing: (part, step) of those that are not equal to it.
        not_once: steps that the model that came out in the end was trained on twice, or not at all.
        again: steps that were trained on before the kill and, since no checkpoint knew of them, again after it.
    """

    compared: int
    differing: tuple[tuple[str, int], ...]
    not_once: tuple[int, ...]
    again: tuple[int, ...]

    @property
    def equal(self) -> bool:
        """Whether all batches are the reference's, and each step was trained on once."""
        return self.compared > 0 and not self.differing and not self.not_once


def example_file() -> Path:
    """The program that the demo trains with."""
    return Path(example.__file__)


def parameters() -> int:
    """How many parameters its model has."""
    return sum(value.numel() for value in example.Model().parameters())


def read_uninterrupted(settings: Settings) -> list[tuple[str, ...]]:
    """Read the whole run's global batches in this process, without training; returns the hashes of their rows."""
    loader = example.open_loader(settings.shards, rows=ROWS, seed=settings.seed, mixer=settings.mixer())
    found: list[tuple[str, ...]] = []
    with loader:
        while len(found) < settings.steps:
            for batch in loader:
                found.append(tuple(row_hashes(batch)))
                if len(found) == settings.steps:
                    break
    return found


def compare(reference: Sequence[tuple[str, ...]], before: Sequence[Step], after: Sequence[Step]) -> Proof:
    """Hold both parts of the run against the reference."""
    parts = {"before": before, "after": after}
    differing = tuple(
        (part, step.step) for part, steps in parts.items() for step in steps if step.rows != reference[step.step]
    )
    resumed_at = after[0].step if after else len(reference)
    trained = Counter([step.step for step in before if step.step < resumed_at] + [step.step for step in after])
    return Proof(
        compared=len(before) + len(after),
        differing=differing,
        not_once=tuple(step for step in range(len(reference)) if trained[step] != 1),
        again=tuple(step.step for step in before if step.step >= resumed_at),
    )
