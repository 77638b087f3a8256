"""What a user says of Megatron's order, beyond what streams and dataset say already."""

from __future__ import annotations

from typing import Any

from mixstream.arguments import choice, flag, text, whole
from mixstream.errors import ConfigError
from mixstream.plan.megatron import PARTS, split_sequences
from mixstream.records import dataclass

NAME = "megatron"


@dataclass(frozen=True, kw_only=True)
class MegatronOrder:
    """The sample order of Megatron-LM, for `StreamingDataset(order=...)`; "megatron" is the same as `MegatronOrder()`.

    What else decides the order has its place in the dataset: `epoch_size` is Megatron's number of samples (train_iters
    x global batch size), `shuffle_seed` its `--seed` (1234 by default there), a stream's `seq_len` its `--seq-length`,
    and `proportion` the weight before a prefix in `--data-path`.

    >>> MegatronOrder(split="969, 30, 1")
    MegatronOrder(split='969, 30, 1', part='train', micro_batch_size=None, extra_token=True)

    Args:
        split: `--split`, by which each file gives its sequences to train, valid and test; None for all of them, as
            with `--train-data-path`. A run with `--data-path` and no `--split` had "969, 30, 1".
        part: "train", "valid" or "test".
        micro_batch_size: rows of a micro-batch, where a step has several: each rank then reads the rows that it reads
            in Megatron. None for micro-batches of the dataset's `batch_size`. Steps have the same rows either way.
        extra_token: whether rows have `seq_len` + 1 tokens, so streams have `overlap=1`; False for a run with
            add_extra_token_to_sequence=False.

    Raises:
        ConfigError: an option is not valid.
    """

    split: str | None = None
    part: str = "train"
    micro_batch_size: int | None = None
    extra_token: bool = True

    def __post_init__(self) -> None:
        choice("part", self.part, PARTS)
        if self.split is not None:
            split_sequences(
                text("split", self.split), self.part, 1 << 40
            )  # a part of so many is never empty by rounding
        elif self.part != "train":
            raise ConfigError(f'part={self.part!r} is a part of a split: give it too, as split="969,30,1"')
        if self.micro_batch_size is not None:
            size = whole("micro_batch_size", self.micro_batch_size, least=1, of="rows")
            object.__setattr__(self, "micro_batch_size", size)
        object.__setattr__(self, "extra_token", flag("extra_token", self.extra_token))


def megatron_order(order: Any) -> MegatronOrder | None:
    """Return the options of Megatron's order if `order`, of a dataset, is it; None for another order."""
    if isinstance(order, type) and issubclass(order, MegatronOrder):
        raise ConfigError("order=MegatronOrder is a class: give an object of it, order=MegatronOrder(...)")
    if isinstance(order, MegatronOrder):
        return order
    return MegatronOrder() if isinstance(order, str) and order == NAME else None
