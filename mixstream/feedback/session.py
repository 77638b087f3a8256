"""What one loader has running between its trainer and its mixer, from one position of the run on.

A session ends when its loader takes up another position or is deleted, or when the interpreter exits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mixstream.distributed import job
from mixstream.lazy import later
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.skips import Skips
from mixstream.records import dataclass
from mixstream.types import Int64, Weights

if TYPE_CHECKING:
    from mixstream.distributed.exchange import Channel
    from mixstream.feedback.collector import LossCollector
    from mixstream.feedback.consensus import RankConsensus
    from mixstream.feedback.log import MixingLog
    from mixstream.feedback.loop import FeedbackLoop
else:
    (Channel,) = later("mixstream.distributed.exchange", "Channel")
    (LossCollector,) = later("mixstream.feedback.collector", "LossCollector")
    (RankConsensus,) = later("mixstream.feedback.consensus", "RankConsensus")
    (MixingLog,) = later("mixstream.feedback.log", "MixingLog")
    (FeedbackLoop,) = later("mixstream.feedback.loop", "FeedbackLoop")


@dataclass(frozen=True, eq=False)
class FeedbackSession:
    """The way from a trainer's reports (`collector`) to weights (`consensus`), connected."""

    collector: LossCollector
    consensus: RankConsensus

    @classmethod
    def begin(
        cls,
        run_plan: RunPlan,
        *,
        listed_K: Int64,
        loop: FeedbackLoop | None,
        weights: Weights,
        facts: Callable[[], Mapping[str, Any]],
        publish: Callable[[int, Int64], None],
        log: Path | None,
        header: Mapping[str, Any],
        previous: Self | None,
        skips: Skips,
        durable: bool = False,
    ) -> Self | None:
        """End the `previous` session and begin one; return None if nothing learns and nothing is logged.

        `facts` is called at once, and only if there are several ranks. Rank 0 writes the `log`, a directory, with
        `header` for `MixingLog.begin`; `durable` is that of `MixingLog`. The other arguments are those of
        `RankConsensus` and `LossCollector`.
        """
        if previous is not None:
            previous.end()
        if loop is None and log is None:
            return None
        rank, ranks = job(run_plan.world)
        channel, mixing_log = Channel(world=run_plan.world, ranks=ranks), None
        if previous is not None and previous.consensus.channel == channel:
            channel = previous.consensus.channel  # it may be open, which is collective
        if log is not None and rank == 0:
            mixing_log = MixingLog(log, names=run_plan.plan.names, durable=durable)
            mixing_log.begin(**header)
        consensus = RankConsensus(
            loop=loop,
            weights=weights,
            facts=facts() if ranks > 1 else None,
            publish=publish,
            channel=channel,
            log=mixing_log,
            skips=skips,
        )
        session = cls(LossCollector(consensus, rows=run_plan.batch_size, listed_K=listed_K), consensus)
        weakref.finalize(session, session.collector.close_quietly)
        return session

    def end(self) -> None:
        """End the feedback thread, after what was reported, and close the log."""
        self.collector.close_quietly()
