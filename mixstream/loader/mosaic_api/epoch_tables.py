"""What an epoch is, as programs of mosaicml-streaming ask for it."""

from mixstream.loader.mosaic_api.shard_tables import ShardTables
from mixstream.loader.order import Order
from mixstream.types import Int64
from mixstream.world import World


class EpochTables(ShardTables):
    """The part of `StreamingDataset` that says how long epochs are and which samples they take."""

    batch_size: int | None
    epoch_size: int
    shuffle: bool
    sampling_method: str
    _order: Order

    def reading(self, world: World) -> World:
        """Return the ranks of the run, of which each reads other rows, that the ranks `world` of the job make."""
        raise NotImplementedError

    @property
    def length(self) -> int:
        """Samples of an epoch for each rank, without those that fill its last batch."""
        return -(-self.epoch_size // self.reading(self._order.world(self)).size)

    @property
    def epoch_seed_change(self) -> bool:
        """Whether epochs differ in which samples they take, where they do not take all."""
        return self.shuffle and self.sampling_method == "balanced"

    @property
    def initial_physical_nodes(self) -> int | None:
        """The nodes on which a run began that was resumed; None in our order, which does not depend on them."""
        return self._order.initial_physical_nodes

    def resample_streams(self, epoch: int, stream_id: int | None = None) -> tuple[Int64, Int64]:
        """Return how many samples an epoch takes from each shard, and which.

        It walks through the epoch, so it takes time and memory for each of its samples.

        Args:
            epoch: the epoch.
            stream_id: the stream of which to tell; None for all of them.

        Returns:
            The counts, int64 [S], and the numbers of the samples, ascending, int64; a sample that is taken twice is
            there twice. With `order="mosaic"`, what mosaicml-streaming returns.

        Raises:
            ConfigError: the mixer learns, so what a later epoch takes is not known.
        """
        return self._order.resample_streams(self, epoch, stream_id)
