"""Where shards come from: object stores, and the cache of shards on local disk.

Importing this costs nothing: obstore, boto3 and fsspec are imported when a URL asks for them. From the top down:

    dataset_files   a dataset's files, the face to the rest     index_file, materialize
    cache/          files that appear whole or not at all       directory, limit, contents, locks, announcements, owner
    transfer        whole objects, by ranges side by side       retry
    open            a URL becomes a store                       url
    store           one directory of objects, one attempt       stores/, one kind a file
    destination     where a dataset is written
    fork_server     makes the requests of forked processes      stores/fork_proxy, forks
"""

from mixstream.storage.cache.limit import Budget
from mixstream.storage.dataset_files import DatasetFiles
from mixstream.storage.mapping import map_file
from mixstream.storage.materialize import CompressedSpec, ShardSpec
from mixstream.storage.open import open_store
from mixstream.storage.retry import Retry
from mixstream.storage.store import ObjectBytes, ObjectInfo, Store
from mixstream.storage.transfer import read_object
from mixstream.storage.url import is_local, join, local_path, redact

__all__ = [
    "Budget",
    "CompressedSpec",
    "DatasetFiles",
    "ObjectBytes",
    "ObjectInfo",
    "Retry",
    "ShardSpec",
    "Store",
    "is_local",
    "join",
    "local_path",
    "map_file",
    "open_store",
    "read_object",
    "redact",
]
