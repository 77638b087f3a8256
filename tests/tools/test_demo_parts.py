"""The demo's parts one by one: journals that a kill cuts short, a view, text that may be missing."""

import json
from dataclasses import replace

import numpy as np
import pytest

import mixstream as ms
from mixstream.errors import ConfigError, MixstreamError
from mixstream_tools.demo import text as demo_text
from mixstream_tools.demo.journal import Journal, Step, row_hashes
from mixstream_tools.demo.ranks import run_part
from mixstream_tools.demo.settings import Settings
from mixstream_tools.demo.show import View, losses_K, shares_K
from mixstream_tools.demo.text import Domain, gather


def made_step(step: int, **changes) -> Step:
    made = Step(
        step=step,
        rows=(f"{step}a", f"{step}b"),
        rows_K=(3, 1),
        loss_sum_K=(6.0, 5.0),
        count_K=(3.0, 1.0),
        waited=0.5,
        at=100.0 + step,
    )
    return replace(made, **changes)


# --- journals ---------------------------------------------------------------------------------------------------------


def line(step: int, rank: int) -> str:
    told = {"step": step, "rows": [f"{step}-{rank}"], "rows_K": [1, 0], "loss_sum_K": [2.0, 0.0], "count_K": [4.0, 0.0]}
    return json.dumps({**told, "waited": float(rank), "at": 10.0 * rank}) + "\n"


def test_journals_join_ranks_in_order_and_wait_for_the_slowest(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    journal = Journal(files=[first, second])
    assert list(journal.poll()) == []
    first.write_text(line(0, 0) + line(1, 0))
    assert list(journal.poll()) == []
    second.write_text(line(0, 1) + line(1, 1)[:20])  # written in the middle of a line
    (step,) = journal.poll()
    assert (step.step, step.rows, step.rows_K, step.loss_sum_K) == (0, ("0-0", "0-1"), (2, 0), (4.0, 0.0))
    assert (step.waited, step.at) == (1.0, 10.0)
    second.write_text(line(0, 1) + line(1, 1))
    assert [step.rows for step in journal.poll()] == [("1-0", "1-1")]
    assert [step.step for step in journal.steps] == [0, 1]


def test_row_hashes_tell_tokens_and_domains_apart(tmp_path):
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16:4"}, out=str(tmp_path)) as writer:
        for value in (1, 1, 2):
            writer.write({"tokens": np.full(4, value, np.uint16)})
    batch = next(iter(ms.Loader(ms.StreamingDataset(local=str(tmp_path), batch_size=3))))
    hashes = row_hashes(batch)
    assert hashes[0] == hashes[1] != hashes[2]
    batch.domain = np.array([0, 1, 0])
    assert row_hashes(batch)[0] == hashes[0] != row_hashes(batch)[1]


# --- settings and processes -------------------------------------------------------------------------------------------


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


def test_a_training_that_fails_is_told_with_the_end_of_its_log(tmp_path):
    settings = Settings(out=str(tmp_path), steps=8, seed=0, samples={"a": 1, "b": 1})
    settings.run.mkdir()
    with pytest.raises(MixstreamError, match="ended with status 1") as failure:
        run_part(settings, "before", on_step=lambda step: None)
    assert any("ConfigError" in note for note in failure.value.__notes__)


# --- view -------------------------------------------------------------------------------------------------------------


def test_shares_and_losses_are_means_over_rows_and_bytes():
    steps = [made_step(0), made_step(1, rows_K=(1, 3), loss_sum_K=(1.0, 0.0), count_K=(1.0, 0.0))]
    assert shares_K(steps).tolist() == [0.5, 0.5]
    assert losses_K(steps).tolist() == [7 / 4, 5.0]
    assert np.isnan(losses_K(steps[1:])[1])


def test_view_writes_plain_lines_where_there_is_no_terminal(capsys):
    view = View(names=["code", "prose"], steps=40, last=30, earlier=[made_step(step) for step in range(10)])
    with view.shown():
        for step in range(10, 30):
            view.add(made_step(step))
    told = capsys.readouterr().err.splitlines()
    assert [int(text.split()[1]) for text in told] == [12, 16, 20, 24, 28, 30]
    assert "code 75% 2.00 | prose 25% 5.00" in told[-1]


def test_view_draws_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    view = View(names=["code", "prose"], steps=4, last=2)
    with view.shown():
        view.add(made_step(0))
        view.add(made_step(1, count_K=(3.0, 0.0), rows_K=(4, 0)))
    told = capsys.readouterr().err
    assert "step 2 of 4" in told
    assert "prose" in told


# --- text -------------------------------------------------------------------------------------------------------------


def domain(name: str, texts: list[str], limit: int = 1 << 20) -> Domain:
    return Domain(name=name, about="made up", limit=limit, documents=lambda: texts)


def test_text_is_limited_and_each_document_taken_once(tmp_path, monkeypatch):
    texts = ["a" * 70_000, "a" * 70_000, "half of a pair \ud800", "  \n", "x" * (1 << 20), "b" * 20_000, "c" * 20_000]
    monkeypatch.setattr(demo_text, "DOMAINS", (domain("one", texts, limit=100_000), domain("two", ["d" * 70_000])))
    found = gather(tmp_path)
    taken = [json.loads(row)["text"][0] for row in found.files["one"].read_text().splitlines()]
    assert taken == ["a", "b"]


def test_domains_with_too_little_text_are_left_out_with_a_word(tmp_path, monkeypatch):
    several = (domain("one", ["a" * 70_000]), domain("two", ["b" * 70_000]), domain("none", []))
    monkeypatch.setattr(demo_text, "DOMAINS", several)
    found = gather(tmp_path)
    assert list(found.files) == ["one", "two"]
    assert "0 KB here" in found.left_out["none"]


def test_one_domain_is_no_mixture(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_text, "DOMAINS", (domain("one", ["a" * 70_000]), domain("none", [])))
    with pytest.raises(ConfigError, match="1 can be found here") as failure:
        gather(tmp_path)
    assert any("none" in note for note in failure.value.__notes__)
