"""Datamodels (DsDm, TRAK): which rows lower the loss on target tasks, from the gradients of small proxy models.

Every function works on arrays or models in memory; files are the business of `mixstream_tools.attribute`. In the order
of the flow:

    outputs     a row's logits -> the output that a datamodel predicts
    gradients   a model and rows -> per-sample gradients
    projection  gradients -> features, by a random matrix that is regenerated block by block
    features    the three above for one proxy model: rows of tokens -> features
    estimator   features of rows and of targets -> scores
    subsets     scores and models trained on subsets -> how well the scores predict
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.selection.datamodels.estimator import (
        Damping,
        Gram,
        Solution,
        aggregate,
        attribute,
        combine,
        resolve_damping,
        solve,
        unit_norm,
    )
    from mixstream.selection.datamodels.features import Features, Proxy
    from mixstream.selection.datamodels.gradients import causal_call, chosen_parameters, per_sample_gradients
    from mixstream.selection.datamodels.outputs import Output, row_output, token_log_odds
    from mixstream.selection.datamodels.projection import Kind, Projection, Projector, member_key
    from mixstream.selection.datamodels.subsets import lds, random_subsets, spearman

__getattr__, __dir__ = lazily(
    __name__,
    {
        "estimator": [
            *("Damping", "Gram", "Solution", "aggregate", "attribute", "combine", "resolve_damping", "solve"),
            "unit_norm",
        ],
        "features": ["Features", "Proxy"],
        "gradients": ["causal_call", "chosen_parameters", "per_sample_gradients"],
        "outputs": ["Output", "row_output", "token_log_odds"],
        "projection": ["Kind", "Projection", "Projector", "member_key"],
        "subsets": ["lds", "random_subsets", "spearman"],
    },
)

__all__ = [
    "Damping",
    "Features",
    "Gram",
    "Kind",
    "Output",
    "Projection",
    "Projector",
    "Proxy",
    "Solution",
    "aggregate",
    "attribute",
    "causal_call",
    "chosen_parameters",
    "combine",
    "lds",
    "member_key",
    "per_sample_gradients",
    "random_subsets",
    "resolve_damping",
    "row_output",
    "solve",
    "spearman",
    "token_log_odds",
    "unit_norm",
]
