"""Where shards come from: object stores, and the cache of shards on local disk.

Importing this is cheap: obstore, boto3 and fsspec are imported when a URL needs them. From the top down:

    dataset_files   a dataset's files: its index, and every shard on local disk    index_file, unfinished, in_place
    cache/          files that appear whole or not at all                          directory, materialize, limit, ...
    transfer        objects, or ranges of them, in parallel parts                  retry
    made_index      an index made from files that have none; what its maker sees of them
    stored_file     an object as a file whose ranges are fetched when they are read
    open            turns a URL into a store                                       url
    store           one directory of objects, one attempt a call                   stores/, one kind a file
    spec            what the index says of a shard                                 mapping
    destination     where a dataset is written
    disk_errors     what a local disk refuses, by name
    whole_files     files that are there whole or not at all, also after a power cut
    built_once      files below the temporary directory that one process builds for all of a machine
    kept_file       a file below the temporary directory that saves a later process some work
    large_file      a file that is read in blocks
    domain_directory  which directory a domain's name has
    fork_server     makes the requests of forked processes                         stores/fork_proxy, forks

Other packages and tools import from here only.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily
from mixstream.storage.domain_directory import domain_directory, domain_name
from mixstream.storage.forks import ProcessLocal, unforked

if TYPE_CHECKING:
    from mixstream.storage.built_once import build_once
    from mixstream.storage.cache.holders import holder_of
    from mixstream.storage.cache.limit import CacheLimit
    from mixstream.storage.cache.owner import index_hash
    from mixstream.storage.cache.waits import waits
    from mixstream.storage.dataset_files import DatasetFiles
    from mixstream.storage.destination import LOCK, Destination, check_writable, find_destinations, prepare_destinations
    from mixstream.storage.disk_errors import (
        FULL,
        check_directory,
        disk_error,
        named_disk_errors,
        named_full_disk,
        open_regular,
    )
    from mixstream.storage.kept_file import KeptFile
    from mixstream.storage.made_index import IndexMaker, OriginalFiles
    from mixstream.storage.mapping import map_file, map_files
    from mixstream.storage.open import open_store
    from mixstream.storage.redaction import place_of, redact
    from mixstream.storage.retry import LONGEST_TIMEOUT, Retry
    from mixstream.storage.spec import INDEX, CompressedSpec, ObjectPart, ShardSpec
    from mixstream.storage.store import ObjectBytes, ObjectInfo, Store
    from mixstream.storage.stored_file import StoredFile
    from mixstream.storage.transfer import read_object
    from mixstream.storage.unfinished import (
        RUN,
        SUMMARY,
        Conversion,
        describe_conversion,
        find_conversion,
        is_part_name,
        refuse_conversion,
        refuse_part,
    )
    from mixstream.storage.url import absolute, check_utf8, is_local, join, local_path, split_name, split_url
    from mixstream.storage.whole_files import move_whole, sync, write_whole

__getattr__, __dir__ = lazily(
    __name__,
    {
        "built_once": ["build_once"],
        "cache.holders": ["holder_of"],
        "cache.limit": ["CacheLimit"],
        "cache.owner": ["index_hash"],
        "cache.waits": ["waits"],
        "dataset_files": ["DatasetFiles"],
        "destination": ["Destination", "LOCK", "check_writable", "find_destinations", "prepare_destinations"],
        "disk_errors": [
            "FULL",
            "check_directory",
            "disk_error",
            "named_disk_errors",
            "named_full_disk",
            "open_regular",
        ],
        "kept_file": ["KeptFile"],
        "made_index": ["IndexMaker", "OriginalFiles"],
        "mapping": ["map_file", "map_files"],
        "open": ["open_store"],
        "redaction": ["place_of", "redact"],
        "retry": ["LONGEST_TIMEOUT", "Retry"],
        "spec": ["CompressedSpec", "INDEX", "ObjectPart", "ShardSpec"],
        "store": ["ObjectBytes", "ObjectInfo", "Store"],
        "stored_file": ["StoredFile"],
        "transfer": ["read_object"],
        "unfinished": [
            "Conversion",
            "RUN",
            "SUMMARY",
            "describe_conversion",
            "find_conversion",
            "is_part_name",
            "refuse_conversion",
            "refuse_part",
        ],
        "url": ["absolute", "check_utf8", "is_local", "join", "local_path", "split_name", "split_url"],
        "whole_files": ["move_whole", "sync", "write_whole"],
    },
)


__all__ = [
    "FULL",
    "INDEX",
    "LOCK",
    "LONGEST_TIMEOUT",
    "RUN",
    "SUMMARY",
    "CacheLimit",
    "CompressedSpec",
    "Conversion",
    "DatasetFiles",
    "Destination",
    "IndexMaker",
    "KeptFile",
    "ObjectBytes",
    "ObjectInfo",
    "ObjectPart",
    "OriginalFiles",
    "ProcessLocal",
    "Retry",
    "ShardSpec",
    "Store",
    "StoredFile",
    "absolute",
    "build_once",
    "check_directory",
    "check_utf8",
    "check_writable",
    "describe_conversion",
    "disk_error",
    "domain_directory",
    "domain_name",
    "find_conversion",
    "find_destinations",
    "holder_of",
    "index_hash",
    "is_local",
    "is_part_name",
    "join",
    "local_path",
    "map_file",
    "map_files",
    "move_whole",
    "named_disk_errors",
    "named_full_disk",
    "open_regular",
    "open_store",
    "place_of",
    "prepare_destinations",
    "read_object",
    "redact",
    "refuse_conversion",
    "refuse_part",
    "split_name",
    "split_url",
    "sync",
    "unforked",
    "waits",
    "write_whole",
]
