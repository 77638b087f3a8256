"""Whether a trainer and a dataset number the ranks alike."""

from typing import Any

from mixstream.errors import ConfigError


def check_ranks(dataset: Any, *, rank: int, ranks: int, trainer: str, remedy: str) -> None:
    """Check that a dataset is divided among the ranks that a trainer gives rows of their own, and only these.

    Args:
        dataset: a `StreamingDataset`.
        rank: this rank among those that have rows of their own, as the trainer counts them.
        ranks: how many these are.
        trainer: what the error calls the trainer.
        remedy: the end of the error: what the trainer's user has to change.

    Raises:
        ConfigError: the dataset is divided otherwise.
    """
    world = dataset.run.run_plan.world
    if (world.rank, world.size) != (rank, ranks):
        raise ConfigError(
            f"the dataset is that of rank {world.rank} of {world.size}, and for {trainer} this is rank {rank} of "
            f"{ranks} that train on rows of their own: rows would be read twice or never. {remedy}"
        )
