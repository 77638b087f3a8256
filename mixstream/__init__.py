"""mixstream: a streaming data loader whose mixture adapts while the model learns, and whose runs replay byte for byte.

dataset = mixstream.StreamingDataset(streams=[mixstream.Stream(remote="corpus/web"), ...], batch_size=64)
for batch in mixstream.Loader(dataset):
    ...
"""

from mixstream import errors, mixers
from mixstream.collate import Batch
from mixstream.dataloader import StreamingDataLoader
from mixstream.dataset import StreamingDataset
from mixstream.loader import Loader
from mixstream.losses import domain_sums
from mixstream.stream import Stream
from mixstream.types import Feedback
from mixstream.writer import MDSWriter

__version__ = "0.1.0"

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
