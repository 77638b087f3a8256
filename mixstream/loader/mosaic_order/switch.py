"""Between our order of samples and that of mosaicml-streaming: what `order="mosaic"` refuses, and the switch to ours.

That order is imported only where it is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mixstream.errors import ConfigError, StateError
from mixstream.records import dataclass

if TYPE_CHECKING:
    from mixstream.loader.mosaic_order.order import MosaicOrder
    from mixstream.plan.mosaic.weights import StreamShares


def is_mosaic_state(state: Any) -> bool:
    """Return whether `state` has the form of the states of mosaicml-streaming; ours have their keys, and a version."""
    return isinstance(state, Mapping) and {"epoch", "sample_in_epoch"} <= set(state) and "mixstream" not in state


@dataclass(frozen=True, slots=True)
class GivenWeights:
    """The weights of the streams as they were given, before they were resolved.

    Attributes:
        proportion: of each stream.
        repeat: of each stream.
        choose: of each stream.
        epoch_size: samples of an epoch, if given.
    """

    proportion: list[float | None]
    repeat: list[float | None]
    choose: list[int | None]
    epoch_size: int | None

    @classmethod
    def of(cls, streams: Sequence[Any], epoch_size: int | None) -> GivenWeights:
        """Return the weights of `streams`."""
        names = ("proportion", "repeat", "choose")
        return cls(**{name: [stream.given(name) for stream in streams] for name in names}, epoch_size=epoch_size)

    def shares(self, dataset: Any) -> StreamShares:
        """Return what an epoch takes from each stream in the order of mosaicml-streaming.

        Raises:
            ConfigError: relative and absolute weights are mixed.
        """
        from mixstream.plan.mosaic.weights import shares

        return shares(
            samples=[domain.samples for domain in dataset.domains.listed],
            proportion=self.proportion,
            repeat=self.repeat,
            choose=self.choose,
            epoch_size=self.epoch_size,
            seed=dataset.shuffle_seed,
        )

    def show(self, dataset: Any) -> StreamShares:
        """Show on the streams of `dataset` what an epoch takes from each in that order, and return it."""
        found = self.shares(dataset)
        sizes = [domain.samples for domain in dataset.domains.listed]
        for k, (stream, size) in enumerate(zip(dataset.streams, sizes)):
            choose, proportion = int(found.choose_K[k]), float(found.proportion_K[k])
            stream.show(choose=choose, proportion=proportion, repeat=choose / size if size else 0.0)
        return found


def make_order(dataset: Any, shares: StreamShares) -> MosaicOrder:
    """Return what iterates a dataset with `order="mosaic"`."""
    from mixstream.loader.mosaic_order.order import MosaicOrder

    return MosaicOrder(dataset, shares)


def check_fits(dataset: Any) -> None:
    """Check that a dataset with `order="mosaic"` has no option that needs our order.

    Raises:
        ConfigError: it has.
    """
    ours = 'and order="mosaic" gives the samples of mosaicml-streaming in its order'
    if dataset.mixer is not None:
        raise ConfigError(
            f"mixer={type(dataset.mixer).__name__} makes the weights of each step, {ours}, whose weights are fixed: "
            "give the streams `proportion`, or leave out order="
        )
    if dataset.on_bad_sample == "quarantine":
        raise ConfigError(
            f'on_bad_sample="quarantine" puts other samples in the place of bad ones, {ours}, whose states cannot list '
            'them: use on_bad_sample="raise" or "refetch", or leave out order='
        )
    for stream in dataset.streams:
        if stream.packing is not None:
            raise ConfigError(
                f"stream {stream.name!r} has packing={stream.packing!r}, {ours}, whose samples are the stored ones: "
                "leave out packing or order="
            )
        if stream.max_epochs is not None:
            raise ConfigError(
                f"stream {stream.name!r} has max_epochs={stream.max_epochs:g}, {ours}, in which no stream leaves the "
                "mix: leave out max_epochs or order="
            )
        if stream.choose is not None and stream.choose != int(stream.choose):
            raise ConfigError(
                f"stream {stream.name!r} is a part of a stream with `choose` or `repeat`, {ours}, which takes whole "
                "samples: give it `proportion`, or leave out order="
            )


def epoch_after(dataset: Any, document: Mapping[str, Any]) -> int:
    """Return the epoch that a dataset in our order begins, after a state of the other order at an epoch's end.

    Whether the epoch is over follows from the dataset's own options, which have to be those of the run that saved it.

    Raises:
        StateError: the state lies within an epoch.
    """
    from mixstream.loader.mosaic_order.setup import unread
    from mixstream.plan.mosaic.state import MosaicState

    state = MosaicState.parse(document)
    if state.epoch < 0 or not state.sample_in_epoch:
        if state.doubt is not None:
            warnings.warn(state.doubt, stacklevel=4)
        return max(state.epoch, 0)
    try:
        left = unread(dataset, dataset.given_weights.shares(dataset), state)
    except StateError as error:
        raise StateError(
            f"this is a state of mosaicml-streaming, and {error}. To begin the data anew under Composer, give "
            "Trainer(load_ignore_keys=['state/dataset_state'])"
        ) from None
    if left:
        raise StateError(
            f"this is a state of mosaicml-streaming within epoch {state.epoch}: {left:,} samples of it are left, and "
            'which ones, only its own order knows. Go on with order="mosaic" to the end of the epoch, and load a state '
            'that was saved there with order="mixstream"'
        )
    return state.epoch + 1
