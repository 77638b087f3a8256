"""What one loader has running between its trainer and its mixer, from one position of the run on.

A session ends when its loader takes up another position or is deleted, or when the interpreter exits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixstream.distributed import Channel, job
from mixstream.feedback.collector import LossCollector
from mixstream.feedback.consensus import RankConsensus
from mixstream.feedback.log import MixingLog
from mixstream.feedback.loop import FeedbackLoop
from mixstream.plan.run_plan import RunPlan
from mixstream.types import Int64, Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class FeedbackSession:
    """The parts of the way from losses to weights, connected; `channel` is None in a run of one rank."""

    collector: LossCollector
    consensus: RankConsensus
    channel: Channel | None

    @classmethod
    def begin(
        cls,
        *,
        run_plan: RunPlan,
        listed_K: Int64,
        loop: FeedbackLoop | None,
        weights: Weights,
        step: int,
        facts: Callable[[], Mapping[str, Any]],
        publish: Callable[[int, Int64], None],
        log: Path | None,
        header: Mapping[str, Any],
        previous: FeedbackSession | None,
    ) -> FeedbackSession | None:
        """End the `previous` session and begin one at `step`; return None where nothing learns and nothing is logged.

        Args:
            run_plan: what is drawn, and by which ranks.
            listed_K: as in `LossCollector`.
            loop: as in `RankConsensus`, like `weights` and `publish`.
            weights: step -> the weights that it is drawn by.
            step: the next step to be drawn.
            facts: returns what all ranks must have in common; called at once if there are several.
            publish: called with (step, weights) as soon as they are known.
            log: directory of the mixing log, which rank 0 writes; None for none.
            header: of that log (`MixingLog.begin`).
            previous: whose channel is used again, since opening one is collective.
        """
        if previous is not None:
            previous.end()
        if loop is None and log is None:
            return None
        (rank, ranks), size, mixing_log, channel = job(run_plan.world), run_plan.world.size, None, None
        if log is not None and rank == 0:
            mixing_log = MixingLog(log, names=run_plan.plan.names)
            mixing_log.begin(step=step, **header)
        if ranks > 1:
            channel = previous.channel if previous is not None else None
            channel = channel if channel is not None and channel.size == size else Channel(size=size)
        consensus = RankConsensus(
            loop=loop,
            weights=weights,
            facts=facts() if ranks > 1 else None,
            publish=publish,
            channel=channel,
            log=mixing_log,
        )
        collector = LossCollector(
            consensus=consensus, channel=channel, loop=loop, rows=run_plan.batch_size, listed_K=listed_K
        )
        session = cls(collector=collector, consensus=consensus, channel=channel)
        weakref.finalize(session, collector.close_quietly)
        return session

    def end(self) -> None:
        """End the feedback thread, after what was reported, and close the log."""
        self.collector.close_quietly()
