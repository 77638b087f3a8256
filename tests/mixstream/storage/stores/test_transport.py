from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest

from mixstream.errors import StoreFaultError
from mixstream.storage.stores.client_errors import Operation
from mixstream.storage.stores.transport import Answer


class Body:
    """A response whose client takes the end of the connection for that of the body, as urllib3 1 does."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def read1(self, size: int, **_: Any) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if piece[size:]:
            self._pieces.insert(0, piece[size:])
        return piece[:size]


def answer(*pieces: bytes) -> Answer:
    return Answer(Body(*pieces), Operation(act="read", place="s3://mix/a"), "http://host", time.monotonic() + 60)


@pytest.mark.parametrize("size", [6, 1 << 20])
def test_a_body_that_ends_early_is_a_fault(size: int) -> None:
    with pytest.raises(StoreFaultError, match="closed before the end of the body"):
        answer(b"abc", b"de").exactly(size)


def test_pieces_of_any_size_come_in_order_and_small_ones_together() -> None:
    whole = bytes(range(256)) * 4096  # four times what is written at once
    for sizes in ([1 << 18] * 4, [1 << 10] * 1024, [1000, 1 << 17, 50_000, 140_000, 1, 200_000]):
        ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        pieces = [whole[begin:end] for begin, end in pairwise(ends)]
        written: list[tuple[int, bytes]] = []
        answer(*pieces).hand_over(ends[-1], lambda data, at, written=written: written.append((at, bytes(data))))
        assert b"".join(data for _, data in written) == whole[: ends[-1]]
        assert [at for at, _ in written] == [sum(len(data) for _, data in written[:i]) for i in range(len(written))]
        assert len(written) <= 7
