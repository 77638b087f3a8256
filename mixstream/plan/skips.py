"""Steps that are left out of a run: the plan deals their rows, and no loader hands them out.

Ranges of steps, `first` to `end - 1`. Steps are numbered as `Cursor.step`, so what a skip leaves out does not depend on
when it was asked for.
"""

from collections.abc import Iterable
from typing import Self

from mixstream.records import dataclass


@dataclass(frozen=True)
class Skips:
    """Steps that are left out, as ranges (first, end) that rise and do not touch.

    >>> skips = Skips().add(10, 15).add(15, 20).add(40, 41)
    >>> skips.ranges, 19 in skips, 20 in skips, bool(skips)
    (((10, 20), (40, 41)), True, False, True)
    >>> skips.after(12), skips.count(0, 12), skips.since(15).ranges, str(skips)
    (20, 2, ((15, 20), (40, 41)), '10 to 19, 40')
    >>> skips.until(3), skips.until(12), skips.until(41)
    (7, 0, None)

    Args:
        ranges: the ranges.
    """

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[Iterable[int]]) -> Self:
        """Return the steps of ranges that may overlap, in any order."""
        found: list[list[int]] = []
        for first, end in sorted((first, end) for first, end in ranges if first < end):
            if found and first <= found[-1][1]:
                found[-1][1] = max(end, found[-1][1])
            else:
                found.append([first, end])
        return cls(tuple((first, end) for first, end in found))

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __contains__(self, step: int) -> bool:
        for first, end in self.ranges:  # noqa: SIM110 - asked for each batch: a generator takes five times as long
            if first <= step < end:
                return True
        return False

    def __or__(self, other: "Skips") -> "Skips":
        return Skips.of((*self.ranges, *other.ranges))

    def __str__(self) -> str:
        return ", ".join(f"{first}" if end == first + 1 else f"{first} to {end - 1}" for first, end in self.ranges)

    def add(self, first: int, end: int) -> "Skips":
        """Return these steps, and those from `first` to `end - 1`."""
        return self | Skips.of([(first, end)])

    def after(self, step: int) -> int:
        """Return the first step from `step` on that is not left out."""
        return next((end for first, end in self.ranges if first <= step < end), step)

    def first(self, step: int, end: int) -> int:
        """Return the first step from `step` on that is left out, or `end` if there is none before it."""
        return min((max(first, step) for first, last in self.ranges if last > step and first < end), default=end)

    def until(self, step: int) -> int | None:
        """Return how many steps from `step` on are not left out; None if none ever is again."""
        return next((max(first - step, 0) for first, end in self.ranges if step < end), None)

    def since(self, step: int) -> "Skips":
        """Return those that are not before `step`."""
        return Skips.of((max(first, step), end) for first, end in self.ranges)

    def before(self, step: int) -> "Skips":
        """Return those that are before `step`."""
        return Skips.of((first, min(end, step)) for first, end in self.ranges)

    def count(self, first: int, end: int) -> int:
        """Return how many of the steps from `first` to `end - 1` are left out."""
        return sum(max(min(end, last) - max(first, begin), 0) for begin, last in self.ranges)

    def document(self) -> list[list[int]]:
        """Return the ranges as JSON values."""
        return [[first, end] for first, end in self.ranges]
