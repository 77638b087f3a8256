"""Artefacts while they are written: by one process alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from children import in_child

from mixstream.errors import ForkedError
from mixstream.selection.staging import StagedFiles

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*use of fork.. may lead to deadlocks", "ignore:.*fork:DeprecationWarning"
)


def test_a_forked_child_publishes_and_removes_nothing_of_its_parent(tmp_path):
    with StagedFiles(tmp_path / "web") as staged:
        np.save(staged.directory / "rows.npy", np.arange(3))

        def use() -> list[str]:
            said: list[str] = []
            calls: list[Any] = [lambda: staged.publish({"rows.npy"}, manifest=b"{}"), staged.check]
            for call in [*calls, lambda: staged.add({"rows.npy"}, manifest=b"{}")]:
                try:
                    call()
                except ForkedError as error:
                    said.append(str(error))
            staged.close()
            return said

        said = in_child(use)
        assert [f"the writer of {tmp_path / 'web'} belongs to process" in text for text in said] == [True] * 3
        staged.publish({"rows.npy"}, manifest=b"{}")
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == ["manifest.json", "rows.npy"]
