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
    ├── StateError(ValueError)                 a saved state that does not fit this run
    ├── FeedbackError(RuntimeError)            a step's losses are missing, or cannot be those of the step
    ├── RanksDisagreeError(RuntimeError)       ranks of one run have different settings, states or reports
    ├── ExhaustedError(RuntimeError)           no domain is left to draw from
    └── WaitTimeoutError(TimeoutError)         a wait gave up; the message names what it waited for
"""


class MixstreamError(Exception):
    """Parent of every exception that mixstream raises on purpose."""


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
