"""What a loader hands out, and how it stays known while trainers move and rebuild it.

Trainers make other dicts of a batch: `{k: v.to(device) for k, v in batch.items()}`, `type(batch)({...})`, tree maps.
What `report` has to know of a batch, its step and its rows' domains, therefore rides in the mapping: iterating over a
batch yields column names that are strings and carry a tag. A `Batch` made of such names takes the tag, and stores plain
strings. A tag that cannot be that of the new batch is dropped with a reason, so that losses are never attributed to
other rows: the number of rows changed, or columns are of several batches.

Shape suffixes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch.utils._pytree import MappingKey, register_pytree_node

from mixstream.arguments import shown, whole
from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.records import dataclass

if TYPE_CHECKING:
    from mixstream.data.segments import Segments
else:
    (Segments,) = later("mixstream.data.segments", "Segments")


@dataclass(frozen=True, slots=True, eq=False)
class _Tag:
    """What a batch was when it was iterated over.

    Args:
        step: as in `Batch`; `repeats`, `domain`, `rows` and `segments` too.
        sizes: column -> B, for the columns that have a value for each row.
        column: the column "domain", if it is a tensor.
    """

    step: int
    repeats: int
    domain: Any
    rows: slice
    sizes: Mapping[str, int]
    column: torch.Tensor | None
    segments: Segments | None = None

    def same(self, other: _Tag) -> bool:
        """Return whether both are of the same rows of one step."""
        mine, theirs = (self.step, self.rows), (other.step, other.rows)
        return mine == theirs and (self.domain is other.domain or np.array_equal(self.domain, other.domain))


class _Name(str):
    """The name of a column, with the tag of its batch. Pickled and copied, it is a plain string."""

    __slots__ = ("tag",)
    tag: _Tag

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


class Batch(dict[str, Any]):
    """One rank's rows of one global batch: column -> tensor (or list, where values do not stack).

    A batch that is made of another's items (`type(batch)({...})`, `batch | {...}`, a tree map) is of the same step and
    rows; if their number has changed, or they are of several batches, it is of none, and `report` refuses it.

    Attributes:
        step: the step that this batch is for; `Loader.report` reads it. -1 if it is not known.
        repeats: rows of the *global* batch that only fill up the epoch's last batch.
        domain: int64 [B], each row's domain, in the order of `streams`; None if it is not known.
        rows: which of the rank's rows of this step these are; all of them, unless the batch was split.
        unknown: why step and domain are not known, where they were.
        segments: where documents lie in the rows, as the loader has marked them (`documents=True`); else None.

    >>> batch = Batch({"x": torch.arange(4)})
    >>> batch.step, batch.domain = 7, np.array([0, 0, 1, 1])
    >>> moved = Batch({name: values.to(torch.float32) for name, values in batch.items()})
    >>> moved.step, moved.domain.tolist()
    (7, [0, 0, 1, 1])
    >>> half = Batch({name: values[:2] for name, values in batch.items()})
    >>> half.step, half.unknown
    (-1, "column 'x' has 2 rows, and that of step 7 has 4")
    """

    step: int = -1
    repeats: int = 0
    domain: Any = None
    rows: slice = slice(None)
    unknown: str = ""
    segments: Segments | None = None

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.update(*args, **kwargs)

    @classmethod
    def of_rows(
        cls, columns: Mapping[str, Any] | Iterable[tuple[str, Any]], *, domain: Any, step: int, repeats: int
    ) -> Self:
        """Return a batch of new columns: as the constructor, in fewer operations.

        >>> Batch.of_rows({"x": np.arange(2)}, domain=np.array([0, 1]), step=7, repeats=0).step
        7
        """
        batch = cls.__new__(cls)
        dict.update(batch, columns)
        batch.domain, batch.step, batch.repeats = domain, step, repeats
        return batch

    # --- the tag --------------------------------------------------------------------------------------------------

    def _tag(self) -> _Tag:
        size, column = len(self.domain), self.get("domain")
        return _Tag(
            step=self.step,
            repeats=self.repeats,
            domain=self.domain,
            rows=self.rows,
            sizes={name: size for name, value in dict.items(self) if _rows(value) == size},
            column=column if isinstance(column, torch.Tensor) else None,
            segments=self.segments,
        )

    def _take(self, tag: _Tag, names: set[str]) -> None:
        """Become a batch of the rows of `tag`, whose columns `names` were just set, if all others are of these too."""
        whole = names.issuperset(dict.keys(self))
        if (odd := self._difference(tag)) is not None:
            self._forget(odd)
        elif whole or (self.domain is None and not self.unknown):
            self.step, self.repeats, self.domain, self.rows = tag.step, tag.repeats, tag.domain, tag.rows
            self.unknown, self.segments = "", tag.segments
        elif self.domain is not None and not self._tag().same(tag):
            self._forget(f"it has columns of the steps {self.step} and {tag.step}, or of other rows")

    def _difference(self, tag: _Tag) -> str | None:
        """Return how these columns cannot be of the rows of `tag`; None if they can."""
        for name, size in tag.sizes.items():
            if name in self and (rows := _rows(self[name])) != size:
                return f"column {name!r} has {rows} rows, and that of step {tag.step} has {size}"
        old, new = tag.column, self.get("domain")
        if (
            old is None
            or new is old
            or not isinstance(new, torch.Tensor)
            or {old.device.type, new.device.type} != {"cpu"}
        ):
            return None  # comparing on a GPU would wait for it
        return None if torch.equal(old, new) else f"column 'domain' is of other rows than that of step {tag.step}"

    def _forget(self, why: str) -> None:
        self.step, self.repeats, self.domain, self.rows, self.unknown = -1, 0, None, slice(None), why
        self.segments = None

    # --- a dict ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        if self.domain is None or torch.compiler.is_compiling():  # a compiled step must not depend on the tag
            return super().__iter__()
        tag = self._tag()
        return (_named(name, tag) for name in dict.__iter__(self))

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """As of a dict."""
        return KeysView(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """As of a dict."""
        return ItemsView(self)

    def __setitem__(self, name: str, value: Any) -> None:
        if type(name) is _Name:
            self.update({name: value})
        else:
            super().__setitem__(name, value)

    def update(self, /, *args: Any, **kwargs: Any) -> None:
        """As of a dict. Columns of another batch make this one a batch of the other's rows, if they are all of its own.

        >>> buffer, batch = Batch({"x": torch.zeros(2)}), Batch({"x": torch.ones(2)})
        >>> batch.step, batch.domain = 3, np.array([0, 1])
        >>> buffer.update(batch)
        >>> buffer.step
        3
        """
        columns = dict(*args, **kwargs)
        super().update({str(name) if type(name) is _Name else name: value for name, value in columns.items()})
        tags: list[_Tag] = []
        for name in columns:
            if type(name) is _Name and not any(tag.same(name.tag) for tag in tags):
                tags.append(name.tag)
        if len(tags) > 1:
            self._forget(f"it has columns of the steps {', '.join(str(tag.step) for tag in tags)}")
        elif tags:
            self._take(tags[0], {*columns})

    def copy(self) -> Self:
        """Return a batch of the same columns and rows."""
        other = type(self)(dict.items(self))
        other.__dict__.update(self.__dict__)
        return other

    __copy__ = copy

    def __or__(self, other: Any) -> Self:  # type: ignore[override]
        if not isinstance(other, Mapping):
            return NotImplemented
        both = self.copy()
        both.update(other)
        return both

    def __ror__(self, other: Any) -> Self:  # type: ignore[override]
        if not isinstance(other, Mapping):
            return NotImplemented
        both = type(self)(other)
        both.update(self)
        return both

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    # --- what trainers do -----------------------------------------------------------------------------------------

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Self:
        """Return the batch with its tensors on `device`."""
        place = as_device("device", device)
        return self._mapped(lambda tensor: tensor.to(place, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the batch with its tensors in page-locked memory."""
        return self._mapped(torch.Tensor.pin_memory)

    def _mapped(self, change: Callable[[torch.Tensor], Any]) -> Self:
        other = self.copy()
        for name, value in dict.items(self):
            dict.__setitem__(other, name, changed(value, change))
        return other

    def split(self, parts: int) -> list[Batch]:
        """Return the batch as `parts` micro-batches of equal size, up to rounding. Their tensors are views.

        Use it where the rows of a step do not fit on the device at once: train on each part, and report its losses.

        >>> batch = Batch({"x": np.arange(5)})
        >>> [(part["x"].tolist(), part.rows) for part in batch.split(2)]
        [([0, 1], slice(0, 2, None)), ([2, 3, 4], slice(2, 5, None))]

        Raises:
            ConfigError: there are fewer rows than parts, or a column has not one value for each row.
        """
        size = len(self.domain) if self.domain is not None else len(next(iter(self.values()), ()))
        parts = whole("parts", parts, of="parts")
        if not 1 <= parts <= max(size, 1):
            raise ConfigError(f"a batch of {size} rows cannot be split into parts={shown(parts)}; give 1 to {size}")
        offset = self.rows.start or 0
        bounds = [size * at // parts for at in range(parts + 1)]
        return [self._part(slice(start, end), offset) for start, end in pairwise(bounds)]

    def _part(self, rows: slice, offset: int) -> Batch:
        marked, ends_D1 = self._marked(), self.get("cu_seqlens")
        whole = set()  # columns of the batch, not of its rows
        if marked is not None:
            whole |= {"max_seqlen"} if isinstance(self.get("max_seqlen"), int) else set()
            whole |= {"cu_seqlens"} if isinstance(ends_D1, torch.Tensor) and ends_D1.ndim == 1 else set()
        columns = {name: value for name, value in dict.items(self) if name not in whole}
        if self.domain is not None:
            for name, value in columns.items():
                if (found := _rows(value)) != len(self.domain):
                    raise ConfigError(
                        f"column {name!r} has {'no' if found is None else found} rows and the batch has "
                        f"{len(self.domain)}, so its parts would have others: split the batch first, then change parts"
                    )
        part = Batch({name: value[rows] for name, value in columns.items()})
        part.step, part.repeats = self.step, self.repeats
        part.domain = None if self.domain is None else self.domain[rows]
        part.rows = slice(offset + rows.start, offset + rows.stop)
        if marked is not None:
            part.segments = marked.part(rows.start, rows.stop)
            if "cu_seqlens" in whole and ends_D1 is not None:
                part["cu_seqlens"] = ends_D1[marked.span(rows.start, rows.stop)] - rows.start * marked.tokens
            if "max_seqlen" in whole:
                part["max_seqlen"] = part.segments.longest
        return part

    def _marked(self) -> Segments | None:
        """Return the segments of the rows: those of the column, if that can be read without waiting for a device."""
        ends_D1 = self.get("cu_seqlens")
        if self.segments is None or not isinstance(ends_D1, torch.Tensor):
            return self.segments
        readable = ends_D1.device.type == "cpu" and ends_D1.ndim == 1
        return replace(self.segments, ends_D1=ends_D1.numpy()) if readable else self.segments


def _named(name: str, tag: _Tag) -> str:
    if not isinstance(name, str):  # of a collate_fn
        return name
    named = _Name(name)
    named.tag = tag
    return named


def _rows(value: Any) -> int | None:
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.shape[0] if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def as_device(name: str, device: Any) -> torch.device:
    """Return `device` as torch has it; raise ConfigError if it is none."""
    try:
        return torch.device(device)
    except Exception:  # torch raises TypeError, ValueError and RuntimeError
        raise ConfigError(
            f"{name}={shown(device)} is no device: give a torch.device, or a text such as 'cpu' or 'cuda:0'"
        ) from None


def changed(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Return `value` with `change` applied to its tensors, in containers too.

    >>> changed({"x": [torch.ones(2), "text"]}, torch.Tensor.tolist)
    {'x': [[1.0, 1.0], 'text']}
    """
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)({key: changed(item, change) for key, item in value.items()})
    if isinstance(value, list | tuple):
        items = [changed(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _flatten(batch: Batch) -> tuple[list[Any], list[str]]:
    return list(batch.values()), list(batch)


def _flatten_with_keys(batch: Batch) -> tuple[list[tuple[Any, Any]], list[str]]:
    return [(MappingKey(name), value) for name, value in dict.items(batch)], list(batch)


def _unflatten(values: Iterable[Any], names: list[str]) -> Batch:
    return Batch(zip(names, values))


register_pytree_node(
    Batch,
    _flatten,
    _unflatten,
    serialized_type_name="mixstream.Batch",
    flatten_with_keys_fn=_flatten_with_keys,
)
