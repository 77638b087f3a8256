"""The proof: every batch that the killed and the resumed run trained on, against runs that nothing interrupted.

The mixture depends on losses, and which losses a batch depends on is decided by the step alone (`feedback.loop`).
So there is a reference for each history that the model had. Each is a loader in one process that reads from step 0,
trains nothing, and has ADO work out all weights anew from the losses that were reported in that history:

    before    what the process that was killed reported, to the kill
    after     what the model that came out had reported: up to the checkpoint, and from there to the end

They share nothing with the run but its shards, settings and losses: no checkpoint, no weights. What is compared is the
rows of each global batch in their order, and for `after` the weights of each step, to the last bit. So it also shows
that what a kill wastes (batches read ahead, steps since the checkpoint, what ADO learned from them) is neither lost nor
seen twice. A third reference, `replayed`, is told no losses and draws by the run's mixing log (`ms.replay`).

Shape suffixes: T steps, K domains.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

import mixstream as ms
from mixstream.feedback.replay import read_log
from mixstream.types import Int64
from mixstream_examples import train as example  # pyright: ignore[reportMissingImports]  # pyright cannot follow it

from .journal import Journal, Step, row_hashes
from .settings import ROWS, Settings

Rows = Sequence[str]
"""The hashes of a global batch's rows, in order."""
_FILE = "rows.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What came out.

    Attributes:
        compared: global batches that were held against a reference that learns.
        differing: (part, step) of those that are not equal to it, or for `replayed` not to the log's.
        weights_differing: steps whose weights are not those that ADO comes to in the reference.
        not_once: steps that the model that came out in the end was trained on twice, or not at all.
        again: steps that were trained on before the kill and, since no checkpoint knew of them, again after it.
    """

    compared: int
    differing: tuple[tuple[str, int], ...]
    weights_differing: tuple[int, ...]
    not_once: tuple[int, ...]
    again: tuple[int, ...]

    @property
    def equal(self) -> bool:
        """Whether all batches and weights are the references', and each step was trained on once."""
        return self.compared > 0 and not (self.differing or self.weights_differing or self.not_once)


def example_file() -> Path:
    """The program that the demo trains with."""
    return Path(example.__file__)


def parameters() -> int:
    """How many parameters its model has."""
    return sum(value.numel() for value in example.Model().parameters())


def history(before: Sequence[Step], after: Sequence[Step]) -> list[Step]:
    """Return the steps that the model that came out was trained on, in order."""
    resumed_at = after[0].step if after else len(before)
    return [*(step for step in before if step.step < resumed_at), *after]


def write_references(settings: Settings) -> None:
    """Read the run without interruption, once for each reference, and write the hashes of the rows."""
    before, after = (_finished(settings, part) for part in ("before", "after"))
    found = {
        "before": read_uninterrupted(settings, before, steps=settings.kill_after),
        "after": read_uninterrupted(settings, history(before, after), steps=settings.steps, log=settings.reference),
        "replayed": read_uninterrupted(settings, (), steps=settings.steps, mixer=ms.replay(settings.run)),
    }
    (settings.reference / _FILE).write_text(json.dumps(found), encoding="utf-8")


def read_references(settings: Settings) -> dict[str, list[Rows]]:
    """Return what `write_references` wrote."""
    return json.loads((settings.reference / _FILE).read_text(encoding="utf-8"))


def read_weights(settings: Settings) -> tuple[Int64, Int64]:
    """Return the weights that the run was drawn by and those of the reference `after`, int64 [T, K], from the logs."""
    return read_log(settings.run).weights_TK, read_log(settings.reference).weights_TK


def read_uninterrupted(
    settings: Settings, told: Sequence[Step], *, steps: int, mixer: Any = None, log: Path | None = None
) -> list[Rows]:
    """Read the first `steps` global batches in this process, without training; returns the hashes of their rows.

    Args:
        settings: of the run.
        told: whose losses the mixer gets, each step its own.
        steps: how many to read.
        mixer: the run's if not given.
        log: where to write the mixing log.
    """
    losses = {step.step: step for step in told}
    mixer = settings.mixer() if mixer is None else mixer
    found: list[Rows] = []
    with example.open_loader(settings.shards, rows=ROWS, seed=settings.seed, mixer=mixer, log=log) as loader:
        while len(found) < steps:
            for batch in loader:
                found.append(row_hashes(batch))
                if (step := losses.get(batch.step)) is None:
                    loader.report(batch, None)
                else:
                    loader.report_sums(batch.step, np.array(step.loss_sum_K), np.array(step.count_K))
                if len(found) == steps:
                    break
    return found


def compare(
    references: Mapping[str, Sequence[Rows]],
    before: Sequence[Step],
    after: Sequence[Step],
    *,
    weights: tuple[Int64, Int64],
) -> Proof:
    """Hold both parts of the run against the references.

    Args:
        references: rows of each batch from step 0 on, by the names above.
        before: steps of the run that was killed.
        after: steps of the run that went on.
        weights: of the run and of the reference `after`, int64 [T, K] each.
    """
    steps = len(references["after"])
    parts = {"before": before, "after": after, "replayed": history(before, after)}
    differing = tuple(
        (part, step.step)
        for part, own in parts.items()
        for step in own
        if list(step.rows) != list(references[part][step.step])
    )
    resumed_at = after[0].step if after else steps
    trained = Counter(step.step for step in history(before, after))
    return Proof(
        compared=len(before) + len(after),
        differing=differing,
        weights_differing=tuple(
            step
            for step, (ours_K, theirs_K) in enumerate(zip_longest(*weights))
            if ours_K is None or theirs_K is None or not np.array_equal(ours_K, theirs_K)
        ),
        not_once=tuple(step for step in range(steps) if trained[step] != 1),
        again=tuple(step.step for step in before if step.step >= resumed_at),
    )


def _finished(settings: Settings, part: str) -> list[Step]:
    journal = Journal(files=settings.journals(part))
    return list(journal.poll())
