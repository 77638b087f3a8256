"""Every exception that mixstream raises on purpose.

Rule: a message states the fact with its values, the consequence, and the remedy with the word or number to type.
Context (domain, shard, sample) is added with `add_note`, never by wrapping text. Each class also has the builtin
parent that a user would catch.

    MixstreamError
    ├── ConfigError(ValueError)                an argument that cannot be
    │   └── OutputExistsError(FileExistsError)   the directory to write to already holds something
    ├── EncodingError(TypeError)               a column encoding that is unknown, or a value that it cannot hold
    │   └── MissingColumnError(KeyError)         a sample lacks a column that the dataset has
    ├── UnsafeEncodingError(ValueError)        pickle in a shard, without permission
    ├── IndexCorruptError(ValueError)          index.json says what cannot be
    ├── IndexNotFoundError(FileNotFoundError)
    ├── ShardCorruptError(ValueError)          a shard is not what its index says
    ├── ShardNotFoundError(FileNotFoundError)
    ├── StoreError(OSError)                    an object store, or a disk, did not do what was asked
    │   ├── StoreNotFoundError(FileNotFoundError)
    │   ├── StoreAccessError(PermissionError)    401, 403, expired credentials
    │   ├── StoreBusyError                       429, 503: asked to slow down
    │   ├── StoreFaultError(ConnectionError)     refused, reset, stalled, 5xx, or not what was asked for
    │   ├── StoreChangedError                    an object was replaced between two requests for its parts
    │   └── NoRangesError                        a server sends whole objects only
    ├── CacheFullError(OSError)                no room for a shard, on disk or below `cache_limit`
    ├── StateError(ValueError)                 a saved state that does not fit this run
    ├── FeedbackError(RuntimeError)            a step's losses are missing, or cannot be those of the step
    ├── RanksDisagreeError(RuntimeError)       ranks of one run have different settings, states or reports
    ├── ExhaustedError(RuntimeError)           no domain is left to draw from
    └── WaitTimeoutError(TimeoutError)         a wait gave up; the message names what it waited for
"""


class MixstreamError(Exception):
    """Parent of every exception that mixstream raises on purpose.

    Attributes:
        bad: what of the data it is about, where it is about that: (shard, row), with row None for the whole shard.
            Shards are counted over all domains. It is what `on_bad_sample` may set aside.
    """

    bad: tuple[int, int | None] | None = None


class ConfigError(MixstreamError, ValueError):
    """An argument, or a combination of arguments, that cannot be."""


class OutputExistsError(ConfigError, FileExistsError):
    """The directory to write to already holds something."""


class EncodingError(MixstreamError, TypeError):
    """A column encoding that is unknown, or a value that it cannot hold."""


class MissingColumnError(EncodingError, KeyError):
    """A sample lacks a column that the dataset has."""

    __str__ = Exception.__str__  # KeyError's would show the message in quotes


class UnsafeEncodingError(MixstreamError, ValueError):
    """A shard holds pickled columns and the user has not allowed them."""


class IndexCorruptError(MixstreamError, ValueError):
    """An `index.json` that says what cannot be; nothing of it is used."""


class IndexNotFoundError(MixstreamError, FileNotFoundError):
    """No `index.json` where a dataset was expected."""


class ShardCorruptError(MixstreamError, ValueError):
    """A shard whose bytes are not what its index says."""


class ShardNotFoundError(MixstreamError, FileNotFoundError):
    """A shard that the index lists and the storage does not have."""


class StoreError(MixstreamError, OSError):
    """An object store, or a disk in its place, did not do what was asked; trying again as it is would not help."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """The store has no such object, bucket or directory."""


class StoreAccessError(StoreError, PermissionError):
    """The store refuses: no credentials, wrong or expired ones, or not enough rights."""


class StoreBusyError(StoreError):
    """The store asks to slow down (429, 503); it is worth waiting."""


class StoreFaultError(StoreError, ConnectionError):
    """A request did not get its answer: refused, reset, stalled, 5xx, or not what was asked for. Worth another try."""


class StoreChangedError(StoreError):
    """An object was replaced between two requests for its parts."""


class NoRangesError(StoreError):
    """The server cannot send part of an object (plain HTTP without Range): read it whole, by one request."""


class CacheFullError(MixstreamError, OSError):
    """No room for a shard: the disk is full, or `cache_limit` is too low for what is in use at once."""


class StateError(MixstreamError, ValueError):
    """A saved state that does not fit this run."""


class FeedbackError(MixstreamError, RuntimeError):
    """Losses of a step are missing, or cannot be those of the step."""


class RanksDisagreeError(MixstreamError, RuntimeError):
    """Ranks of one run have different settings, states or reports; the message names them."""


class ExhaustedError(MixstreamError, RuntimeError):
    """Every domain of positive weight has been read `max_epochs` times: there is nothing left to draw."""


class WaitTimeoutError(MixstreamError, TimeoutError):
    """A bounded wait gave up; the message names what it waited for."""
