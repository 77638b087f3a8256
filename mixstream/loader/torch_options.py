"""The options of torch's DataLoader, checked before torch sees them."""

from typing import Any

from mixstream.arguments import MOST, flag, shown, whole
from mixstream.errors import ConfigError

_WORKERS = 4096  # each is a process, and torch starts as many as it is asked for


def torch_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return those of a DataLoader's options that torch would refuse by other errors, or take literally."""
    found: dict[str, Any] = {}
    for key, least, most in (("batch_size", 1, MOST), ("num_workers", 0, _WORKERS), ("prefetch_factor", 1, MOST)):
        if given.get(key) is not None or (key in given and key == "num_workers"):
            found[key] = whole(key, given[key], least=least, most=most)
    if found.get("prefetch_factor") is not None and not given.get("num_workers"):
        raise ConfigError("`prefetch_factor` is for workers: leave it out, or give num_workers=1 or more")
    if "drop_last" in given:
        found["drop_last"] = flag("drop_last", given["drop_last"])
    if not (given.get("collate_fn") is None or callable(given["collate_fn"])):
        raise ConfigError(f"`collate_fn` is a function, got {shown(given['collate_fn'])}")
    return found
