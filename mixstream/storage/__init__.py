"""Where shards come from: object stores, and the cache of shards on local disk."""

from mixstream.storage.files import DatasetFiles, local_path, map_file

__all__ = ["DatasetFiles", "local_path", "map_file"]
