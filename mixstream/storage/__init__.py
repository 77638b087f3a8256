"""Where shards come from: object stores, and the cache of shards on local disk.

Importing this costs nothing: obstore, boto3 and fsspec are imported when a URL asks for them. From the top down:

    files       a dataset's files, the face to the rest       index_file, binding, maker
    cache       files that appear whole or not at all         locks, listing, mapping, memory, watched
    budget      what the cache may hold                       needs
    transfer    whole objects, by ranges side by side         retry
    store       one directory of objects, one attempt         local_store, fsspec_store, object_store (clients, aws,
                                                              refusals), elsewhere (helper, forks: for forked children)
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
