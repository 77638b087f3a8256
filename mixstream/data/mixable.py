"""Can rows of these domains stand in one batch? What the indexes say is checked before anything is read.

Rows stack if they have the same columns, and each column is of one kind: arrays of one shape, numbers, text, bytes or
images. Integers of several widths stack (as the widest), and floats do; integers and floats do not, since a batch's
dtype would then depend on which rows were drawn. A shape or a dtype that the index does not say is found out at the
first batch. Tokens of different tokenizers stack, and mean nothing together.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from numbers import Number
from typing import Any

import numpy as np

from mixstream.data.domain import Domain
from mixstream.data.record_kinds import TOKENS
from mixstream.errors import ConfigError
from mixstream.formats import fixed_array, kinds_of, ndarray_dtype
from mixstream.records import dataclass

_KINDS = {
    "str": "text",
    "bytes": "bytes",
    "str_int": "integers",
    "str_float": "floats",
    "str_decimal": "decimals",
    **dict.fromkeys(("pil", "jpeg", "png"), "images"),
    **dict.fromkeys(("list[pil]", "list[jpeg]", "list[png]"), "lists of images"),
    **dict.fromkeys(("jpeg_array", "jpegarray", "ndarray"), "arrays"),
}
_COLLATED: dict[str, Any] = {
    "an array": np.ndarray,
    "a number": (Number, np.generic),
    "text": str,
    "bytes": bytes,
    "a mapping": Mapping,
    "a list": (list, tuple),
    "None": type(None),
}
_AS_NUMBERS = {"str_int": np.dtype(np.int64), "str_float": np.dtype(np.float64)}  # as torch collates Python's numbers
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Form:
    """What a column's encoding says of its values.

    >>> Form.of("ndarray:uint16:2048").differs(Form.of("ndarray:uint32:1024"))
    True
    >>> Form.of("ndarray:uint16:2048").differs(Form.of("ndarray:uint32"))  # of any shape, so the data has to show
    False

    Attributes:
        kind: what values are; None for those of any kind (json, pkl).
        shape: of an array; None if it varies.
    """

    kind: str | None
    shape: tuple[int, ...] | None = None

    @classmethod
    def of(cls, encoding: str) -> "Form":
        """Return the form of an encoding."""
        if (fixed := fixed_array(encoding)) is not None:
            return cls(_kind(fixed[0], is_array=bool(fixed[1])), fixed[1])
        if (dtype := ndarray_dtype(encoding)) is not None:
            return cls(_kind(dtype, is_array=True))
        return cls(_KINDS.get(encoding))

    def differs(self, other: "Form") -> bool:
        """Return whether values of both never stack."""
        if self.kind is None or other.kind is None:
            return False
        kinds = {self.kind, other.kind}
        if len(kinds) > 1 and not ("arrays" in kinds and all("arrays" in kind for kind in kinds)):
            return True
        return None not in (self.shape, other.shape) and self.shape != other.shape


def _kind(dtype: np.dtype[Any], *, is_array: bool) -> str:
    values = "integers" if dtype.kind in "iu" else "floats"
    return f"arrays of {values}" if is_array else values


def refuse_unlike(domains: Sequence[Domain], *, stacked: bool = True) -> None:
    """Check that rows of all domains can stand in one batch, as far as the indexes say.

    Args:
        domains: the domains that are mixed.
        stacked: whether rows are stacked as they are stored; False where the user's own code makes samples of them.

    Raises:
        ConfigError: tokenizers differ; or, if `stacked`, columns, kinds of values, shapes or dtypes.
    """
    whole = {id(domain.whole or domain): domain.whole or domain for domain in domains}
    _refuse_tokenizers(whole.values())
    if not stacked:
        return
    layouts = {
        (domain.name, shard.column_names, shard.column_encodings)
        for domain in whole.values()
        for shard in kinds_of(domain.shards)
    }
    records: dict[str, list[Mapping[str, str]]] = {}
    for name, columns, encodings in sorted(layouts):
        records.setdefault(name, []).append(dict(zip(columns, encodings)))
    _refuse_columns(records)
    for column in sorted({column for each in records.values() for record in each for column in record}):
        _refuse_values(column, {name: [record[column] for record in each] for name, each in records.items()})


def _refuse_tokenizers(domains: Iterable[Domain]) -> None:
    found: dict[tuple[Any, Any], list[str]] = {}
    names: dict[tuple[Any, Any], str] = {}
    for domain in domains:
        if (tokenizer := domain.tokenizer) is not None:
            key = str(tokenizer.get("hash")), str(tokenizer.get("eos"))
            found.setdefault(key, []).append(domain.name)
            names[key] = f"{tokenizer.get('name')} ({str(tokenizer.get('hash'))[:12]}, end of document {key[1]})"
    if len(found) > 1:
        facts = "; ".join(f"{_some(found[key])}: {names[key]}" for key in found)
        raise ConfigError(
            f"the streams have tokens of different tokenizers: {facts}. Their ids mean different texts: convert them "
            "with one tokenizer, or pass mixed_rows=True to mix them all the same"
        )


def _refuse_columns(records: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    sets: dict[tuple[str, ...], list[str]] = {}
    for name, each in records.items():
        for record in each:
            sets.setdefault(tuple(sorted(record)), []).append(name)
    if len(sets) > 1:
        facts = "; ".join(f"{_some(names)}: {', '.join(columns)}" for columns, names in sets.items())
        raise _unlike(f"the streams have different columns: {facts}")


def _refuse_values(column: str, encodings: Mapping[str, Sequence[str]]) -> None:
    first: dict[str, str] = {}  # encoding -> the first domain that has it: domains may be many, encodings are few
    for name, each in encodings.items():
        for encoding in each:
            first.setdefault(encoding, name)
    for (one, known), (other, name) in combinations(first.items(), 2):
        if Form.of(one).differs(Form.of(other)):
            raise _unlike(f"column {column!r} is {one} in {known!r} and {other} in {name!r}", column)
    dtypes = {encoding: dtype for encoding in first if (dtype := _dtype(encoding)) is not None}
    whole = len(dtypes) > 1 and all(dtype.kind in "iu" for dtype in dtypes.values())
    if whole and np.result_type(*dtypes.values()).kind == "f":  # int64 and uint64
        where = "; ".join(f"{encoding} in {first[encoding]!r}" for encoding in dtypes)
        raise _unlike(f"column {column!r} is {where}, and no integer type holds all of these values")


def _dtype(encoding: str) -> np.dtype[Any] | None:
    fixed = fixed_array(encoding)
    return fixed[0] if fixed is not None else ndarray_dtype(encoding)


def common_dtypes(records: Sequence[Mapping[str, str]]) -> dict[str, np.dtype[Any]]:
    """Return the dtype in a batch of each column that has several dtypes, so that it does not depend on the rows drawn.

    The result is empty if records have different columns: then the user's own code makes the batches.

    >>> common_dtypes([{"tokens": "ndarray:uint16:8", "id": "int"}, {"tokens": "ndarray:int32:8", "id": "int"}])
    {'tokens': dtype('int32')}
    """
    found: dict[str, np.dtype[Any]] = {}
    if any(record.keys() != records[0].keys() for record in records):
        return found
    for column in records[0] if records else ():
        dtypes = {_AS_NUMBERS.get(record[column]) or _dtype(record[column]) for record in records}
        known = [dtype for dtype in dtypes if dtype is not None]
        if len(dtypes) == len(known) > 1 and len({dtype.kind in "iu" for dtype in known}) == 1:
            together = np.result_type(*known)
            if together.kind != "f" or known[0].kind == "f":
                found[column] = together
    return found


def refuse_unstackable(samples: Sequence[Any], names: Sequence[str]) -> None:
    """Check the samples of one batch: what no index says, such as the lengths of rows.

    Args:
        samples: decoded samples; those that are no dicts are not looked at.
        names: the domain of each.

    Raises:
        ConfigError: values of one column are of different kinds, or arrays of it have different shapes.
    """
    first: dict[str, tuple[str, tuple[int, ...]]] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for sample, name in zip(samples, names):
        if not isinstance(sample, Mapping):
            continue
        for column, value in sample.items():
            kind = _kind_of(value)
            if kind != (other := kinds.setdefault(column, (name, kind)))[1]:
                raise _unlike(
                    f"rows of one batch do not stack: column {column!r} is {other[1]} in a row of {other[0]!r} and "
                    f"{kind} in a row of {name!r}"
                )
            if isinstance(value, np.ndarray):
                known = first.setdefault(column, (name, value.shape))
                if value.shape != known[1]:
                    raise _unlike(
                        f"rows of one batch do not stack: column {column!r} has the shape {known[1]} in a row of "
                        f"{known[0]!r} and {value.shape} in a row of {name!r}",
                        column,
                    )


def _kind_of(value: Any) -> str:
    """Return what a value is to the default collate."""
    for kind, types in _COLLATED.items():
        if isinstance(value, types):
            return kind
    return "none of these"


def _unlike(fact: str, column: str | None = None) -> ConfigError:
    packed = ""
    if column == TOKENS:
        packed = "give token files seq_len= (and overlap=) of one row length, `mixstream pack` documents, "
    return ConfigError(
        f"{fact}: {packed}write them alike, or pass mixed_rows=True to the dataset and a collate_fn that makes batches "
        "of them"
    )


def _some(names: Sequence[str]) -> str:
    shown = sorted({*names})
    return ", ".join(map(repr, shown[:_SHOWN])) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
