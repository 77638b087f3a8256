"""The state that mosaicml-streaming 0.13 saves, and what we add to it.

It says where a run is, and not what it reads: neither streams nor weights, nor the batch size. We add four numbers that
do; that package ignores them, and a state of its own comes without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Self

from mixstream.arguments import MOST, shown
from mixstream.errors import StateError
from mixstream.plan.state_text import keys_of
from mixstream.records import dataclass

KEYS = ("epoch", "sample_in_epoch", "num_canonical_nodes", "shuffle_seed")
_MORE = "initial_physical_nodes"
_LEAST = {"epoch": -1, "sample_in_epoch": 0, "num_canonical_nodes": 1, "shuffle_seed": 0}


@dataclass(frozen=True, kw_only=True)
class MosaicState:
    """A state in the form of mosaicml-streaming.

    Attributes:
        epoch: the running epoch; -1 before the first.
        sample_in_epoch: samples of it that all ranks have read.
        num_canonical_nodes: of the run.
        shuffle_seed: of the run.
        initial_physical_nodes: nodes on which the run began; None in old states.
        facts: what the run reads, by key; empty in a state of that package.
    """

    epoch: int
    sample_in_epoch: int
    num_canonical_nodes: int
    shuffle_seed: int
    initial_physical_nodes: int | None
    facts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: Any) -> Self:
        """Return the state in `document`.

        >>> MosaicState.parse({"epoch": 1, "sample_in_epoch": 64, "num_canonical_nodes": 2, "shuffle_seed": 7}).epoch
        1

        Raises:
            StateError: it has another form.
        """
        if isinstance(document, Mapping) and "mixstream" in document:
            raise StateError(
                'this state was saved with order="mixstream", and order="mosaic" would go on with other samples than '
                'those that are left: go on with order="mixstream"'
            )
        if not isinstance(document, Mapping) or any(key not in document for key in KEYS):
            raise StateError(
                'The StreamingDataset state dict is none of mosaicml-streaming\'s, which order="mosaic" goes on from: '
                f"it needs the keys {', '.join((*KEYS, _MORE))}, and has {keys_of(document)}"
            )
        for key, least in _LEAST.items():
            _check(document, key, least)
        if document.get(_MORE) is not None:
            _check(document, _MORE, 1)
        for key in document:
            if isinstance(key, str) and key.startswith("mixstream_"):
                _check(document, key, 0)
        facts = {key: value for key, value in document.items() if isinstance(key, str) and key.startswith("mixstream_")}
        return cls(**{key: int(document[key]) for key in KEYS}, initial_physical_nodes=document.get(_MORE), facts=facts)

    @property
    def doubt(self) -> str | None:
        """What has to be said of a state at the beginning of an epoch that may have been read; None for any other."""
        if self.facts or self.sample_in_epoch or self.epoch < 0:
            return None
        return (
            f"the state lies at the beginning of epoch {self.epoch}. If it was saved at the end of that epoch, as "
            "Composer's epoch checkpoints are, the epoch is read again: set dataset.next_epoch = "
            f"{self.epoch + 1} after loading it"
        )

    def document(self) -> dict[str, Any]:
        """Return the state as that package saves it, with our facts behind."""
        own = {key: getattr(self, key) for key in (*KEYS, _MORE)}
        return {**own, **self.facts}


def _check(document: Mapping[str, Any], key: str, least: int) -> None:
    value = document[key]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise StateError(
            f"the state is damaged: {shown(key)[1:-1]} has to be a whole number of at least {least}, and is "
            f"{shown(value)}; load an older checkpoint"
        )
