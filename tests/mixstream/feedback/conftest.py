"""The mixing log that most tests of this folder write."""

from __future__ import annotations

import pytest
from mixing_logs import open_log  # pyright: ignore[reportMissingImports]


@pytest.fixture
def log(tmp_path):
    with open_log(tmp_path / "run") as log:
        yield log
