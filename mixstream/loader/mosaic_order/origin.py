"""Where the epochs of a dataset with `order="mosaic"` begin: at epoch 0, where a loader put it, or in a state."""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch.utils.data import get_worker_info

from mixstream.errors import StateError
from mixstream.plan.mosaic.run_plan import MosaicRunPlan
from mixstream.plan.mosaic.state import MosaicState


class Origin:
    """Where the first `iter()` begins.

    A state is checked when its place is asked for, since only then the ranks are known that go on from it.

    Args:
        epoch: the epoch that it begins.
        read: samples of it, over all ranks, that were read before.
        state: that has this place in their stead.
        strict: whether the state has to be of the same streams and settings.
    """

    def __init__(self, epoch: int = 0, read: int = 0, *, state: MosaicState | None = None, strict: bool = True) -> None:
        self._found = (epoch, read) if state is None else None
        self._state, self._strict = state, strict

    @property
    def epoch(self) -> int:
        """The epoch; it is known before a state is checked."""
        if self._found is not None:
            return self._found[0]
        assert self._state is not None
        return max(self._state.epoch, 0)

    def find(self, run_plan: MosaicRunPlan) -> tuple[int, int]:
        """Return the epoch, and the samples of it that were read.

        Raises:
            StateError: the state is of other streams or settings than `run_plan`.
        """
        if self._found is None:
            assert self._state is not None
            try:
                *found, news = run_plan.at(self._state)
            except StateError as error:
                if self._strict:
                    raise
                *found, news = run_plan.at(replace(self._state, facts={}))
                news = [f"{error}\nIt is loaded all the same (strict=False)", *news]
            if (info := get_worker_info()) is None or not info.id:
                for text in news:
                    warnings.warn(text, stacklevel=2)
            self._found = found[0], found[1]
        return self._found
