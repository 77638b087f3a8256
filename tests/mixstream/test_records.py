"""`records.dataclass` makes what `dataclasses.dataclass` makes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from itertools import product
from typing import Any

import numpy as np
import pytest

from mixstream import records

OPTIONS = [
    dict(zip(("frozen", "eq", "slots", "kw_only"), chosen, strict=True)) for chosen in product((True, False), repeat=4)
]


def twins(**options: bool) -> list[type[Any]]:
    """Return two classes of one body: of the standard library's `dataclass`, and of ours."""
    made = []
    for decorate in (dataclasses.dataclass, records.dataclass):

        class Point:
            """A point."""

            x: int
            name: str = dataclasses.field(repr=False)
            tags: list[str] = dataclasses.field(default_factory=list, compare=False)
            y: int = 2
            _known: dict[str, int] = dataclasses.field(default_factory=dict, init=False, repr=False)
            _last: int = dataclasses.field(default=7, init=False)
            wide: bool = dataclasses.field(default=False, kw_only=True)

            def __post_init__(self) -> None:
                self._known["seen"] = self.x

        made.append(decorate(**options)(Point))
    return made


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_class_is_that_of_the_standard_library(options):
    theirs, ours = twins(**options)
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
    assert ours.__init__.__annotations__ == theirs.__init__.__annotations__
    assert (ours.__doc__, ours.__match_args__) == (theirs.__doc__, theirs.__match_args__)
    assert repr(ours.__dataclass_params__) == repr(theirs.__dataclass_params__)
    assert [field.name for field in dataclasses.fields(ours)] == [field.name for field in dataclasses.fields(theirs)]
    assert (ours.__hash__ is None) == (theirs.__hash__ is None)
    assert hasattr(ours, "__slots__") == hasattr(theirs, "__slots__")
    for name in ("__init__", "__repr__"):
        assert vars(ours)[name].__qualname__ == vars(theirs)[name].__qualname__
    with pytest.raises(TypeError) as expected:
        theirs(name="a")
    with pytest.raises(TypeError, match="missing 1 required") as found:
        ours(name="a")
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_object_is_that_of_the_standard_library(options):
    made = []
    for cls in twins(**options):
        first, same, other = cls(x=1, name="a"), cls(x=1, name="a", tags=["t"]), cls(x=1, name="a", wide=True)
        facts = [repr(first), first == same, first == other, first == 1, first != same, first.tags is not same.tags]
        facts += [dataclasses.asdict(dataclasses.replace(first, y=9)), dataclasses.astuple(other)]
        facts += [dataclasses.asdict(copy.copy(same)), dataclasses.asdict(copy.deepcopy(same))]
        facts += [hash(first) == hash(same), hash(first) == hash(other)] if options["eq"] is False else []
        for change in (lambda made=first: setattr(made, "x", 3), lambda made=first: delattr(made, "y")):
            try:
                change()
            except dataclasses.FrozenInstanceError as error:
                facts.append(str(error))
        made.append(facts)
    assert made[0] == made[1]


@records.dataclass(frozen=True, slots=True)
class Frozen:
    """With slots, and a hash."""

    x: int
    y: tuple[int, ...] = ()


@records.dataclass(frozen=True)
class Child(Frozen):
    """Inherits from a frozen one."""

    z: int = 5


@records.dataclass(frozen=True, kw_only=True)
class Holder:
    """With an array, which has no truth."""

    values: Any
    other: Any = None


def test_a_frozen_object_with_slots_is_pickled_and_hashed():
    assert pickle.loads(pickle.dumps(Frozen(3, (4,)))) == Frozen(3, (4,))
    assert {Frozen(3), Frozen(3), Frozen(4)} == {Frozen(4), Frozen(3)}
    match Frozen(1, (2,)):
        case Frozen(x, y):
            assert (x, y) == (1, (2,))


def test_others_inherit_from_it():
    assert Child(1) == Child(1, (), 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Child(1).z = 6  # type: ignore[misc]

    @dataclasses.dataclass(frozen=True)
    class Plain(Frozen):
        z: int = 5

    assert (Plain(1).z, Plain(1) == Frozen(1)) == (5, False)
    with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):
        records.dataclass(type("Open", (Frozen,), {}))


def test_an_attribute_that_is_no_field_is_refused_too():
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'other_name'"):
        Holder(values=1).other_name = 1  # type: ignore[attr-defined]


def test_an_object_that_holds_itself_is_shown():
    items: list[Any] = []
    items.append(Holder(values=items))
    assert repr(items[0]) == "Holder(values=[...], other=None)"


def test_arrays_are_compared_as_tuples_compare_them():
    array = np.arange(3)
    assert Holder(values=array) == Holder(values=array)
    with pytest.raises(ValueError, match="truth value"):
        assert Holder(values=array) == Holder(values=array.copy())
