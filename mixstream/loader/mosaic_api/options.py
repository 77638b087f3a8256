"""The options of a dataset, checked; their names are those of mosaicml-streaming where it has them."""

import warnings
from typing import Any

from mixstream.arguments import MOST, flag, text, whole
from mixstream.errors import ConfigError
from mixstream.plan.shuffle import ALGORITHMS
from mixstream.units import parse_count

_CHOICES = {
    "sampling_method": ("balanced", "fixed"),
    "partition_algo": ("orig", "relaxed"),
    "shuffle_algo": tuple(ALGORITHMS),
    "batching_method": ("random", "stratified", "per_stream", "device_per_stream"),
    "order": ("mixstream", "mosaic", "megatron"),
    "on_bad_sample": ("raise", "refetch", "quarantine"),  # `bad_samples.RowReader`
}
_COUNTS: dict[str, tuple[int, str]] = {
    "sampling_granularity": (1, ""),
    "shuffle_block_size": (1, "samples"),
    "predownload": (0, "rows"),
    "shuffle_seed": (0, ""),
    "num_canonical_nodes": (1, "lanes"),
    "batch_size": (1, "rows"),
    "replication": (1, "ranks"),
    "lag": (0, "steps"),
}
"""The least of each, and what it counts."""
_MOST_OF = {"shuffle_seed": None, "lag": 1 << 16}  # the weights of `lag` steps are in memory and in the state
_LARGEST_EPOCH = 1 << 48
"""Shares of an epoch are computed in float64, and come out within a row."""
_SWITCHES = ("shuffle", "drop_last", "keep_zip", "durable", "allow_unsafe_types", "mixed_rows")


def check_options(**options: Any) -> dict[str, Any]:
    """Return the options with numbers and switches as Python's own (`arguments`); None stays.

    Raises:
        ConfigError: an option is not valid, or mixstream does not support it.
    """
    for key, (least, of) in _COUNTS.items():
        if options[key] is not None or key in ("shuffle_seed", "lag"):
            options[key] = whole(key, options[key], least=least, most=_MOST_OF.get(key, MOST), of=of)
    for key in _SWITCHES:
        options[key] = flag(key, options[key])
    for key, choices in _CHOICES.items():
        options[key] = text(key, options[key])
        if options[key] not in choices:
            words = f"Invalid {key.replace('_', ' ')}: " if key.endswith("_method") else ""
            raise ConfigError(f"{words}{key}={options[key]!r} is not known; choose one of {', '.join(choices)}")
    if (rows := options["epoch_size"]) is not None:
        size = whole("epoch_size", parse_count(rows, name="epoch_size"), most=_LARGEST_EPOCH, of="rows")
        options["epoch_size"] = size or None  # mosaicml-streaming takes 0 for no size
    ahead, rows = options["predownload"], options["batch_size"]
    if ahead is None:
        options["predownload"] = 8 * (rows or 8)
    elif rows is not None and ahead < rows:
        warnings.warn(
            f"predownload < batch_size ({ahead} < {rows}). This may result in slower batch time. Recommendation is to "
            f"set predownload={8 * rows}, which is the default: shards are fetched one batch ahead",
            stacklevel=3,
        )
    return options
