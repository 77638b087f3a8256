"""torchtitan 0.3: `MixDataLoader.Config`, for `Trainer.Config.dataloader`. `torchtitan_trainer` adds losses by domain.

Rules. torchtitan's dp_rank and dp_world_size count data-parallel ranks, so ranks of one TP, CP or PP group build the
same loader and get the same rows. One step of the loader is one optimiser step, whatever micro-batches it is cut into.
The position is the loader's; a checkpoint has it as one value of bytes, the same on every rank, for any dp degree.

Shape suffixes: B rows, T tokens of an input.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import tyro  # pyright: ignore[reportMissingImports]
from torchtitan.components.dataloader import BaseDataLoader  # pyright: ignore[reportMissingImports]
from torchtitan.components.loss import IGNORE_INDEX  # pyright: ignore[reportMissingImports]

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.loader import MicroBatches

_KEY = "mixstream"
_REMEDY = "Set dataloader.global_batch_size to training.global_batch_size, so that one step is one of both"


class MixDataLoader(BaseDataLoader):
    """torchtitan's dataloader over a `mixstream.Loader`, which is its attribute `loader`."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """Which rows are read; rows have training.seq_len + 1 tokens. `dataset_path` is a directory of domains."""

        streams: Annotated[Any, tyro.conf.Suppress] = None
        """The domains, a list of `mixstream.Stream`, instead of `dataset_path`."""
        split: str = "train"
        """The split below `dataset_path`."""
        mixer: Annotated[Any, tyro.conf.Suppress] = None
        """As of `mixstream.StreamingDataset`; one that learns needs `mixed`, which reports losses."""
        options: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=lambda: {"shuffle": True})
        """Further arguments of `mixstream.StreamingDataset`."""
        global_batch_size: int = -1
        """Rows of an optimiser step: training.global_batch_size, if that is set. `mixed` copies it."""
        column: str = "tokens"
        """The column of the tokens."""
        eos_id: int | None = None
        """The token that ends a document; the tokenizer's if not given, and none below 0."""
        bos_id: int | None = None
        """The token that begins a document, for rows without ends of documents."""
        documents: bool = False
        """As of `mixstream.Loader`: documents by what is stored of them; `eos_id` is that of the streams then."""
        infinite: bool = True
        """Go on from epoch to epoch; otherwise the data ends with the first."""
        prefetch: int = 4
        """As of `mixstream.Loader`."""
        log: str | None = None
        """As of `mixstream.Loader`: directory for weights and losses by step."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        tokenizer: Any,
        seq_len: int,
        local_batch_size: int,
        snapshot_every_n_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        del snapshot_every_n_steps, kwargs
        self.config, self.seq_len, self.with_domains = config, seq_len, False
        ends = getattr(tokenizer, "eos_id", None) if config.eos_id is None else config.eos_id
        self.eos_id, self.bos_id = (-1 if token is None else token for token in (ends, config.bos_id))
        micro = local_batch_size * dp_world_size
        rows = config.global_batch_size if config.global_batch_size > 0 else micro
        if rows % micro:
            raise ConfigError(
                f"dataloader.global_batch_size={rows} rows are no whole number of micro-batches: {dp_world_size} "
                f"data-parallel ranks take {local_batch_size} each, so give a multiple of {micro}"
            )
        if taken := {"streams", "batch_size", "mixer", "rank", "world_size"} & config.options.keys():
            raise ConfigError(f"dataloader.options has {sorted(taken)}, which follow from other fields; leave them out")
        if config.dataset or bool(config.streams) == bool(config.dataset_path):
            found = {name: getattr(config, name) for name in ("dataset", "dataset_path", "streams")}
            raise ConfigError(f"{found}: give dataset_path, a directory of domains, or streams, and nothing else")
        streams = config.streams or ms.streams(config.dataset_path, split=config.split)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        nodes = math.gcd(max(ranks // int(os.environ.get("LOCAL_WORLD_SIZE", ranks)), 1), dp_world_size)
        given = {"batch_size": rows // dp_world_size, "rank": dp_rank, "world_size": dp_world_size, "nodes": nodes}
        dataset = ms.StreamingDataset(**{"streams": streams, "mixer": config.mixer, **given, **config.options})
        self.loader = ms.Loader(dataset, prefetch=config.prefetch, log=config.log, documents=config.documents)
        epochs = None if config.infinite else 1
        self._parts = MicroBatches(self.loader, parts=rows // micro, remedy=_REMEDY, epochs=epochs)

    @property
    def batch(self) -> ms.Batch:
        """The step whose micro-batches are read, for `Loader.report`."""
        return self._parts.batch

    def __iter__(self) -> Iterator[Any]:
        """Go on from the loader's position."""
        return self

    def __next__(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the next micro-batch: {"input", "positions"}, int64 [B, T], and its labels, int64 [B, T].

        Documents are those that are known of the streams, where `documents` says so, or lie between `eos_id`s.
        """
        part = next(self._parts)
        self._parts.finish(part)
        tokens = part[self.config.column]
        if tokens.ndim != 2 or tokens.shape[1] != self.seq_len + 1:
            raise ConfigError(
                f"rows have the shape {tuple(tokens.shape[1:])}, and training.seq_len={self.seq_len} needs rows of "
                f"{self.seq_len + 1} tokens, since each predicts the next: convert with --seq-len {self.seq_len + 1}, "
                f"or set training.seq_len={tokens.shape[-1] - 1}"
            )
        domains = {"domain_ids": part["domain"]} if self.with_domains else {}
        if self.config.documents:  # a label of -100 behind the last token of a document
            rows = [part[name][:, :-1].contiguous() for name in (self.config.column, "position_ids")]
            labels = part["labels"][:, 1:].clone()
            return {"input": rows[0], "positions": rows[1], **domains}, labels
        inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].clone()
        begins = (inputs == self.eos_id) | (labels == self.bos_id)  # the next token begins a document
        labels[begins] = IGNORE_INDEX
        if "loss_mask" in part:  # of chats, as convert writes it
            labels[part["loss_mask"][:, 1:] == 0] = IGNORE_INDEX
        at = torch.arange(self.seq_len).expand_as(inputs)
        first = torch.where(begins[:, :-1], at[:, 1:], 0).cummax(dim=1).values
        positions = at - torch.nn.functional.pad(first, (1, 0))
        return {"input": inputs, "positions": positions, **domains}, labels

    def state_dict(self) -> dict[str, Any]:
        """Return the position, as one value of bytes."""
        state = self._parts.state_dict()
        packed = state.get("state")  # torch.distributed.checkpoint, which torchtitan saves with, gets bytes already
        return {_KEY: packed if isinstance(packed, bytes) else json.dumps(state).encode()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state of any dp degree."""
        if _KEY not in state_dict:
            raise StateError(
                f"the checkpoint has no position of mixstream, but {sorted(state_dict)}: leave the data out with "
                'checkpoint.exclude_from_loading=["dataloader"], which begins it anew'
            )
        saved = state_dict[_KEY]
        self._parts.load_state_dict({"state": saved.encode() if isinstance(saved, str) else saved})

    def close(self) -> None:
        """End the loader's threads."""
        self.loader.close()
