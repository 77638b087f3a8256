"""What may become of shards that are others than when a selection was made, as `Stream` and `fit_shards` say it."""

from typing import Literal

OnMismatch = Literal["error", "drop", "keep_all"]
"""Of a shard that changed."""

Unlisted = Literal["error", "drop", "keep"]
"""Of a shard that the selection does not list."""
