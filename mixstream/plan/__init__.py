"""The plan: from weights to the addresses of a batch's rows. Integers only.

Nothing in this package opens a file, starts a thread or imports torch. Functions are pure and records are frozen, apart
from `Walk`, which moves, and `Forecast`, which caches. A step's rows depend on the domains, the seed, the global batch
size, the lanes and the weights up to that step, and on nothing else. In the order of the flow:

    rng         a name -> the key of one use of randomness
    weights     float weights -> whole rows, without losing one
    compiled    which runs, a loop that numba compiles or its numpy reference
    kernels     these loops, each beside its reference
    plan        step -> the rows of the global batch, as (domain, draw)
    shuffle     draw -> (epoch, shard, sample): the order in which a lane reads a domain
    addressing  (domain, draw) -> (shard, stored row)
    selection   the kept rows of each shard, as a view
    run_plan    all of these for one run: what every rank must agree on
    walk        a cursor that moves along a plan, step by step
    skips       steps that are left out of a run
    forecast    which shards a run needs next, and in how many steps
    state       a cursor as a JSON document, and back
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.plan.plan import Plan
    from mixstream.plan.selection import KeptRows
    from mixstream.plan.state import RunState, parse_state
    from mixstream.plan.state_text import decoded
    from mixstream.plan.weights import WEIGHT_UNIT, apportion, normalise, quantise

__getattr__, __dir__ = lazily(
    __name__,
    {
        "plan": ["Plan"],
        "selection": ["KeptRows"],
        "state": ["RunState", "parse_state"],
        "state_text": ["decoded"],
        "weights": ["WEIGHT_UNIT", "apportion", "normalise", "quantise"],
    },
)

__all__ = [
    "WEIGHT_UNIT",
    "KeptRows",
    "Plan",
    "RunState",
    "apportion",
    "decoded",
    "normalise",
    "parse_state",
    "quantise",
]
