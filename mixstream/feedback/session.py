"""What one loader has running between its trainer and its mixer, from one position of the run to the next.

A session is there or it is not: it begins when a loader takes up a position, and ends when the loader takes up another,
is deleted, or the interpreter exits.
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
    """The parts of the way from losses to weights, connected.

    Attributes:
        collector: takes what the trainer reports.
        consensus: has the newest weights, and the loop.
        channel: of the ranks; None in a run of one rank.
    """

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
        """End the `previous` session of the loader and begin one at `step`; return None if it would have no effect.

        Args:
            run_plan: what is drawn, and by which ranks.
            listed_K: as in `LossCollector`.
            loop: the feedback loop at `step`; None if nothing learns.
            weights: as in `RankConsensus`.
            step: the next step to be drawn.
            facts: returns the facts of `RankConsensus`; called here if there are several ranks.
            publish: as in `RankConsensus`.
            log: directory of the mixing log; None for none. Rank 0 writes it.
            header: of that log, `MixingLog.begin`.
            previous: its channel is used again, since opening one is collective.
        """
        if previous is not None:
            previous.end()
        if loop is None and log is None:
            return None
        (rank, ranks), size, written, channel = job(run_plan.world), run_plan.world.size, None, None
        if log is not None and rank == 0:
            written = MixingLog(log, names=run_plan.plan.names)
            written.begin(step=step, **header)
        if ranks > 1:
            channel = previous.channel if previous is not None else None
            channel = channel if channel is not None and channel.size == size else Channel(size=size)
        consensus = RankConsensus(
            loop=loop,
            weights=weights,
            facts=facts() if ranks > 1 else None,
            publish=publish,
            channel=channel,
            log=written,
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
