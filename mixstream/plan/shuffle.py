"""draw -> (epoch, shard, sample): the order in which a lane reads a domain, computed instead of stored.

Rules. A lane owns a fixed run of the domain's samples. `divmod(draw, run)` gives epoch and position, so the end of an
epoch needs no code, and a draw is found in O(log shards). With `shuffle`, three things happen for each (domain, epoch,
lane): the lane's shards are permuted, they are cut into windows of about `block_size` samples, and the samples of each
window are permuted by a cipher. Memory is O(shards). Keys derive from the domain's name, so adding or removing other
domains changes nothing. Nothing here knows a file.

Shape suffixes: B rows, L lanes, S shards, P pieces (the part of a shard that a lane owns), W windows.
"""

from dataclasses import field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.errors import ConfigError
from mixstream.plan import kernels
from mixstream.plan.distinct import distinct
from mixstream.plan.permutation import permute
from mixstream.plan.rng import derive_key
from mixstream.records import dataclass
from mixstream.types import Int64

_KEPT_LAYOUTS = 4

_SHARD, _DOMAIN = 1, 1 << 62
ALGORITHMS: dict[str, int | None] = {
    "py1e": None,  # samples are mixed within windows of shuffle_block_size, about as in mosaicml-streaming
    "py1br": None,
    "py1s": _SHARD,  # within a shard: a window is never smaller than one
    "py2s": _SHARD,
    "naive": _DOMAIN,  # within the whole domain
}
"""What each `shuffle_algo` means here: its window in samples; None for `shuffle_block_size`."""


