"""The shuffled order of an epoch's samples, as mosaicml-streaming 0.13 shuffles them.

An epoch consists of *units*: the samples that are taken from one shard, at most all of them once. The units are put in
an order that a run keeps (`seed`) and cut where canonical nodes meet; their *pieces* change places within each
canonical node in every epoch (`seed + epoch`). The algorithms differ in how far single samples move:

    py1s, py2s  within their piece
    py1br       within blocks that reach over pieces
    py1e        by a random distance, about half a block at most
    naive       anywhere

The sequence of calls of numpy's generator is part of the order: a call more or less changes all that follows.

Shape suffixes: N samples, U units, M pieces.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.types import Int64

DEFAULT_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Parts of units in the order in which an epoch reads them.

    Attributes:
        begin_M: int64 [M], the first sample of each.
        size_M: int64 [M], its samples.
        nodes: the pieces of each canonical node, as slices.
        rng: the epoch's generator, after the pieces were shuffled.
    """

    begin_M: Int64
    size_M: Int64
    nodes: Sequence[slice]
    rng: np.random.Generator


def get_shuffle(
    algo: str,
    shard_sizes: Int64,
    num_canonical_nodes: int,
    seed: int,
    epoch: int,
    block_size: int = DEFAULT_BLOCK,
) -> Int64:
    """Return the order of an epoch: which sample stands at each place, int64 [N].

    >>> get_shuffle("py1s", np.array([3, 2]), 1, seed=7, epoch=0).tolist()  # two shards, one after the other
    [0, 2, 1, 4, 3]

    Args:
        algo: "py1e", "py1br", "py1s", "py2s" or "naive".
        shard_sizes: int64 [U], samples of each unit.
        num_canonical_nodes: parts of the epoch between which no sample moves in "py1…" and "py2s".
        seed: of the run.
        epoch: number of the epoch.
        block_size: samples of a block; only "py1e" and "py1br" use it.

    Raises:
        ConfigError: the algorithm is not known, or a canonical node gets no sample ("py1e").
    """
    if algo not in ALGORITHMS:
        raise ConfigError(f"shuffle_algo={algo!r} is not known; choose one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[algo](shard_sizes, num_canonical_nodes, seed, epoch, block_size)


def get_shuffle_naive(
    shard_sizes: Int64, num_canonical_nodes: int, seed: int, epoch: int, block_size: int = DEFAULT_BLOCK
) -> Int64:
    """Return `get_shuffle` of "naive": any sample anywhere."""
    del num_canonical_nodes, block_size
    return np.random.default_rng(seed + epoch).permutation(int(np.sum(shard_sizes)))


def get_shuffle_py1s(
    shard_sizes: Int64, num_canonical_nodes: int, seed: int, epoch: int, block_size: int = DEFAULT_BLOCK
) -> Int64:
    """Return `get_shuffle` of "py1s": samples move within their piece."""
    del block_size
    pieces = _pieces(shard_sizes, num_canonical_nodes, seed, epoch)
    return _concatenated([_shuffled(pieces, piece) for piece in range(len(pieces.size_M))])


def get_shuffle_py2s(
    shard_sizes: Int64, num_canonical_nodes: int, seed: int, epoch: int, block_size: int = DEFAULT_BLOCK
) -> Int64:
    """Return `get_shuffle` of "py2s": as "py1s", and units are shuffled before they are cut, once for all epochs."""
    del block_size
    sizes_U = np.asarray(shard_sizes, dtype=np.int64)
    begins_U, unit_U = np.cumsum(sizes_U) - sizes_U, np.arange(len(sizes_U))
    run_rng = np.random.default_rng(seed)
    run_rng.shuffle(unit_U)
    units = []
    for unit in unit_U.tolist():
        ids = np.arange(begins_U[unit], begins_U[unit] + sizes_U[unit])
        run_rng.shuffle(ids)
        units.append(ids)
    unit_M, offset_M, size_M, nodes = _cut(sizes_U[unit_U], num_canonical_nodes)
    epoch_rng, out = np.random.default_rng(seed + epoch), []
    for node in nodes:
        piece_M = np.arange(node.start, node.stop)
        epoch_rng.shuffle(piece_M)
        for piece in piece_M.tolist():
            ids = units[unit_M[piece]][offset_M[piece] : offset_M[piece] + size_M[piece]]
            epoch_rng.shuffle(ids)
            out.append(ids)
    return _concatenated(out)


def get_shuffle_py1br(
    shard_sizes: Int64, num_canonical_nodes: int, seed: int, epoch: int, block_size: int = DEFAULT_BLOCK
) -> Int64:
    """Return `get_shuffle` of "py1br": samples move within blocks of 0.75 to 1.25 times `block_size`."""
    pieces = _pieces(shard_sizes, num_canonical_nodes, seed, epoch)
    rng, ids_N = pieces.rng, _unshuffled(pieces)
    (least, most), stop = _block_sizes(block_size, least=1), 0
    for node, stagger in zip(pieces.nodes, rng.integers(0, least, (num_canonical_nodes,)).tolist()):
        start, stop = stop, stop + int(pieces.size_M[node].sum())
        blocks, reached = [], start
        while reached < stop:
            size = int(rng.integers(least, most))
            block = slice(max(reached - stagger, start), min(reached - stagger + size, stop))
            blocks.append(block)
            reached += block.stop - block.start
        for block in blocks:
            rng.shuffle(ids_N[block])
    return ids_N


def get_shuffle_py1e(
    shard_sizes: Int64, num_canonical_nodes: int, seed: int, epoch: int, block_size: int = DEFAULT_BLOCK
) -> Int64:
    """Return `get_shuffle` of "py1e": each piece is spread over 0.75 to 1.25 times `block_size` places.

    A sample's place is moved by a random distance, and the samples of a canonical node are sorted by the result.
    """
    pieces = _pieces(shard_sizes, num_canonical_nodes, seed, epoch)
    (least, most), out, unmoved = _block_sizes(block_size, least=0), [], False
    for node in pieces.nodes:
        total = int(pieces.size_M[node].sum())
        if not total:
            raise ConfigError(
                "The number of samples assigned to a canonical node is 0. This very likely indicates that the number "
                "of samples in this stream is less than the number of canonical nodes, which is "
                f"{num_canonical_nodes}. Please check your index.json file and ensure that your dataset has been "
                "written out correctly. If this was intended, reduce num_canonical_nodes."
            )
        ids = np.concatenate([_shuffled(pieces, piece) for piece in range(node.start, node.stop)])
        place, offset = np.arange(total).astype(np.float64), 0
        for size in pieces.size_M[node].tolist():
            reach = (int(pieces.rng.integers(least, most)) - size) / 2
            unmoved, reach = unmoved or reach < 0, max(reach, 0)
            back, ahead = max(-reach, -offset), min(reach, total - offset - size)
            place[offset : offset + size] += pieces.rng.uniform(back, ahead, size)
            offset += size
        out.append(ids[np.argsort(place)])
    if unmoved:
        warnings.warn(
            "Shuffle block size was smaller than shard size for some shards. This will result in these shards not "
            "being shuffled with other shards. Set shuffle_block_size to a larger value for a higher quality shuffle.",
            stacklevel=3,
        )
    return _concatenated(out)


ALGORITHMS: dict[str, Callable[[Int64, int, int, int, int], Int64]] = {
    "py1br": get_shuffle_py1br,
    "py1e": get_shuffle_py1e,
    "py1s": get_shuffle_py1s,
    "py2s": get_shuffle_py2s,
    "naive": get_shuffle_naive,
}


def _pieces(shard_sizes: Int64, canonical_nodes: int, seed: int, epoch: int) -> _Pieces:
    """Return the pieces of the units in the order of an epoch."""
    sizes_U = np.asarray(shard_sizes, dtype=np.int64)
    begins_U, unit_U = np.cumsum(sizes_U) - sizes_U, np.arange(len(sizes_U))
    np.random.default_rng(seed).shuffle(unit_U)
    place_M, offset_M, size_M, nodes = _cut(sizes_U[unit_U], canonical_nodes)
    begin_M = begins_U[unit_U][place_M] + offset_M
    rng, piece_M = np.random.default_rng(seed + epoch), np.arange(len(size_M))
    for node in nodes:
        rng.shuffle(piece_M[node])
    return _Pieces(begin_M[piece_M], size_M[piece_M], nodes, rng)


def _cut(sizes_U: Int64, canonical_nodes: int) -> tuple[Int64, Int64, Int64, list[slice]]:
    """Cut units, one behind the other, where canonical nodes meet.

    >>> unit_M, offset_M, size_M, nodes = _cut(np.array([3, 5]), 2)
    >>> unit_M.tolist(), offset_M.tolist(), size_M.tolist(), nodes
    ([0, 1, 1], [0, 0, 1], [3, 1, 4], [slice(0, 2, None), slice(2, 3, None)])

    Returns:
        The unit of each piece; where in it the piece begins; its samples; the pieces of each canonical node.
    """
    samples, node, at, first = int(sizes_U.sum()), 0, 0, 0
    pieces, nodes = [], []
    for unit, size in enumerate(sizes_U.tolist()):
        offset = 0
        while at + size - offset > (end := samples * (node + 1) // canonical_nodes):
            if end > at:
                pieces.append((unit, offset, end - at))
                offset, at = offset + end - at, end
            nodes.append(slice(first, len(pieces)))
            node, first = node + 1, len(pieces)
        pieces.append((unit, offset, size - offset))
        at += size - offset
    while len(nodes) < canonical_nodes:
        nodes.append(slice(first, len(pieces)))
        first = len(pieces)
    table = np.array(pieces, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2], nodes


def _block_sizes(block_size: int, *, least: int) -> tuple[int, int]:
    """Return the bounds of random block sizes: the least, and one above the most."""
    low, high = int(0.75 * block_size), int(1.25 * block_size)
    if low < least or high <= low:
        raise ConfigError(
            f"blocks of {block_size} samples are too small to shuffle in (unless batching is random, a stream has its "
            "part of shuffle_block_size): raise shuffle_block_size"
        )
    return low, high


def _shuffled(pieces: _Pieces, piece: int) -> Int64:
    begin = int(pieces.begin_M[piece])
    ids = np.arange(begin, begin + int(pieces.size_M[piece]))
    pieces.rng.shuffle(ids)
    return ids


def _unshuffled(pieces: _Pieces) -> Int64:
    """Return the samples of all pieces, one piece behind the other; int64 [N]."""
    ends_M = np.cumsum(pieces.size_M)
    return np.arange(pieces.size_M.sum()) + np.repeat(pieces.begin_M - ends_M + pieces.size_M, pieces.size_M)


def _concatenated(parts: list[Int64]) -> Int64:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
