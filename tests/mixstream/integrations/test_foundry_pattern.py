"""Datasets as LLM Foundry writes them: subclasses that pass every argument by name, with samples of their own."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import FIRST, SIZES, WIDTH, joined, make_dataset, row_ids  # pyright: ignore[reportMissingImports]
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream import Stream, StreamingDataset

YAML = {
    "streams": {name: {"split": None, "proportion": 1.0} for name in ("web", "code")},
    "shuffle": True,
    "shuffle_seed": 5,
    "epoch_size": 32,
    "sampling_method": "balanced",
    "sampling_granularity": 1,
    "batching_method": "random",
    "replication": 1,
    "stream_name": "stream",
    "max_seq_len": 4,
    "eos_token_id": 0,  # for the collator
}


class TextDataset(StreamingDataset):
    """As LLM Foundry's `StreamingTextDataset`."""

    def __init__(
        self,
        *,
        max_seq_len: int,
        streams: Sequence[Stream] | None = None,
        remote: str | None = None,
        local: str | None = None,
        split: str | None = None,
        download_retry: int = 2,
        download_timeout: float = 60,
        validate_hash: str | None = None,
        keep_zip: bool = False,
        epoch_size: int | str | None = None,
        predownload: int | None = None,
        cache_limit: int | str | None = None,
        partition_algo: str = "relaxed",
        num_canonical_nodes: int | None = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        shuffle_algo: str = "py1e",
        shuffle_seed: int = 9176,
        shuffle_block_size: int | None = None,
        sampling_method: str = "balanced",
        sampling_granularity: int = 1,
        batching_method: str = "random",
        allow_unsafe_types: bool = False,
        replication: int | None = None,
        packing_ratio: float | None = None,
        stream_name: str = "stream",
        stream_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            streams=streams,
            remote=remote,
            local=local,
            split=split,
            download_retry=download_retry,
            download_timeout=download_timeout,
            validate_hash=validate_hash,
            keep_zip=keep_zip,
            epoch_size=epoch_size,
            predownload=predownload,
            cache_limit=cache_limit,
            partition_algo=partition_algo,
            num_canonical_nodes=num_canonical_nodes,
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_algo=shuffle_algo,
            shuffle_seed=shuffle_seed,
            shuffle_block_size=shuffle_block_size,
            sampling_method=sampling_method,
            sampling_granularity=sampling_granularity,
            batching_method=batching_method,
            allow_unsafe_types=allow_unsafe_types,
            replication=replication,
            stream_name=stream_name,
            stream_config=stream_config,
            **kwargs,
        )
        self.max_seq_len, self.packing_ratio = max_seq_len, packing_ratio

    def __getitem__(self, idx: Any) -> torch.Tensor:
        sample = super().__getitem__(idx)
        assert isinstance(sample["tokens"], np.ndarray)
        return torch.from_numpy(sample["tokens"][: self.max_seq_len].copy()).to(torch.int64)

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:  # pyright: ignore
        if self.packing_ratio is not None:
            num_samples = int(self.packing_ratio * num_samples)
        return super().state_dict(num_samples=num_samples, from_beginning=from_beginning)


def build(library: Path, *, batch_size: int = 8, loader_batch_size: int | None = None, workers: int = 0, **given: Any):
    """Build a DataLoader from what a YAML file says, as LLM Foundry does."""
    config = {**YAML, **given}
    streams = [
        Stream(**{"remote": str(library / name), "local": None, **each}) for name, each in config.pop("streams").items()
    ]
    known = {*inspect.signature(TextDataset).parameters, *inspect.signature(StreamingDataset).parameters}
    dataset = TextDataset(
        streams=streams, batch_size=batch_size, **{name: value for name, value in config.items() if name in known}
    )

    def collate(samples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.stack(samples)}

    return DataLoader(dataset, batch_size=loader_batch_size or batch_size, collate_fn=collate, num_workers=workers)


def expected(library: Path) -> list[list[int]]:
    streams = [Stream(remote=str(library / name), proportion=1.0) for name in ("web", "code")]
    with ms.Loader(make_dataset(library, streams=streams, shuffle_seed=5, epoch_size=32)) as loader:
        return [row_ids(batch) for _ in range(2) for batch in loader]


def ids(batch: Any) -> list[int]:
    assert batch["input_ids"].shape[1] == 4 < WIDTH
    return batch["input_ids"][:, 0].tolist()


def test_rows_are_those_of_a_loader_whatever_the_batches_are_cut_into(library: Path) -> None:
    rows = joined(expected(library))
    loader = build(library)
    assert [number for _ in range(2) for batch in loader for number in ids(batch)] == rows
    packed = build(library, loader_batch_size=24, packing_ratio=3.0)
    assert [number for batch in packed for number in ids(batch)] == rows[: len(rows) // 2]
    assert set(rows) <= {FIRST[name] + k for name in ("web", "code") for k in range(SIZES[name])}


def test_states_count_packed_samples_by_the_ratio(library: Path) -> None:
    rows = joined(expected(library))
    loader = build(library, loader_batch_size=4, packing_ratio=2.0)
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    resumed = build(library, loader_batch_size=4, packing_ratio=2.0)
    resumed.dataset.load_state_dict(loader.dataset.state_dict(4, True))  # the trainer saw four packed rows, of two each
    assert [number for batch in resumed for number in ids(batch)] == rows[8:32]


def test_what_callbacks_look_at_is_there(library: Path) -> None:
    dataset = build(library).dataset
    assert isinstance(dataset, ms.StreamingDataset)
    assert dataset.num_canonical_nodes is None
    assert dataset.num_samples == SIZES["web"] + SIZES["code"]
    assert dataset.state_dict(num_samples=0, from_beginning=False)


def test_an_unknown_key_is_a_type_error(library: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        TextDataset(max_seq_len=4, remote=str(library / "web"), unknown=1)
