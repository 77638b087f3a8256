"""What a forked child begins afresh: every `ProcessLocal`, whatever becomes of its parent's value."""

from __future__ import annotations

import pytest
from children import in_child  # pyright: ignore[reportMissingImports] - conftest.py sets the path

from mixstream.storage.forks import ProcessLocal

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_a_child_has_a_value_of_its_own_and_the_parent_keeps_its():
    requests: ProcessLocal[list[str]] = ProcessLocal(list)
    requests.value.append("parent")

    def child() -> list[str]:
        requests.value.append("child")
        return requests.value

    assert in_child(child) == ["child"]
    assert requests.value == ["parent"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_values_are_replaced_and_closed_even_if_one_cannot_be():
    """Files that a child keeps open would outlive its parent."""
    gone: list[int] = []

    def close_inherited(value: list[int]) -> None:
        gone.extend(value)
        raise OSError("cannot be closed")

    values: list[ProcessLocal[list[int]]] = [ProcessLocal(list, close_inherited) for _ in range(3)]
    for number, each in enumerate(values):
        each.value.append(number)
    assert in_child(lambda: (sorted(gone), [each.value for each in values])) == ([0, 1, 2], [[], [], []])
    assert gone == []
