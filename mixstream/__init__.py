"""mixstream: a streaming data loader whose mixture adapts while the model learns, and whose runs replay byte for byte.

    dataset = mixstream.StreamingDataset(streams=[mixstream.Stream(remote="corpus/web"), ...], batch_size=64)
    for batch in mixstream.Loader(dataset):
        ...

Names are imported when they are first used: writing shards needs no torch, and a command line should not wait for one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mixstream import errors

if TYPE_CHECKING:
    from mixstream import mixers
    from mixstream.collate import Batch
    from mixstream.dataloader import StreamingDataLoader
    from mixstream.dataset import StreamingDataset
    from mixstream.loader import Loader
    from mixstream.losses import domain_sums
    from mixstream.stream import Stream
    from mixstream.types import Feedback
    from mixstream.writer import MDSWriter

__version__ = "0.1.0"

_HOMES = {
    "Batch": "collate",
    "Feedback": "types",
    "Loader": "loader",
    "MDSWriter": "writer",
    "Stream": "stream",
    "StreamingDataLoader": "dataloader",
    "StreamingDataset": "dataset",
    "domain_sums": "losses",
}

__all__ = [
    "Batch",
    "Feedback",
    "Loader",
    "MDSWriter",
    "Stream",
    "StreamingDataLoader",
    "StreamingDataset",
    "__version__",
    "domain_sums",
    "errors",
    "mixers",
]


def __getattr__(name: str) -> Any:
    if name == "mixers":
        return import_module("mixstream.mixers")
    if name in _HOMES:
        globals()[name] = value = getattr(import_module(f"mixstream.{_HOMES[name]}"), name)
        return value
    raise AttributeError(f"module 'mixstream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
