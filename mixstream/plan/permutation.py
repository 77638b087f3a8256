"""A keyed permutation of [0, size), of which no table is kept: the compiled loop beside its numpy reference.

Rule: both give the same values (`compiled`), which every shuffled run depends on.

Shape suffixes: B values, N those of a block.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.plan.compiled import beside, compile_loop
from mixstream.types import Int64

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_ROUNDS = 8
_FEW = 1 << 22  # entries that numpy permutes in less time than importing numba takes
_CACHED = 1 << 15  # values that numpy permutes together: what is between stays in the processor's cache
_BLOCK = 128  # values that the loop permutes together
_MIN_BITS = 6  # fewer bits reach too few of the permutations; small sizes walk more often instead


def _mix_reference(x: Any) -> Any:  # one number or an array; compiled as `_mix`
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    return x ^ (x >> np.uint64(31))


def permute_reference(index_B: Int64, size: int, key: int) -> Int64:
    """Return the images of `index_B` under the permutation of [0, size) that the 64-bit `key` selects; int64 [B].

    An unbalanced Feistel network of eight rounds (splitmix64's finaliser as round function) over the next power of two,
    applied again until the value lies in [0, size). It is a bijection because each round is one. It is not a secure
    cipher. Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), cycle walking.

    >>> permute_reference(np.arange(8), size=8, key=5).tolist()
    [0, 3, 2, 1, 5, 7, 6, 4]
    """
    if len(index_B) > _CACHED:
        return np.concatenate(
            [permute_reference(index_B[at : at + _CACHED], size, key) for at in range(0, len(index_B), _CACHED)]
        )
    bits = max(int(size - 1).bit_length(), _MIN_BITS)
    low_bits = np.uint64(bits - bits // 2)
    low_mask, high_mask = np.uint64((1 << int(low_bits)) - 1), np.uint64((1 << (bits // 2)) - 1)

    def applied(value_B: NDArray[np.uint64]) -> NDArray[np.uint64]:
        low, high = value_B & low_mask, value_B >> low_bits
        for r in range(0, _ROUNDS, 2):
            high ^= _mix_reference(low ^ np.uint64((key + (r + 1) * _GOLDEN) & (2**64 - 1))) & high_mask
            low ^= _mix_reference(high ^ np.uint64((key + (r + 2) * _GOLDEN) & (2**64 - 1))) & low_mask
        return (high << low_bits) | low

    out, table = np.asarray(index_B, dtype=np.uint64).copy(), None
    if 1 << bits <= max(2 * len(out), 1 << _MIN_BITS):  # the images of all values, looked up: it walks quicker
        table = applied(np.arange(1 << bits, dtype=np.uint64))
    walking = np.arange(len(out))
    while len(walking):
        out[walking] = applied(out[walking]) if table is None else table[out[walking]]
        walking = walking[out[walking] >= np.uint64(size)]
    return out.astype(np.int64)


_mix = compile_loop(_mix_reference)


@compile_loop
def _bits_of(size: Any) -> Any:
    bits, left = 0, size - 1
    for step in (32, 16, 8, 4, 2, 1):
        if left >> step:
            bits, left = bits + step, left >> step
    return max(bits + (left > 0), _MIN_BITS)


@compile_loop
def _apply(high_N: Any, low_N: Any, high_mask_N: Any, low_mask_N: Any, key_N: Any, count: int) -> None:
    """Apply the network once to the first `count` values. They do not depend on each other, so they overlap."""
    for r in range(0, _ROUNDS, 2):
        first, second = np.uint64(r + 1) * np.uint64(_GOLDEN), np.uint64(r + 2) * np.uint64(_GOLDEN)
        for n in range(count):
            high = high_N[n] ^ (_mix(low_N[n] ^ (key_N[n] + first)) & high_mask_N[n])
            high_N[n] = high
            low_N[n] ^= _mix(high ^ (key_N[n] + second)) & low_mask_N[n]


@compile_loop
def permute_rows(index_B: Any, size_B: Any, key_B: Any, out_B: Any) -> None:
    """Set `out_B` to what `permute_reference` returns for each value with its own size and key.

    `out_B` may be `index_B`. The values of a block that are not in range yet walk on together.
    """
    space = np.empty((7, _BLOCK), dtype=np.uint64)
    high_N, low_N, high_mask_N, low_mask_N = space[0], space[1], space[2], space[3]
    low_bits_N, size_N, key_N, place_N = space[4], space[5], space[6], np.empty(_BLOCK, dtype=np.int64)
    one, size, bits = np.uint64(1), np.int64(0), np.int64(0)
    for begin in range(0, len(index_B), _BLOCK):
        left = min(_BLOCK, len(index_B) - begin)
        for n in range(left):
            place = begin + n
            if size_B[place] != size:
                size = size_B[place]
                bits = _bits_of(size)
            low_bits_N[n] = bits - bits // 2
            high_mask_N[n], low_mask_N[n] = (one << np.uint64(bits // 2)) - one, (one << low_bits_N[n]) - one
            value = np.uint64(index_B[place])
            high_N[n], low_N[n] = value >> low_bits_N[n], value & low_mask_N[n]
            place_N[n], key_N[n], size_N[n] = place, key_B[place], size
        while left:
            _apply(high_N, low_N, high_mask_N, low_mask_N, key_N, left)
            walking = 0
            for n in range(left):
                value = (high_N[n] << low_bits_N[n]) | low_N[n]
                out_B[place_N[n]] = value
                if value >= size_N[n]:
                    high_N[walking], low_N[walking], key_N[walking] = high_N[n], low_N[n], key_N[n]
                    size_N[walking], low_bits_N[walking], place_N[walking] = size_N[n], low_bits_N[n], place_N[n]
                    high_mask_N[walking], low_mask_N[walking] = high_mask_N[n], low_mask_N[n]
                    walking += 1
            left = walking


@beside(permute_reference, small=lambda index_B, size, key: len(index_B) <= _FEW)
def _permute(index_B: Int64, size: int, key: int) -> Int64:
    out_B = np.array(index_B, dtype=np.int64)
    most = min(len(out_B), _CACHED)  # nearly always few: pieces and windows of a layout
    size_N, key_N = np.full(most, size, dtype=np.int64), np.full(most, key, dtype=np.uint64)
    for begin in range(0, max(len(out_B), 1), _CACHED):
        here_N = out_B[begin : begin + _CACHED]
        permute_rows(here_N, size_N[: len(here_N)], key_N[: len(here_N)], here_N)
    return out_B


def permute(index_B: Int64, size: int, key: int) -> Int64:
    """Compiled `permute_reference`."""
    if size == 1:  # domains of one shard
        return np.zeros(len(index_B), dtype=np.int64)
    return _permute(index_B, size, key)
