"""The layouts of all domains but very large ones in a table, so that one call finds the rows of a batch in all of them.

`Order.locate` answers for one domain, which costs microseconds a domain: too much for a batch of 1024 rows of as many
domains. Rule: a table is frozen. Threads share it, and one with more layouts takes its place; a row whose layout it
does not have is located by its domain's `Order`, with the same result.

Shape suffixes: B rows, K domains, L lanes, N layouts, P pieces and W windows of all of them, S slots.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Self

import numpy as np

from mixstream.plan.compiled import compile_loop
from mixstream.plan.kernels import last_not_above
from mixstream.plan.permutation import permute_rows
from mixstream.plan.shuffle import Layout, Order
from mixstream.records import dataclass
from mixstream.types import Int64

_FEW_PIECES, _MOST_PIECES = 1 << 10, 1 << 20
"""Pieces of a layout that is copied into a table: so many in any case, and an equal part of so many for each slot."""
_BORDERS, _ZERO = (0, 2), tuple(np.zeros(1, dtype=np.uint64 if i == 1 else np.int64) for i in range(5))
"""The arrays of a layout that have one entry more than the others: the end. In a table, all have it."""
_HARMLESS = 64
"""A size of which any permutation is found at once: of rows that are not looked up."""


@compile_loop
def _find_windows(
    domain_B: Any,
    draw_B: Any,
    slot_R: Any,
    length_S: Any,
    layout_S: Any,
    epoch_N: Any,
    window_N: Any,
    window_start_W: Any,
    window_key_W: Any,
    shuffle: bool,
    layout_B: Any,
    place_B: Any,
    start_B: Any,
    size_B: Any,
    key_B: Any,
) -> int:
    """Set the layout of each draw, -1 if it is not here; return how many are not.

    Of the others, set the place in the window, and where that begins, its size and its key; without `shuffle`, as if
    all were one window. `slot_R` is the slot of domain 0 in the lane of each of R draws of a batch.
    """
    R, missing, r = len(slot_R), 0, 0
    for i in range(len(domain_B)):
        slot, r = slot_R[r] + domain_B[i], r + 1 if r + 1 < R else 0
        length = length_S[slot]
        epoch = draw_B[i] // length
        n = layout_S[2 * slot + (epoch & 1)]
        start_B[i], size_B[i], key_B[i] = 0, _HARMLESS, 0
        if n < 0 or epoch_N[n] != epoch:
            layout_B[i], place_B[i] = -1, 0
            missing += 1
            continue
        position = draw_B[i] - epoch * length
        if shuffle:
            w = window_N[n] + last_not_above(window_start_W[window_N[n] : window_N[n + 1]], position)
            start_B[i], size_B[i] = window_start_W[w], window_start_W[w + 1] - window_start_W[w]
            key_B[i] = window_key_W[w]
        layout_B[i], place_B[i] = n, position - start_B[i]
    return missing


@compile_loop
def _find_pieces(
    layout_B: Any,
    position_B: Any,
    piece_N: Any,
    piece_start_P: Any,
    piece_shard_P: Any,
    piece_row_P: Any,
) -> None:
    """Put the shard of each position in the place of its layout, and its row in its own."""
    for i in range(len(layout_B)):
        n = layout_B[i]
        if n >= 0:
            position = position_B[i]
            p = piece_N[n] + last_not_above(piece_start_P[piece_N[n] : piece_N[n + 1]], position)
            layout_B[i], position_B[i] = piece_shard_P[p], piece_row_P[p] + position - piece_start_P[p]


@dataclass(frozen=True, kw_only=True)
class LayoutTable:
    """Layouts of some epochs of some domains in some lanes.

    A slot is a domain in a lane, and holds the layouts of two epochs that follow each other.

    Args:
        lanes: the lanes that have slots, in their order.
        length_LK: int64 [L, K], the samples of each slot's epoch.
        layout_S: int64 [2 L K], the number of the layout of an even and of an odd epoch; -1 for none.
        epoch_N: int64 [N], the epoch of each layout.
        window_N: int64 [N + 1], where the windows of each begin.
        piece_N: int64 [N + 1], where its pieces begin.
        flat: the arrays of all layouts, as `Layout` has them, one behind the other.
        news: layouts that were asked for and are not here, by slot and epoch.
    """

    lanes: tuple[int, ...]
    length_LK: Int64
    layout_S: Int64
    epoch_N: Int64
    window_N: Int64
    piece_N: Int64
    flat: tuple[Any, ...]
    news: dict[tuple[int, int], Layout] = field(default_factory=dict)

    @classmethod
    def of_lanes(cls, lanes: Sequence[int], orders: Sequence[Order]) -> Self:
        """Return a table of some lanes that holds nothing yet."""
        length_LK = np.array([[order.run_length(lane) for order in orders] for lane in lanes], dtype=np.int64)
        return cls(
            lanes=tuple(lanes),
            length_LK=length_LK,
            layout_S=np.full(2 * length_LK.size, -1, dtype=np.int64),
            epoch_N=np.empty(0, dtype=np.int64),
            window_N=np.zeros(1, dtype=np.int64),
            piece_N=np.zeros(1, dtype=np.int64),
            flat=tuple(zero[:0] for zero in _ZERO),
        )

    def find(self, *, domain_B: Int64, lane_R: Int64, draw_B: Int64, shuffle: bool) -> tuple[Int64, Int64, int]:
        """Return the shard and the row of each draw, int64 [B], as `Order.locate`, and how many are missing (-1).

        Args:
            domain_B: int64 [B], the domain of each draw, of batches of R draws that follow each other.
            lane_R: int64 [R], the lane of each draw of a batch.
            draw_B: int64 [B], the draws.
            shuffle: whether the order is shuffled.

        Raises:
            NotCompiledError: numba is not loaded; a table is of no use without it.
        """
        slot_R = np.searchsorted(np.array(self.lanes), lane_R) * self.length_LK.shape[1]
        layout_B, place_B, start_B, size_B = np.empty((4, len(draw_B)), dtype=np.int64)
        key_B = np.empty(len(draw_B), dtype=np.uint64)
        known = self.length_LK.reshape(-1), self.layout_S, self.epoch_N, self.window_N, *self.flat[:2]
        found_5B = layout_B, place_B, start_B, size_B, key_B
        missing = int(_find_windows(domain_B, draw_B, slot_R, *known, shuffle, *found_5B))
        if shuffle:
            permute_rows(place_B, size_B, key_B, place_B)
            place_B += start_B
        _find_pieces(layout_B, place_B, self.piece_N, *self.flat[2:])
        return layout_B, place_B, missing

    def note(self, domain: int, lane: int, epoch: int, layout: Layout) -> None:
        """Note that a layout was asked for that is not here."""
        if len(layout.piece_shard_P) <= max(_FEW_PIECES, _MOST_PIECES // self.layout_S.size):
            self.news[self.lanes.index(lane) * self.length_LK.shape[1] + domain, epoch] = layout

    def with_news(self) -> Self:
        """Return this table, or one with the noted layouts too, once these are many; old ones may be missing."""
        news = list(self.news.items())  # another thread may be noting more
        if len(news) <= len(self.epoch_N) // 8:
            return self
        held = len(self.epoch_N) if len(self.epoch_N) <= 2 * int((self.layout_S >= 0).sum()) else 0
        layout_S = self.layout_S.copy() if held else np.full_like(self.layout_S, -1)
        for number, ((slot, epoch), _) in enumerate(news):
            layout_S[2 * slot + epoch % 2] = held + number
        layouts = [layout for _, layout in news]
        windows, pieces = [len(one.window_start_W) for one in layouts], [len(one.piece_start_P) for one in layouts]
        old = self.flat if held else tuple(array[:0] for array in self.flat)
        padded = [
            [array if i in _BORDERS else np.append(array, _ZERO[i]) for i, array in enumerate(one)] for one in layouts
        ]
        return type(self)(
            lanes=self.lanes,
            length_LK=self.length_LK,
            layout_S=layout_S,
            epoch_N=np.concatenate([self.epoch_N[:held], [epoch for (_, epoch), _ in news]]),
            window_N=np.concatenate([self.window_N[: held + 1], self.window_N[held] + np.cumsum(windows)]),
            piece_N=np.concatenate([self.piece_N[: held + 1], self.piece_N[held] + np.cumsum(pieces)]),
            flat=tuple(np.concatenate([before, *(one[i] for one in padded)]) for i, before in enumerate(old)),
        )
