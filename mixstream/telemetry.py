"""Counters and stage timings, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What a loader has done so far; times in seconds of wall clock.

    Attributes:
        batches: batches handed to the trainer.
        rows: rows in them (this rank's).
        waited: time that the trainer waited for a batch.
        gathering: time spent making batches, in the background.
    """

    batches: int = 0
    rows: int = 0
    waited: float = 0.0
    gathering: float = 0.0
