"""The mixing log that most tests of this folder write."""

from __future__ import annotations

import pytest
from mixing_logs import NAMES  # pyright: ignore[reportMissingImports]

from mixstream.feedback.log import MixingLog


@pytest.fixture
def log(tmp_path):
    with MixingLog(tmp_path / "run", names=NAMES, tensorboard=False) as log:
        yield log
