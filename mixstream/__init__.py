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
    from mixstream import losses, mixers
    from mixstream.data.batch import Batch
    from mixstream.feedback.evaluate import evaluate
    from mixstream.feedback.losses import domain_cross_entropy, domain_sums
    from mixstream.feedback.replay import replay
    from mixstream.loader.dataloader import StreamingDataLoader
    from mixstream.loader.dataset import StreamingDataset
    from mixstream.loader.loader import Loader
    from mixstream.loader.stream import Stream
    from mixstream.loader.validation import ValidationSet
    from mixstream.types import Feedback
    from mixstream.writer import MDSWriter

__version__ = "0.1.0"

_HOMES = {
    "Batch": "data.batch",
    "Feedback": "types",
    "Loader": "loader.loader",
    "MDSWriter": "writer",
    "Stream": "loader.stream",
    "StreamingDataLoader": "loader.dataloader",
    "StreamingDataset": "loader.dataset",
    "ValidationSet": "loader.validation",
    "domain_cross_entropy": "feedback.losses",
    "domain_sums": "feedback.losses",
    "evaluate": "feedback.evaluate",
    "replay": "feedback.replay",
}

__all__ = [
    "Batch",
    "Feedback",
    "Loader",
    "MDSWriter",
    "Stream",
    "StreamingDataLoader",
    "StreamingDataset",
    "ValidationSet",
    "__version__",
    "domain_cross_entropy",
    "domain_sums",
    "errors",
    "evaluate",
    "losses",
    "mixers",
    "replay",
]


def __getattr__(name: str) -> Any:
    if name in {"losses", "mixers"}:
        return import_module(f"mixstream.{name}")
    if name in _HOMES:
        globals()[name] = value = getattr(import_module(f"mixstream.{_HOMES[name]}"), name)
        return value
    raise AttributeError(f"module 'mixstream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
