"""The schedule of a demo: when it saves, when it dies, how ADO is scaled."""

import pytest

from mixstream_tools.demo.settings import Settings


@pytest.mark.parametrize("steps", [8, 9, 12, 16, 31, 100, 300, 1000])
def test_the_kill_comes_after_a_checkpoint_and_before_the_next(steps):
    settings = Settings(out="out", steps=steps, seed=0, samples={"a": 3, "b": 1})
    assert 0 < settings.resume_from < settings.kill_after < steps
    assert settings.resume_from % settings.save_every == 0
    assert settings.kill_after <= settings.resume_from + settings.save_every


@pytest.mark.parametrize("steps", [8, 9, 12, 16, 31, 100, 240, 1000, 100_000])
def test_ado_is_scaled_to_the_run(steps):
    mixer = Settings(out="out", steps=steps, seed=0, samples={"a": 3, "b": 1}).mixer()
    assert mixer.ignore_steps <= mixer.start_step <= steps // 5
    assert mixer.window <= max(5, steps // 10 + 1)
    points = (steps // 5 - mixer.ignore_steps) / mixer.subsample
    assert points >= mixer.min_points or steps < 240  # the first fit of a long run has enough
    assert 10 < steps / mixer.update_interval < 25 or steps < 100
