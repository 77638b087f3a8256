"""The training processes: how a failure is reported."""

import pytest

from mixstream.errors import MixstreamError
from mixstream_tools.demo.ranks import run_part
from mixstream_tools.demo.settings import Settings


def test_a_training_that_fails_is_told_with_the_end_of_its_log(tmp_path):
    settings = Settings(out=str(tmp_path), steps=8, seed=0, samples={"a": 1, "b": 1})
    settings.run.mkdir()
    with pytest.raises(MixstreamError, match="ended with status 1") as failure:
        run_part(settings, "before", on_step=lambda step: None)
    assert any("ConfigError" in note for note in failure.value.__notes__)
