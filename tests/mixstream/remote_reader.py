"""A reader in a process of its own, for tests of what processes share. Not a test."""

from __future__ import annotations

import os
from typing import Any

from harness import row_ids

import mixstream as ms


def read_epoch(settings: dict[str, Any], found: Any) -> None:
    """Read an epoch of the dataset that `settings` describe; put the rank and its batches into the queue `found`."""
    os.environ.update(settings.pop("environment", {}))
    each = [ms.Stream(remote=url, local=local) for url, local in settings.pop("places")]
    with ms.Loader(ms.StreamingDataset(streams=each, batch_size=8, shuffle=True, **settings)) as loader:
        found.put((loader.run.run_plan.world.rank, [row_ids(batch) for batch in loader]))
