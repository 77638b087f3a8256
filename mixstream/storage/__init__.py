"""Where shards come from: object stores, and the cache of shards on local disk.

Importing this costs nothing: obstore, boto3 and fsspec are imported when a URL asks for them.
"""

from mixstream.storage.budget import Budget
from mixstream.storage.files import DatasetFiles
from mixstream.storage.maker import Packed, Wanted
from mixstream.storage.mapping import map_file
from mixstream.storage.retry import Retry
from mixstream.storage.store import ObjectInfo, Piece, Store, is_local, join, local_path, open_store, redact

__all__ = [
    "Budget",
    "DatasetFiles",
    "ObjectInfo",
    "Packed",
    "Piece",
    "Retry",
    "Store",
    "Wanted",
    "is_local",
    "join",
    "local_path",
    "map_file",
    "open_store",
    "redact",
]
