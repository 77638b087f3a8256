"""`streaming.base.constant`: names that programs import; mixstream has no shared memory to be called so."""

LOCALS = "locals"
BARRIER = "barrier"
NEXT_EPOCH = "next_epoch"
CACHE_USAGE = "cache_usage"
SHARD_STATES = "shard_states"
SHARD_ACCESS_TIMES = "shard_access_times"
RESUME = "resume"
EPOCH_SHAPE = "epoch_shape"
EPOCH_DATA = "epoch_data"
SHM_TO_CLEAN = [
    LOCALS,
    BARRIER,
    NEXT_EPOCH,
    CACHE_USAGE,
    SHARD_STATES,
    SHARD_ACCESS_TIMES,
    RESUME,
    EPOCH_SHAPE,
    EPOCH_DATA,
]
BARRIER_FILELOCK = "barrier_filelock"
CACHE_FILELOCK = "cache_filelock"
TICK = 0.007
"""Seconds between two looks of that package's threads; ours wait for events."""
DEFAULT_TIMEOUT = 60.0
"""Seconds per request."""
