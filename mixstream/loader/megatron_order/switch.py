"""What `order="megatron"` refuses: options that Megatron's order does not have, and that would change what is read."""

from __future__ import annotations

import warnings
from typing import Any

from mixstream.errors import ConfigError
from mixstream.loader.megatron_order.options import MegatronOrder

_SEED, _DEFAULT_SEED = 1234, 9176
_WAYS = {  # option of the dataset -> its value without effect
    "shuffle_algo": "py1e",
    "shuffle_block_size": None,
    "sampling_method": "balanced",
    "sampling_granularity": 1,
    "batching_method": "random",
}
_OF_STREAM = ("selection", "split_by", "packing", "max_epochs", "choose", "repeat")
_THERE = 'and order="megatron" reads the samples of Megatron-LM in its order'


def check_fits(dataset: Any, order: MegatronOrder, *, epoch_size: int | None) -> None:
    """Check that a dataset with `order="megatron"` has the options that it needs, and none that needs our order.

    It has one lane then.

    Raises:
        ConfigError: it has, or lacks one.
    """
    if dataset.mixer is not None:
        raise ConfigError(
            f"mixer={type(dataset.mixer).__name__} makes the weights of each step, {_THERE}, whose blend is fixed: "
            "give the streams `proportion`, or leave out order="
        )
    for name, plain in _WAYS.items():
        if (value := getattr(dataset, name)) != plain:
            raise ConfigError(
                f"{name}={value!r} is of our own order, {_THERE}, which shuffles by shuffle_seed alone: "
                f"leave out {name}"
            )
    if dataset.num_canonical_nodes not in (None, 1):
        raise ConfigError(
            f"num_canonical_nodes={dataset.num_canonical_nodes} deals the shards out to the nodes, {_THERE}, in which "
            "each rank reads all over the files: leave it out"
        )
    if dataset.shuffle_seed > 0xFFFFFFFF:
        raise ConfigError(f"shuffle_seed={dataset.shuffle_seed}: Megatron's generator takes no more than 32 bits")
    if dataset.shuffle_seed == _DEFAULT_SEED:
        warnings.warn(
            f"shuffle_seed={_DEFAULT_SEED} is the default of mixstream, and that of Megatron's --seed is {_SEED}: for "
            "the order of a run there, pass shuffle_seed= of that run",
            stacklevel=4,
        )
    dataset.num_canonical_nodes = 1
    for stream in dataset.streams:
        _check_stream(stream, order)
    weighted = [stream.proportion is not None for stream in dataset.streams]
    if any(weighted) and epoch_size is None:
        raise ConfigError(
            "streams have a `proportion`, and how many samples a blend takes is not given: pass epoch_size=, "
            "Megatron's train_iters x global batch size"
        )


def _check_stream(stream: Any, order: MegatronOrder) -> None:
    for name in _OF_STREAM:
        if (value := getattr(stream, name, None)) is not None:
            remedy = "give `proportion`" if name in ("choose", "repeat") else f"leave out {name} or order="
            raise ConfigError(f"stream {stream.name!r} has {name}={value!r}, {_THERE}, over whole files: {remedy}")
    if stream.seq_len is None:
        raise ConfigError(
            f"stream {stream.name!r} has no seq_len, {_THERE}, as rows of --seq-length tokens (and one more) of "
            "pairs of .bin and .idx: give the path of an .idx, seq_len=... and overlap=1"
        )
    if (stream.overlap or 0) != order.extra_token:
        said = f"Stream(seq_len={stream.seq_len}, overlap={stream.overlap or 0})"
        other = (
            "its rows have one token more, the label of the last: give overlap=1, or MegatronOrder(extra_token=False) "
            "for a run with add_extra_token_to_sequence=False"
            if order.extra_token
            else "MegatronOrder(extra_token=False) has no further token: give overlap=0, or leave out extra_token"
        )
        raise ConfigError(f"stream {stream.name!r} is {said}, {_THERE}; {other}")
