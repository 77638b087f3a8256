"""The picture of a run has its numbers in it."""

from __future__ import annotations

import pytest
from harness import drive, loaders_of, streams

import mixstream as ms


def test_domains_position_and_waiting_are_shown(library):
    with loaders_of(library, world=2, lanes=4) as loaders:
        drive(loaders, 10)
        text = loaders[1].describe()
    assert "step 10: epoch 0, 10 of 28 steps" in text
    assert "8 rows = 4 lane(s) x 2; rank 1 of 2 takes rows 4 to 7" in text
    assert "10 batches handed out" in text
    (web,) = (line.split() for line in text.splitlines() if line.strip().startswith("web"))
    assert web[:3] == ["web", "150", "150"]
    assert abs(int(web[3]) - 80 * 150 / 219) < 8


@pytest.mark.filterwarnings("ignore:domain .* has been read")
def test_what_has_left_and_what_was_repeated_is_said(library):
    limited = streams(library, law={"max_epochs": 1})
    with loaders_of(library, streams=limited) as (loader,):
        assert "repeats" not in loader.describe()
        drive([loader], 30)
        text = loader.describe()
    assert [line.split()[0] for line in text.splitlines() if "left the mix" in line] == ["law"]
    with loaders_of(library) as (loader,):
        drive([loader], 28)
        assert "5 rows so far only filled up the last batch of an epoch" in loader.describe()


def test_the_mixer_is_named(library):
    schedule = ms.mixers.Schedule({0: {"web": 1, "code": 1, "law": 1}})
    with loaders_of(library, mixer=schedule) as (loader,):
        assert loader.describe().splitlines()[0].split() == ["mixer", "Schedule"]
        shown = loader.describe()
        assert "weight now" in shown
        assert shown.count("33.3%") == 3
        assert "Loader([web, code, law], batch_size=8, step=0" in repr(loader)
