"""The exceptions that mixstream raises.

Rule: a message states the fact with its values, the consequence, and the remedy with the word or number to type.
Context (domain, shard, sample) is added with `add_note`, never by wrapping text. Each class also has the builtin
parent that a user would catch.

    MixstreamError
    ├── ConfigError(ValueError)                an invalid argument
    │   └── OutputExistsError(FileExistsError)   the output directory is not empty
    ├── EncodingError(TypeError)               an unknown column encoding, or a value that it cannot hold
    │   └── MissingColumnError(KeyError)         a sample lacks a column of the dataset
    ├── UnsafeEncodingError(ValueError)        a pickle column, without permission
    ├── IndexCorruptError(ValueError)          the content of index.json is invalid
    ├── IndexNotFoundError(FileNotFoundError)   also a RuntimeError, as in mosaicml-streaming
    │   └── UnfinishedError                      shards without an index, or a part of a conversion
    ├── ShardCorruptError(ValueError)          a shard does not match its index
    ├── ShardNotFoundError(FileNotFoundError)
    ├── StoreError(OSError)                    an object store or a disk failed
    │   ├── StoreNotFoundError(FileNotFoundError)
    │   ├── StoreAccessError(PermissionError)    401, 403, expired credentials
    │   ├── StoreBusyError                       429, 503: the store asks to slow down
    │   ├── StoreFaultError(ConnectionError)     refused, reset, stalled, 5xx, or an invalid answer
    │   ├── StoreChangedError                    an object was replaced between two requests for its parts
    │   └── NoRangesError                        a server sends whole objects only
    ├── CacheFullError(OSError)                no room for a shard, on disk or below `cache_limit`
    ├── SelectionError(ValueError)             scores or a selection are damaged, or do not fit the shards
    ├── StateError(ValueError)                 a saved state that does not fit this run
    ├── FeedbackError(RuntimeError)            losses of a step are missing, or do not fit the step
    ├── RanksDisagreeError(RuntimeError)       ranks of one run have different settings, states or reports
    ├── ExhaustedError(RuntimeError)           no domain is left to draw from
    ├── ClosedError(RuntimeError)              a loader or iterator was closed while it was in use
    ├── ForkedError(RuntimeError)              an object of the parent was used in a forked child
    └── WaitTimeoutError(TimeoutError)         a wait timed out; the message names what it waited for
"""


class MixstreamError(Exception):
    """Parent of the exceptions that mixstream raises.

    Attributes:
        bad: the unreadable sample, as (shard, row), or the whole shard, with row None; shards are counted over all
            domains. `on_bad_sample` decides what happens to it. None if the error is about something else.
    """

    bad: tuple[int, int | None] | None = None


class ConfigError(MixstreamError, ValueError):
    """An invalid argument, or an invalid combination of arguments."""


class OutputExistsError(ConfigError, FileExistsError):
    """The output directory is not empty."""


class EncodingError(MixstreamError, TypeError):
    """An unknown column encoding, or a value that it cannot hold."""


class MissingColumnError(EncodingError, KeyError):
    """A sample lacks a column of the dataset."""

    __str__ = Exception.__str__  # KeyError's would put the message in quotes


class UnsafeEncodingError(MixstreamError, ValueError):
    """A shard holds pickled columns and the user has not allowed them."""


class IndexCorruptError(MixstreamError, ValueError):
    """The content of an `index.json` is invalid; no part of it is used."""


class IndexNotFoundError(MixstreamError, FileNotFoundError, RuntimeError):
    """No `index.json` where a dataset was expected."""


class UnfinishedError(IndexNotFoundError):
    """A dataset that is not whole: its writer, or `mixstream convert`, did not come to its end."""


class ShardCorruptError(MixstreamError, ValueError):
    """The bytes of a shard do not match its index."""


class ShardNotFoundError(MixstreamError, FileNotFoundError):
    """The storage lacks a shard that the index lists."""


class StoreError(MixstreamError, OSError):
    """An object store, or a disk, failed. Repeating the same request would not help, unless a subclass says so."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """The store has no such object, bucket or directory."""


class StoreAccessError(StoreError, PermissionError):
    """The store refuses: no credentials, wrong or expired ones, or not enough rights."""


class StoreBusyError(StoreError):
    """The store asks to slow down (429, 503). Repeating the request after a pause may succeed."""


class StoreFaultError(StoreError, ConnectionError):
    """A request was refused, reset, stalled or answered by 5xx or wrong content. Repeating it may succeed.

    Attributes:
        size: bytes of the object, where an answer says that it has others than it should; None otherwise.
    """

    size: int | None = None


class StoreChangedError(StoreError):
    """An object was replaced between two requests for its parts."""


class NoRangesError(StoreError):
    """The server cannot send part of an object (plain HTTP without Range): read it whole, in one request."""


class CacheFullError(MixstreamError, OSError):
    """No room for a shard: the disk is full, or `cache_limit` is too low for what is in use at once."""


class SelectionError(MixstreamError, ValueError):
    """Scores or a selection are damaged, or were made for other shards than those that are read."""


class StateError(MixstreamError, ValueError):
    """A saved state that does not fit this run."""


class FeedbackError(MixstreamError, RuntimeError):
    """Losses of a step are missing, or do not fit the step."""


class RanksDisagreeError(MixstreamError, RuntimeError):
    """Ranks of one run have different settings, states or reports; the message names them."""


class ExhaustedError(MixstreamError, RuntimeError):
    """Every domain of positive weight has been read `max_epochs` times: there is nothing left to draw."""


class ClosedError(MixstreamError, RuntimeError):
    """A loader, or one of its iterators, was closed by another thread or loop while it was in use."""


class ForkedError(MixstreamError, RuntimeError):
    """An object with threads, open files or connections of the parent process was used in a forked child."""


class WaitTimeoutError(MixstreamError, TimeoutError):
    """A bounded wait timed out; the message names what it waited for."""
