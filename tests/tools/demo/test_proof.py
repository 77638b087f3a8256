"""The demo's proof can fail, and its picture and table say what was learned and no more."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mixstream as ms
from mixstream.errors import StateError
from mixstream.feedback.replay import read_log
from mixstream_examples import train as example
from mixstream_tools.demo.learned import Learned, read_learned
from mixstream_tools.demo.proof import compare, history, read_uninterrupted
from mixstream_tools.demo.settings import ROWS, Settings
from mixstream_tools.demo.step_log import Step, row_hashes

STEPS, RESUMED, KILLED = 100, 50, 80


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


# --- comparing --------------------------------------------------------------------------------------------------------


def made_run() -> tuple[dict[str, list[tuple[str, ...]]], list[Step], list[Step]]:
    """Ten steps, killed after the 6th, resumed from the 4th."""
    rows = [made_step(step).rows for step in range(10)]
    references = {"before": rows[:6], "after": list(rows), "replayed": list(rows)}
    return references, [made_step(step) for step in range(6)], [made_step(step) for step in range(4, 10)]


def proof_of(references, before, after, *, weights=None):
    weights_TK = np.ones((10, 2), dtype=np.int64)
    return compare(references, before, after, weights=weights or (weights_TK, weights_TK.copy()))


def test_proof_of_an_equal_run():
    proof = proof_of(*made_run())
    assert proof.equal
    assert (proof.compared, proof.again) == (12, (4, 5))


@pytest.mark.parametrize("rows", [("4b", "4a"), ("4a",), ("4a", "4b", "4c"), ("5a", "5b")])
@pytest.mark.parametrize("part", ["before", "after"])
def test_proof_fails_on_any_other_row_or_order(rows, part):
    references, before, after = made_run()
    (before if part == "before" else after)[4 if part == "before" else 0] = made_step(4, rows=rows)
    proof = proof_of(references, before, after)
    assert not proof.equal
    assert proof.differing == (("before", 4),) if part == "before" else (("after", 4), ("replayed", 4))


def test_each_part_is_held_against_its_own_reference():
    """What was undone may have had other losses, and so other batches, than what came in its place."""
    references, before, after = made_run()
    references["before"][5] = ("x",)
    before[5] = made_step(5, rows=("x",))
    assert proof_of(references, before, after).equal
    references["replayed"][7] = ("x",)
    assert proof_of(references, before, after).differing == (("replayed", 7),)


@pytest.mark.parametrize("theirs", [np.full((10, 2), 2), np.ones((9, 2), np.int64), np.ones((11, 2), np.int64)])
def test_proof_fails_on_other_weights(theirs):
    proof = proof_of(*made_run(), weights=(np.ones((10, 2), dtype=np.int64), theirs))
    assert not proof.equal
    assert len(proof.weights_differing) == (10 if len(theirs) == 10 else 1)


def test_proof_fails_on_steps_that_are_left_out_or_doubled():
    references, before, after = made_run()
    assert proof_of(references, before, after[1:]).equal  # from step 5, which `before` has
    assert proof_of(references, before, after[3:]).not_once == (6,)
    assert proof_of(references, before, after[:-1]).not_once == (9,)
    assert proof_of(references, before, [*after, after[-1]]).not_once == (9,)
    assert not proof_of(references, [], []).equal


def test_history_is_what_the_last_model_was_trained_on():
    _, before, after = made_run()
    other = [replace(step, waited=9.0) for step in after]
    assert [(step.step, step.waited) for step in history(before, other)] == [
        (step, 0.5 if step < 4 else 9.0) for step in range(10)
    ]


# --- references that learn --------------------------------------------------------------------------------------------


def a_loss(step: int, domain: int, lineage: int) -> float:
    """A power law of its own for each domain, which ADO can tell apart; other ones after the resume."""
    return 1.0 + 4.0 * (step + 1) ** -(0.2 + 0.3 * domain + 0.1 * lineage * (1 - domain))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[Step], list[Step]]:
    """A run over two domains with losses that are made up: its steps up to a kill, and those after the resume.

    More is undone than the lag has steps, so that some batches were drawn by losses that count no more.
    """
    root, samples = tmp_path_factory.mktemp("run"), {"code": 400, "prose": 200}
    settings = Settings(out=str(root), steps=STEPS, seed=3, samples=samples)
    for first, (name, rows) in enumerate(samples.items()):
        with ms.MDSWriter(columns={"tokens": "ndarray:uint16:4"}, out=str(settings.shards / name / "train")) as writer:
            for row in range(rows):
                writer.write({"tokens": np.array([first, row, 0, 0], np.uint16)})
    before, checkpoint = _train(settings, None, end=KILLED, lineage=0)
    after, last = _train(settings, checkpoint, end=STEPS, lineage=1)
    torch.save({"data": last}, settings.checkpoint)
    return settings, before, after


def _train(settings: Settings, state: Any, *, end: int, lineage: int) -> tuple[list[Step], Any]:
    """Return the steps up to `end`, and the state after step RESUMED or at the end."""
    steps: list[Step] = []
    with example.open_loader(
        settings.shards, rows=ROWS, seed=3, mixer=settings.mixer(), log=settings.run, state=state
    ) as loader:
        while loader.step < end:
            for batch in loader:
                loss = torch.tensor([a_loss(batch.step, domain, lineage) for domain in batch.domain.tolist()])
                loader.report(batch, loss)
                sums, counts = ms.domain_sums(loss, batch.domain, 2)
                told = {"loss_sum_K": tuple(sums.tolist()), "count_K": tuple(counts.tolist())}
                steps.append(made_step(batch.step, rows=tuple(row_hashes(batch)), **told))
                if loader.step in (RESUMED, STEPS):
                    state = loader.state_dict()
                if loader.step == end:
                    break
    return steps, state


def test_loaders_told_the_same_losses_come_to_the_same_weights_and_rows(run, tmp_path):
    settings, before, after = run
    whole = history(before, after)
    references = {
        "before": read_uninterrupted(settings, before, steps=KILLED),
        "after": read_uninterrupted(settings, whole, steps=STEPS, log=tmp_path),
        "replayed": read_uninterrupted(settings, (), steps=STEPS, mixer=ms.replay(settings.run)),
    }
    ours_TK, theirs_TK = (read_log(log).weights_TK for log in (settings.run, tmp_path))
    proof = compare(references, before, after, weights=(ours_TK, theirs_TK))
    assert proof.equal
    assert proof.again == tuple(range(RESUMED, KILLED))
    assert len(np.unique(ours_TK, axis=0)) > 10  # they did move
    # The undone steps are those of the history that they were in: other losses, other batches.
    undone = [step for step in before if list(step.rows) != list(references["after"][step.step])]
    assert undone
    assert min(step.step for step in undone) > RESUMED + 16


def test_a_loader_told_other_losses_comes_to_other_rows(run):
    settings, _, after = run
    whole = history(*run[1:])
    other = [replace(step, loss_sum_K=step.loss_sum_K[::-1], count_K=step.count_K[::-1]) for step in whole]
    for told in (other, (), after):
        found = read_uninterrupted(settings, told, steps=STEPS)
        same = [tuple(rows) == step.rows for rows, step in zip(found, whole)]
        assert all(same[:17])  # no loss reaches further than the lag lets it
        assert not all(same)


# --- what was learned -------------------------------------------------------------------------------------------------


def test_laws_and_weights_are_those_of_the_checkpoint_and_the_log(run):
    settings, _, _ = run
    learned = read_learned(settings)
    assert learned.weights_TK.shape == (STEPS, 2)
    assert learned.weights_TK[0] == pytest.approx([2 / 3, 1 / 3])
    assert learned.changed_at is not None
    assert learned.changed_at > settings.mixer().start_step + 16
    for k in range(2):
        law = learned.law(k)
        assert law is not None
        assert learned.loss_at(k, np.array([64.0]))[0] == pytest.approx(law.eps + law.beta * 64.0**-law.alpha)
        # The curves have a kink where the run was resumed: a law is near its points, and nearer than the other's.
        own, other = (
            np.nanmedian(np.abs(learned.loss_at(at, learned.n_PK[:, k]) / learned.loss_PK[:, k] - 1))
            for at in (k, 1 - k)
        )
        assert own < 0.1
        assert own < 0.6 * other


def test_a_checkpoint_of_something_else_is_refused(run, tmp_path):
    settings, _, _ = run
    other = replace(settings, out=str(tmp_path))
    other.run.mkdir()
    torch.save({"data": {"epoch": 0}}, other.checkpoint)
    with pytest.raises(StateError):
        read_learned(other)


# --- picture ----------------------------------------------------------------------------------------------------------


def learned_of(points: int, laws: int) -> Learned:
    """Of ten steps: so many points for each of two domains, and laws for the first so many."""
    theta_K3 = np.full((2, 3), np.nan)
    theta_K3[:laws] = (1.0, math.log(0.01), 0.2)
    n_PK = np.linspace(100, 900, points)[:, None] * np.ones(2)
    return Learned(
        weights_TK=np.full((10, 2), 0.5),
        theta_K3=theta_K3,
        n_PK=n_PK,
        loss_PK=3 * n_PK**-0.2,
        own_rows=False,
        log_eps_min=math.log(0.01),
    )


def test_a_law_says_whether_its_limit_was_reached_or_there_is_none():
    learned = learned_of(5, 1)
    law = learned.law(0)
    assert law is not None
    assert law.bounded
    assert learned.law(1) is None
    assert learned.changed_at is None


@pytest.mark.parametrize(("points", "laws"), [(0, 0), (1, 0), (5, 0), (5, 1), (5, 2)])
def test_picture_is_drawn_for_a_run_of_any_length(tmp_path, points, laws):
    pytest.importorskip("matplotlib")
    from mixstream_tools.demo.picture import draw

    _, before, after = made_run()
    file: Path = draw(
        ["code", "prose"], before, after, learned_of(points, laws), processes=2, file=tmp_path / "demo.svg"
    )
    told = file.read_text()
    assert [f"{name} $" in told for name in ("code", "prose")] == [laws > 0, laws > 1]
    assert [f"{name} no law" in told for name in ("code", "prose")] == [
        points > 0 and laws < 1,
        points > 0 and laws < 2,
    ]
    assert ("too short for points" in told) == (points == 0)
