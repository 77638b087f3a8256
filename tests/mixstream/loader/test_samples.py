"""What a subclass of the dataset returns from `__getitem__` or `get_item`, behind each face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import streams
from torch.utils.data import DataLoader, default_collate

import mixstream as ms
from mixstream.errors import ConfigError

FACES: dict[str, Callable[..., Any]] = {
    "Loader": ms.Loader,
    "StreamingDataLoader": lambda dataset, **kw: ms.StreamingDataLoader(dataset, batch_size=8, **kw),
    "DataLoader": lambda dataset, **kw: DataLoader(dataset, batch_size=8, **kw),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")


def dataset_of(library: Any, method: str, change: Callable[[Any], Any]) -> ms.StreamingDataset:
    def get(self: Any, at: int, *_: Any) -> Any:
        return change(ms.StreamingDataset.get_item(self, at))

    kind: Any = type("Changed", (ms.StreamingDataset,), {method: get})
    return kind(streams=streams(library), batch_size=8, shuffle=True, shuffle_seed=3)


def tokens(sample: Any) -> torch.Tensor:
    return torch.as_tensor(sample["tokens"].astype("int64"))


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("method", ["__getitem__", "get_item"])
def test_samples_may_be_tensors_and_tuples(library, face, method):
    plain = next(iter(ms.Loader(dataset_of(library, method, lambda sample: {"tokens": tokens(sample)}))))["tokens"]
    (tensors,) = [next(iter(FACES[face](dataset_of(library, method, tokens))))]
    assert torch.equal(tensors, plain)
    pair = next(iter(FACES[face](dataset_of(library, method, lambda sample: (tokens(sample), 7)))))
    assert torch.equal(pair[0], plain)
    assert pair[1].tolist() == [7] * 8


@pytest.mark.parametrize("face", ["Loader", "StreamingDataLoader"])
def test_none_is_refused_with_what_to_give(library, face):
    for change in (lambda sample: None, lambda sample: sample if tokens(sample)[0] % 2 else None):
        with pytest.raises(
            ConfigError, match=r"the types NoneType.* return for every sample a dict .*or give a collate_fn"
        ):
            list(FACES[face](dataset_of(library, "__getitem__", change)))


@pytest.mark.filterwarnings("default:a sample of")
def test_a_plain_dataloader_is_warned_of_none(library):
    """Its own collate_fn may drop it, so it is no error before that."""
    dataset = dataset_of(library, "__getitem__", lambda sample: None if tokens(sample)[0] % 2 else tokens(sample))
    with pytest.warns(UserWarning, match="a sample of Changed is None, .* return for every sample a dict"):
        found = list(
            FACES["DataLoader"](dataset, collate_fn=lambda rows: default_collate([r for r in rows if r is not None]))
        )
    assert found
    with pytest.warns(UserWarning, match="a sample of Changed is None"), pytest.raises((TypeError, RuntimeError)):
        list(FACES["DataLoader"](dataset))


def test_a_batch_that_is_no_dict_moves_to_the_device_and_says_so_in_a_report(library):
    dataset = dataset_of(library, "get_item", lambda sample: (tokens(sample), "text"))
    with ms.Loader(dataset, device="meta") as loader:
        batch = next(iter(loader))
    assert batch[0].is_meta
    assert [*batch[1]] == ["text"] * 8
    loader = ms.Loader(dataset, transforms=[lambda batch: batch])
    with pytest.raises(ConfigError, match="this one is a list: return a dict from the collate_fn, or dicts from"):
        next(iter(loader))
