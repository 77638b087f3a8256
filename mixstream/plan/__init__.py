"""Integers: weights become rows, rows become addresses. No torch, no threads, no files.

Importing the package imports none of its modules, so that reading weights and states does not import numba.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.plan.state import RunState, parse_state
    from mixstream.plan.weights import WEIGHT_UNIT, apportion, normalise, quantise

__getattr__, __dir__ = lazily(
    __name__,
    {"state": ["RunState", "parse_state"], "weights": ["WEIGHT_UNIT", "apportion", "normalise", "quantise"]},
)

__all__ = ["WEIGHT_UNIT", "RunState", "apportion", "normalise", "parse_state", "quantise"]
