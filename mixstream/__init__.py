"""mixstream: a streaming data loader whose mixture adapts while the model learns, and whose runs replay byte for byte.

    dataset = mixstream.StreamingDataset(streams=[mixstream.Stream(remote="corpus/web"), ...], batch_size=64)
    for batch in mixstream.Loader(dataset):
        ...

Names are imported on first use, so that writing shards does not import torch and the command line starts quickly.
"""

from typing import TYPE_CHECKING

from mixstream import errors
from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream import compat, integrations, losses, mixers
    from mixstream.data.batch import Batch
    from mixstream.feedback.evaluate import evaluate
    from mixstream.feedback.losses import domain_cross_entropy, domain_sums
    from mixstream.feedback.replay import replay
    from mixstream.loader.dataloader import StreamingDataLoader
    from mixstream.loader.dataset import StreamingDataset
    from mixstream.loader.document_collate import DocumentCollate
    from mixstream.loader.loader import Loader
    from mixstream.loader.local import LocalDataset
    from mixstream.loader.megatron_order.options import MegatronOrder
    from mixstream.loader.registry import streams_registry
    from mixstream.loader.stats import LoaderStats
    from mixstream.loader.stream import Stream
    from mixstream.loader.streams import streams
    from mixstream.loader.validation import ValidationSet
    from mixstream.merge import merge_index
    from mixstream.types import Feedback
    from mixstream.writer import CSVWriter, JSONWriter, MDSWriter, TSVWriter, XSVWriter

__version__ = "0.1.0"

__getattr__, __dir__ = lazily(
    __name__,
    {
        "compat": [],
        "data.batch": ["Batch"],
        "documents": [],
        "feedback.evaluate": ["evaluate"],
        "feedback.losses": ["domain_cross_entropy", "domain_sums"],
        "feedback.replay": ["replay"],
        "integrations": [],
        "loader.dataloader": ["StreamingDataLoader"],
        "loader.dataset": ["StreamingDataset"],
        "loader.document_collate": ["DocumentCollate"],
        "loader.loader": ["Loader"],
        "loader.local": ["LocalDataset"],
        "loader.megatron_order.options": ["MegatronOrder"],
        "loader.registry": ["streams_registry"],
        "loader.stats": ["LoaderStats"],
        "loader.stream": ["Stream"],
        "loader.streams": ["streams"],
        "loader.validation": ["ValidationSet"],
        "losses": [],
        "merge": ["merge_index"],
        "mixers": [],
        "types": ["Feedback"],
        "writer": ["CSVWriter", "JSONWriter", "MDSWriter", "TSVWriter", "XSVWriter"],
    },
)

__all__ = [
    "Batch",
    "CSVWriter",
    "DocumentCollate",
    "Feedback",
    "JSONWriter",
    "Loader",
    "LoaderStats",
    "LocalDataset",
    "MDSWriter",
    "MegatronOrder",
    "Stream",
    "StreamingDataLoader",
    "StreamingDataset",
    "TSVWriter",
    "ValidationSet",
    "XSVWriter",
    "__version__",
    "compat",
    "domain_cross_entropy",
    "domain_sums",
    "errors",
    "evaluate",
    "integrations",
    "losses",
    "merge_index",
    "mixers",
    "replay",
    "streams",
    "streams_registry",
]
