"""Fixtures of all tests. Helpers that tests of `mixstream` share are in `mixstream/harness.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.append(str(Path(__file__).parent / "mixstream"))  # so that tests, and the workers they spawn, find the harness

from harness import write_library  # pyright: ignore[reportMissingImports] - the path is set above

# A gate is no lottery: the same examples each time. HYPOTHESIS_PROFILE=explore looks for new ones.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests decide for themselves what world they run in."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of three small domains, `harness.SIZES`; read only."""
    return write_library(tmp_path_factory.mktemp("library"))
