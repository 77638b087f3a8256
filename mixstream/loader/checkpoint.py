"""Where a run goes on: the start, or a checkpoint that was parsed once.

A `Position` is handed to whatever iterates. It does not move: loaders take their own copy of the feedback loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixstream.feedback.loop import FeedbackLoop
from mixstream.loader.run import Run
from mixstream.plan.state import RunState, parse_state
from mixstream.types import Cursor


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state that was loaded, in form.

    Args:
        state: what it says.
        strict: whether it has to be one of this very run.
    """

    state: RunState
    strict: bool

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, strict: bool) -> Checkpoint:
        """Return the checkpoint that `document` is.

        Raises:
            StateError: it is not a state, or is damaged.
        """
        return cls(state=parse_state(document), strict=strict)


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in a run.

    Args:
        run: the run.
        cursor: the place in its plan.
        loop: the feedback loop there; None where nothing learns.
    """

    run: Run
    cursor: Cursor
    loop: FeedbackLoop | None

    @classmethod
    def of(cls, run: Run, checkpoint: Checkpoint | None) -> Position:
        """Return the position of `checkpoint` in `run`; of step 0 if there is none.

        Raises:
            StateError: the checkpoint is not one of this run.
        """
        if checkpoint is None:
            return cls(run=run, cursor=run.start(), loop=run.loop())
        cursor, loop = run.restore(checkpoint.state, strict=checkpoint.strict)
        return cls(run=run, cursor=cursor, loop=loop)

    def begin_loop(self) -> FeedbackLoop | None:
        """Return a feedback loop of the caller's own that begins here."""
        return None if self.loop is None else self.loop.copy()
