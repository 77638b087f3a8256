"""The form of a mixer's state, checked part by part before a loaded state is believed.

Rule: a `check` names the part that is wrong, its value, and what it has to be. It takes what `init`, `update` and
`adapt` return, whatever losses they were given, and nothing with which they would fail.

Shape suffixes: K domains.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from mixstream.errors import StateError
from mixstream.types import Float64

MOST = 1 << 53
"""No step or count in a state is larger."""
_SUM = 1e-6  # by which weights may miss 1
_PRIOR = 0.02  # by which a prior may differ: earlier versions rounded it to the rows of an epoch


@dataclass(frozen=True)
class Part:
    """A part of a state, with its path in it.

        >>> state = Part({"lmo": {"observed": -1, "weights_K": np.array([0.25, 0.75])}})
        >>> state["lmo"]["weights_K"].simplex(2)
        array([0.25, 0.75])
        >>> state["lmo"]["observed"].whole(least=0)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mixstream.errors.StateError: ...damaged: its lmo.observed is -1, and has to be a whole number of at least 0; ...

    Args:
        value: the part.
        path: where it is, with dots.
    """

    value: Any
    path: str = ""

    def __getitem__(self, key: str) -> Part:
        path = f"{self.path}.{key}" if self.path else key
        if not isinstance(self.value, Mapping):
            self.refuse("a table")
        if key not in self.value:
            raise StateError(
                f"the state of the mixer is damaged: it has no {path}; load an older checkpoint, or pass "
                "strict=False to restart the mixer"
            )
        return Part(self.value[key], path)

    def keys(self, needed: set[str], more: frozenset[str] | set[str] = frozenset()) -> set[str]:
        """Return the keys of a table, which has the `needed` ones, and may have `more`."""
        if not isinstance(self.value, Mapping):
            self.refuse("a table")
        found = set(self.value)
        if not needed <= found or not found <= needed | more:
            self.refuse(f"a table of {sorted(needed)}")
        return found

    def whole(self, *, least: int, most: int = MOST) -> int:
        """Return a whole number from `least` to `most`."""
        if type(self.value) is not int or not least <= self.value <= most:
            self.refuse(f"a whole number of at least {least}" + ("" if most == MOST else f" and at most {most}"))
        return self.value

    def number(self, *, least: float, most: float) -> float:
        """Return a number from `least` to `most`."""
        if type(self.value) not in (int, float) or not least <= self.value <= most:
            self.refuse(f"a number from {least:g} to {most:g}")
        return float(self.value)

    def array(
        self,
        *shape: int | None,
        dtype: str = "float64",
        least: float = -np.inf,
        most: float = np.inf,
        unknown: bool = False,
        infinite: bool = False,
    ) -> np.ndarray[Any, Any]:
        """Return an array.

        Args:
            shape: its axes; None for any size.
            dtype: its type.
            least: of its numbers.
            most: of its numbers.
            unknown: whether NaN may stand for a number that is not known.
            infinite: whether numbers may be infinite.
        """
        found = self.value
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        if not (
            isinstance(found, np.ndarray)
            and found.dtype == dtype
            and found.ndim == len(shape)
            and all(size in (None, there) for size, there in zip(shape, found.shape))
        ):
            self.refuse(f"a {dtype} array [{sizes}]")
        known = found[~np.isnan(found)] if unknown and found.dtype.kind == "f" else found
        if not ((known >= least) & (known <= most)).all() or not (infinite or np.isfinite(known).all()):
            bounds = "" if (least, most) == (-np.inf, np.inf) else f" from {least:g} to {most:g}"
            self.refuse(f"{'' if infinite else 'finite '}numbers{bounds}{' or NaN' if unknown else ''}")
        return found

    def simplex(self, domains: int, *, within: np.ndarray[Any, Any] | None = None) -> Float64:
        """Return weights, float64 [K], that sum to 1; they are 0 where `within` is 0."""
        found = self.array(domains, least=0.0)
        if abs(float(found.sum()) - 1.0) > _SUM or (within is not None and (found[within == 0] != 0).any()):
            self.refuse("weights that sum to 1, and are 0 for domains that are left out")
        return found

    def prior(self, prior_K: Float64 | None) -> Float64:
        """Return the prior, float64 [K]: that of the run, if it is known."""
        if prior_K is None:
            prior_K = self.array(None, least=0.0)
        found, scaled_K = self.simplex(len(prior_K)), prior_K / max(float(prior_K.sum()), 1e-300)
        if ((found > 0) != (prior_K > 0)).any() or (np.abs(found - scaled_K) > _PRIOR).any():
            self.refuse(f"the prior of the run, {scaled_K.round(4).tolist()}")
        return found

    def refuse(self, wanted: str) -> NoReturn:
        """Raise the error that it is something else."""
        is_array = isinstance(self.value, np.ndarray)
        shown = f"{self.value.dtype} {list(self.value.shape)} " if is_array else ""
        text = reprlib.repr(self.value.tolist() if is_array else self.value)
        raise StateError(
            f"the state of the mixer is damaged: its {self.path or 'content'} is {shown}{text}, and has to be "
            f"{wanted}; load an older checkpoint, or pass strict=False to restart the mixer"
        )


def check_alike(state: Any, first: Any, domains: int, path: str = "") -> None:
    """Check that the state of a mixer without `check` has the parts of its first state, of the same kinds and shapes.

    It may have more. An axis that has the length of the domains keeps it, as does a list of so many numbers.

    Raises:
        StateError: a part is missing, or is of another kind or shape.
    """
    part = Part(state, path)
    if isinstance(first, Mapping):
        for key, value in first.items():
            check_alike(part[str(key)].value, value, domains, f"{path}.{key}" if path else str(key))
    elif isinstance(first, np.ndarray):
        sizes = [size if size == domains else None for size in first.shape]
        if not isinstance(state, np.ndarray) or state.dtype.kind != first.dtype.kind:
            part.refuse(f"an array of {first.dtype}")
        part.array(*sizes, dtype=str(state.dtype), unknown=True, infinite=True)
    elif isinstance(first, list | tuple):
        numbers = len(first) == domains and all(_is_number(value) for value in first)
        if not isinstance(state, list) or (numbers and not (len(state) == domains and all(map(_is_number, state)))):
            part.refuse(f"a list of {domains} numbers" if numbers else "a list")
    elif _is_number(first):
        if not _is_number(state):
            part.refuse("a number")
    elif isinstance(first, bool | str) and not isinstance(state, type(first)):
        part.refuse(f"a {type(first).__name__}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