def window_size(algorithm: str, block_size: int | None, lanes: int) -> int:
    """Return the samples within which a lane's order is mixed; without `block_size`, mosaicml-streaming's default.

    >>> window_size("py1e", None, 8), window_size("py1e", 1000, 8), window_size("py1s", 1000, 8)
    (500000, 1000, 1)
    """
    return ALGORITHMS[algorithm] or block_size or max(4_000_000 // max(lanes, 1), 1 << 18)


def setting_of_window(window: int) -> str:
    """Return what to write for a window of that many samples: the inverse of `window_size`.

    >>> setting_of_window(1), setting_of_window(1000)
    ("shuffle_algo='py1s'", "shuffle_algo='py1e', shuffle_block_size=1000")
    """
    named = next((algorithm for algorithm, size in ALGORITHMS.items() if size == window), None)
    return f"shuffle_algo={named!r}" if named else f"shuffle_algo='py1e', shuffle_block_size={window}"


class Layout(NamedTuple):
    """The order of one (epoch, lane): the arguments of `kernels.locate`, in its order."""

    window_start_W: Int64  # one more than windows
    window_key_W: NDArray[np.uint64]
    piece_start_P: Int64  # one more than pieces
    piece_shard_P: Int64
    piece_row_P: Int64


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of one domain over all lanes.

    A domain of two shards, with 4 and 3 samples, in one lane. Draws 0 to 6 are epoch 0, and 7 is the first of epoch 1:

    >>> size_S, owned_L = np.array([4, 3]), np.array([7])
    >>> order = Order(name="web", seed=17, samples_S=size_S, owned_L=owned_L, shuffle=True, block_size=4)
    >>> epoch_B, shard_B, sample_B = order.locate(lane=0, draw_B=np.arange(8))
    >>> epoch_B.tolist(), shard_B.tolist(), sample_B.tolist()
    ([0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1], [1, 3, 2, 0, 2, 0, 1, 0])

    Args:
        name: the domain's name, which is part of every key.
        seed: the run's shuffle seed.
        samples_S: int64 [S], samples per shard.
        owned_L: int64 [L], samples per lane; their sum is the domain's samples (`weights.deal`). With fewer samples
            than lanes, a lane that owns none reads a sample of its neighbour.
        shuffle: True permutes; False reads shard after shard, sample after sample.
        block_size: samples within which the order is mixed, about.
        family: the stream that the domain is a bucket of; None for other domains. The buckets of a stream visit their
            common shards in one order, so that those read at the same pace need the same shards at the same time.

    Raises:
        ConfigError: `block_size` is below 1, or the domain has no samples.
    """

    name: str
    seed: int
    samples_S: Int64
    owned_L: Int64
    shuffle: bool
    block_size: int
    family: str | None = None
    _layouts: dict[tuple[int, int], Layout] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ConfigError(f"shuffle_block_size must be at least 1 sample, got {self.block_size}")
        if int(self.samples_S.sum()) == 0:
            raise ConfigError(f"domain {self.name!r} has no samples; leave it out of `streams` or convert it again")

    @cached_property
    def _dealt(self) -> tuple[Int64, Int64]:
        """The order in which shards are dealt to lanes, int64 [S], and where each begins in it, int64 [S + 1]."""
        shards = np.arange(len(self.samples_S), dtype=np.int64)
        if self.shuffle:  # a lane's shards are then a random sample of the domain
            shards = permute(shards, len(shards), derive_key(self.seed, "deal", self.family or self.name))
        starts = np.concatenate([[0], np.cumsum(self.samples_S[shards])]).astype(np.int64)
        return shards, starts

    @cached_property
    def _first_L(self) -> Int64:
        """How many samples the lanes before each one own, int64 [L]."""
        return np.cumsum(self.owned_L) - self.owned_L

    def locate(self, *, lane: int, draw_B: Int64) -> tuple[Int64, Int64, Int64]:
        """Return (epoch_B, shard_B, sample_B), int64 [B], of the draws `draw_B` of `lane`."""
        return draw_B // self.run_length(lane), *self.find(lane=lane, draw_B=draw_B)

    def find(self, *, lane: int, draw_B: Int64) -> tuple[Int64, Int64]:
        """Return (shard_B, sample_B) as `locate` does."""
        length = self.run_length(lane)
        first, last = (int(draw_B.min()), int(draw_B.max())) if len(draw_B) else (0, 0)
        if (epoch := first // length) == last // length:  # nearly always
            return self._locate(lane, epoch, draw_B - epoch * length)
        epoch_B, position_B = np.divmod(draw_B, length)
        shard_B, row_B = np.empty_like(position_B), np.empty_like(position_B)
        for epoch in distinct(epoch_B).tolist():
            here = epoch_B == epoch
            shard_B[here], row_B[here] = self._locate(lane, epoch, position_B[here])
        return shard_B, row_B

    def _locate(self, lane: int, epoch: int, position_B: Int64) -> tuple[Int64, Int64]:
        return kernels.locate(position_B, *self.layout(lane, epoch), self.shuffle)

    def run_length(self, lane: int) -> int:
        """Return the samples of an epoch of `lane`."""
        return max(int(self.owned_L[lane]), 1)

    def shards_of(self, lane: int) -> Int64:
        """Return the shards that `lane` reads, int64 [P]: a node fetches only the shards of its lanes."""
        return self._pieces(lane)[0]

    def next_windows(self, *, lane: int, draw: int) -> tuple[Int64, Int64, tuple[int, int]]:
        """Return when each shard of `lane` is read next, seen from `draw`, in O(shards): (shard_P, begin_P, running).

        Without `shuffle`, each shard is a window.

        Returns:
            shard_P: int64 [P], the lane's shards, in no particular order.
            begin_P: int64 [P], the first draw of the window in which the shard is read next. For shards of the running
                window this is the window's own first draw, at most `draw`; for the others a later one, of this epoch or
                the next.
            running: (first draw, end) of the running window. The result is the same for all draws in it.
        """
        length = self.run_length(lane)
        epoch, position = divmod(draw, length)
        now = self.layout(lane, epoch)
        begin_P, opens_W = self._window_begins(now)
        at = int(np.searchsorted(opens_W, position, side="right")) - 1
        running = epoch * length + int(opens_W[at]), epoch * length + int(opens_W[at + 1])
        passed = begin_P < opens_W[at]
        begin_P = begin_P + epoch * length
        if passed.any():
            following = self.layout(lane, epoch + 1)
            again_P = np.empty_like(begin_P)
            again_P[np.argsort(now.piece_shard_P)] = self._window_begins(following)[0][
                np.argsort(following.piece_shard_P)
            ]
            begin_P[passed] = (epoch + 1) * length + again_P[passed]
        return now.piece_shard_P, begin_P, running

    def _window_begins(self, layout: Layout) -> tuple[Int64, Int64]:
        """Return where the window of each piece begins, int64 [P], and where windows begin and end, int64 [W + 1]."""
        opens_W = layout.window_start_W if self.shuffle else layout.piece_start_P
        window_P = np.searchsorted(opens_W, layout.piece_start_P[:-1], side="right") - 1
        return opens_W[window_P], opens_W

    def _pieces(self, lane: int) -> tuple[Int64, Int64, Int64]:
        """Return (shard_P, first_row_P, rows_P) of the run of `lane`, in the order of dealing."""
        shards, starts = self._dealt
        first = min(int(self._first_L[lane]), int(starts[-1]) - 1)
        length = self.run_length(lane)
        begin = int(np.searchsorted(starts, first, side="right")) - 1
        end = int(np.searchsorted(starts, first + length, side="left"))
        low = np.maximum(starts[begin:end], first)
        high = np.minimum(starts[begin + 1 : end + 1], first + length)
        keep = high > low  # empty shards hold nothing to read
        return shards[begin:end][keep], (low - starts[begin:end])[keep], (high - low)[keep]

    def _turn(self, shard_P: Int64, key: int) -> Int64:
        """Return the permutation of a lane's pieces, int64 [P]."""
        if self.family is None:
            return permute(np.arange(len(shard_P), dtype=np.int64), len(shard_P), key)
        shards = len(self.samples_S)  # the same for all of the family
        return np.argsort(permute(np.arange(shards, dtype=np.int64), shards, key)[shard_P])

    def layout(self, lane: int, epoch: int) -> Layout:
        """Return the layout of an epoch of `lane`."""
        if (found := self._layouts.get((lane, epoch))) is not None:
            return found
        shard_P, row_P, rows_P = self._pieces(lane)
        if self.shuffle:
            turn = self._turn(shard_P, derive_key(self.seed, "order", self.family or self.name, epoch, lane))
            shard_P, row_P, rows_P = shard_P[turn], row_P[turn], rows_P[turn]
        start_P = np.concatenate([[0], np.cumsum(rows_P)]).astype(np.int64)
        block_P = start_P[:-1] // self.block_size
        opens = np.flatnonzero(np.concatenate([[True], block_P[1:] != block_P[:-1]]))
        window_start = np.concatenate([start_P[opens], start_P[-1:]])
        # One hash per layout; the cipher then maps a window's number to its key.
        number_W = np.arange(1, len(opens) + 1, dtype=np.int64)
        window_key = permute(number_W, 1 << 62, derive_key(self.seed, "window", self.name, epoch, lane))
        layout = Layout(window_start, window_key.astype(np.uint64), start_P, shard_P, row_P)
        for old in [at for at in list(self._layouts) if at[0] == lane][: -_KEPT_LAYOUTS + 1]:
            self._layouts.pop(old, None)  # another thread may have removed it; a layout can always be rebuilt
        self._layouts[lane, epoch] = layout
        return layout
