"""Numbers as options: the type of an option says which numbers it takes, and no command begins with another one.

Rules. A whole number is written as one: of `--workers 1.5`, neither 1 nor 2 was meant. NaN is no number. What depends
on other options, or on data, is checked by the command. Every option that is a number has one of these types.

>>> def train(*, steps: Positive, seed: Seed = 0, rate: Annotated[float, real(above=0)] = 0.1): ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import CoercionError, Parameter, Token, convert

MOST = 1 << 62
"""The most that a count may be: counts are added up in 64 bits."""
_SEEDS = -(1 << 63), (1 << 64) - 1  # what JSON keeps; a command whose seeds are of a smaller range checks that
_MOST_WORKERS = 4096  # each is a process or a thread
_EMPTY = ("none", "null")  # as cyclopts reads them, where an option may have no value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Range:
    """Reads a number of a range. `below` and `above` are not in it; "none" gives None if `is_optional`."""

    kind: type[int] | type[float]
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float | None = None
    is_optional: bool = False
    name: str = ""

    def __call__(self, type_: Any, tokens: Sequence[Token]) -> float | None:
        """Return the number, for cyclopts.

        Raises:
            CoercionError: it is none, or out of the range.
        """
        text = tokens[0].value
        if self.is_optional and text.lower() in _EMPTY:
            return None
        number: Any = math.nan
        if self.kind is float or "." not in text:  # cyclopts rounds 1.5
            with suppress(Exception):  # of whatever kind a text gives that is no number
                number = convert(self.kind, [text])
        is_below = self.below is None or number < self.below
        if not (self.least <= number <= self.most and self.above < number and is_below):
            raise CoercionError(msg=f"{tokens[0].keyword or self.name} {_short(text)}: give {self._wanted(number)}")
        return number

    def _wanted(self, number: float) -> str:
        """Return what to give instead of a number, in words, such as `0 or more, 1 at most`."""
        if self.kind is int:
            is_limited = self.most != MOST or number > MOST
            limits = [f"{self.least} or more"] * (self.least != -MOST) + [f"at most {self.most}"] * is_limited
            return ", ".join(["a whole number"] * (isinstance(number, float) or not limits) + limits)
        limits = {"above": self.above, "at least": self.least, "at most": self.most, "below": self.below}
        words = [f"{name} {limit}" for name, limit in limits.items() if limit is not None and not math.isinf(limit)]
        return f"{'a share' if self.most == 1 else 'a number'} {' and '.join(words)}"


def whole(*, least: int = -MOST, most: int = MOST, optional: bool = False, name: str = "") -> Parameter:
    """Return what makes an option of type int one of whole numbers in a range; `name` is that of a positional one."""
    converter = _Range(kind=int, least=least, most=most, is_optional=optional, name=name)
    return Parameter(converter=converter, name=name or None)


def real(
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float | None = None,
    optional: bool = False,
) -> Parameter:
    """Return what makes an option of type float one of numbers in a range; `below=math.inf` leaves infinity out."""
    converter = _Range(kind=float, least=least, above=above, most=most, below=below, is_optional=optional)
    return Parameter(converter=converter)


def _short(text: str) -> str:
    """Return what was given, such as 1.5 or ''; no terminal is written to by it."""
    short = text if len(text) <= 40 else f"{text[:37]}..."
    return short if short.isprintable() and short.strip() == short != "" else repr(short)


Count = Annotated[int, whole(least=0)]
Positive = Annotated[int, whole(least=1)]
Seed = Annotated[int, whole(least=_SEEDS[0], most=_SEEDS[1])]
Workers = Annotated[int, whole(least=1, most=_MOST_WORKERS)]
Overlap = Annotated[int, whole(least=0, most=1)]
Seconds = Annotated[float, real(above=0, most=1 << 31)]
Share = Annotated[float, real(above=0, most=1)]

_HIDDEN = Parameter(show_default=False)
MaybeCount = Annotated[int | None, whole(least=0, optional=True), _HIDDEN]
MaybeTokens = Annotated[int | None, whole(least=0, most=(1 << 32) - 1, optional=True), _HIDDEN]
MaybePositive = Annotated[int | None, whole(least=1, optional=True), _HIDDEN]
MaybeSeed = Annotated[int | None, whole(least=_SEEDS[0], most=_SEEDS[1], optional=True), _HIDDEN]
MaybeWorkers = Annotated[int | None, whole(least=1, most=_MOST_WORKERS, optional=True), _HIDDEN]
MaybeShare = Annotated[float | None, real(above=0, most=1, optional=True), _HIDDEN]
