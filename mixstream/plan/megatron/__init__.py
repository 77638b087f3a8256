"""The published sample order of Megatron-LM, index for index: pure functions on arrays.

It is here for programs that go on from a run of Megatron, or are compared with one (`StreamingDataset(order=
"megatron")`). A dataset's order is computed as a whole: memory and time are O(samples), as there. Nothing else of
`plan` imports this package. In the order of the flow:

    splits        which sequences of a file count
    sample_index  sequences -> samples of seq_len + 1 tokens, in the order in which they are read
    blend         the samples of several datasets, by weights
    run_plan      step -> the rows of the global batch, as (domain, draw), in the order of the ranks
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.plan.megatron.blend import Blend, samples_needed
    from mixstream.plan.megatron.run_plan import MegatronPlan, MegatronRunPlan
    from mixstream.plan.megatron.sample_index import SampleIndex, build_sample_index
    from mixstream.plan.megatron.splits import PARTS, split_sequences

__getattr__, __dir__ = lazily(
    __name__,
    {
        "blend": ["Blend", "samples_needed"],
        "run_plan": ["MegatronPlan", "MegatronRunPlan"],
        "sample_index": ["SampleIndex", "build_sample_index"],
        "splits": ["PARTS", "split_sequences"],
    },
)


__all__ = [
    "PARTS",
    "Blend",
    "MegatronPlan",
    "MegatronRunPlan",
    "SampleIndex",
    "build_sample_index",
    "samples_needed",
    "split_sequences",
]
