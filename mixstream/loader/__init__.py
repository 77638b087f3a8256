"""What a user iterates over, and the threads, processes and devices behind it.

What lives here: the public classes, and what they share. What must not: arithmetic of the plan, reading of shards,
anything that a mixer computes. In the order of the flow:

    stream          the user's description of a domain             opening: streams become domains    packed_streams
    run             what is drawn, from which domains, by which mixer        run_setup: from a dataset's options
    checkpoint      where a run goes on: the start, or a state that was loaded
    order           which epochs have begun, and how far: own_order; of others, mosaic_order/, megatron_order/
    resumable       what trainers call to iterate, save and load, in front of the order    iteration, workers, callers
    dataset         `StreamingDataset`            mosaic_api/: what programs of mosaicml-streaming read and call
    place           how far a loader has come in a run              reports: losses and evaluations
    loader          `Loader`: threads in the trainer's process      batch_maker, prefetch, device, describe
    dataloader      `StreamingDataLoader`: torch's worker processes
    document_setup  what knows where documents begin                document_collate: where samples are collated
    validation      a fixed set of rows per domain
    document_setup  what knows the borders in each domain, for `documents=True`    document_collate
    skipping        steps that are left out, and how ranks find one that leaves out others
    micro_batches   a loader's steps as trainers take them        trainer_ranks
    past_run        rows of a run that are computed again         past_plan: from its log or state

Adapters to trainers and tools use the names below; those of users are in `mixstream`. Importing the package imports no
module.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.loader.micro_batches import MicroBatches, steps
    from mixstream.loader.past_plan import recompute
    from mixstream.loader.past_run import PastRun, StepRows, open_domains
    from mixstream.loader.trainer_ranks import check_ranks

__getattr__, __dir__ = lazily(
    __name__,
    {
        "micro_batches": ["MicroBatches", "steps"],
        "past_plan": ["recompute"],
        "past_run": ["PastRun", "StepRows", "open_domains"],
        "trainer_ranks": ["check_ranks"],
    },
)

__all__ = ["MicroBatches", "PastRun", "StepRows", "check_ranks", "open_domains", "recompute", "steps"]
