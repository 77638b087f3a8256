"""The order of `streams` decides what `batch.domain` counts, and nothing else; shares hold over epochs.

The runs are those of `previous.py`: three domains, of which a row's identity names its domain.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import Any

import pytest
from previous import (
    ADO,
    AIOLI,
    CASES,
    GRAPH,
    SHARES,
    Case,
    begun,
    dataset_of,
    learning,
    quietly,
    resumed,
    stored,
    train,
)

import mixstream as ms
from mixstream.errors import StateError

mixers = ms.mixers
ORDERS = [("law", "web", "code"), ("code", "law", "web")]
ODD = {"web": {"proportion": 0.123}, "code": {"proportion": 0.5003}, "law": {"proportion": 0.2}}
LIMITED = {
    "web": {"proportion": 0.4, "max_epochs": 1},
    "code": {"proportion": 0.31},
    "law": {"proportion": 0.3, "max_epochs": 0.5},
}

FORMS: dict[str, Case] = {
    "whole": Case(),
    "epoch size": Case(options={"epoch_size": 50}),
    "stratified batches": Case(options={"batching_method": "stratified", "shuffle": False}),
    "proportion": Case(each=ODD, options={"epoch_size": 50}),
    "proportion, lanes": Case(each=ODD, options={"epoch_size": 50, "num_canonical_nodes": 4}),
    "proportion, no epoch size": Case(each=ODD, options={"drop_last": True}),
    "equal": Case(each={name: {"proportion": 1} for name in SHARES}, options={"epoch_size": 50}),
    "limited": Case(each=LIMITED, options={"epoch_size": 51}),
    "choose": Case(
        each={"web": {"choose": 7}, "code": {"choose": 9}, "law": {"choose": 11}}, options={"num_canonical_nodes": 4}
    ),
    "choose and repeat": Case(each={"web": {"choose": 7}, "code": {"repeat": 1.3}}, options={"num_canonical_nodes": 2}),
    **{
        f"{type(mixer).__name__} {size}": Case(options={"mixer": mixer, **({"epoch_size": size} if size else {})})
        for size in (None, 50)
        for mixer in (
            mixers.Static({"web": 0.2, "law": 0.1234, "code": 0.7}),
            mixers.Stratified(),
            mixers.Natural(),
            mixers.Temperature(3.3),
            mixers.UniMax(budget=400, max_epochs=2),
        )
    },
    "schedule": CASES["schedule"],
    "quarantine": CASES["quarantine"],
    "prior": learning(ADO, each=ODD, options={"mixer": ADO, "lag": 2, "epoch_size": 50}),
    "ado": CASES["ado"],
    "aioli": CASES["aioli_waiting"],
    "aioli, measured": learning(AIOLI, evaluates="evaluate", before=7, after=9),
    "odm": CASES["odm"],
    "doremi": CASES["doremi"],
    "matrix": CASES["matrix"],
    "doge": CASES["doge"],
    "skill_it": CASES["skill_it"],
}


def rows(steps: list[Any]) -> list[list[int]]:
    return [step["rows"] for step in steps]


@pytest.mark.parametrize("form", FORMS)
def test_streams_in_another_order_draw_the_same_rows_and_go_on_from_each_other_s_states(form):
    case = FORMS[form]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*state is taken after step")
        steps, state = begun(case)
        after = rows(resumed(case, state)[0])
        for names in ORDERS:
            other = replace(case, names=names)
            theirs, their_state = begun(other)
            assert rows(theirs) == rows(steps)
            assert json.dumps(their_state) == json.dumps(state)
            assert rows(resumed(other, state)[0]) == rows(resumed(case, their_state)[0]) == after
    assert all(step["domain"] == [row // 1000 - 1 for row in step["rows"]] for step in steps)


@pytest.mark.parametrize("kind", ["schedule", "lmo", "skill_it"])
def test_the_order_in_which_settings_list_domains_does_not_count(kind):
    def mixer(names: list[str]) -> Any:
        if kind == "schedule":
            return mixers.Schedule({0: {name: {"web": 3.0, "code": 2.0, "law": 1.0}[name] for name in names}})
        if kind == "skill_it":
            return mixers.SkillIt(graph={name: GRAPH[name] for name in names}, round_steps=4)
        return mixers.MatrixMixer(lmo=mixers.LMO(targets={name: len(name) for name in names}))

    options = {"lag": 2} if kind != "schedule" else {}
    found = [
        Case(options={"mixer": mixer(order), **options}) for order in (["web", "code", "law"], ["law", "web", "code"])
    ]
    methods = [dataset_of(case).run.run_plan.mixer for case in found]
    assert methods[0] == methods[1]


def test_a_state_with_the_settings_as_they_were_listed_goes_on():
    """The digest of settings once depended on their order; such a state is of the run that it was of."""
    case = CASES["schedule"]
    state = stored("states/schedule.json")
    assert state["settings"]["mixer"] != begun(case)[1]["settings"]["mixer"]
    with quietly(), ms.Loader(dataset_of(case)) as loader:
        loader.load_state_dict(state)
        assert loader.state_dict() == state


def test_other_shares_are_refused_although_an_epoch_rounds_them_to_the_same_rows():
    _, state = begun(FORMS["proportion"])
    other = {**ODD, "law": {"proportion": 0.201}}
    dataset = dataset_of(replace(FORMS["proportion"], each=other))
    with pytest.raises(StateError, match=r"domain 'law': its share of the rows was 24\.29\d+%, now 24\.38\d+%"):
        dataset.load_state_dict(state)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_domain_that_is_due_less_than_a_row_per_epoch_is_read(lanes):
    each = {"web": {"proportion": 0.5}, "code": {"proportion": 0.49}, "law": {"proportion": 0.01}}
    case = Case(each=each, options={"epoch_size": 16, "num_canonical_nodes": lanes})
    with ms.Loader(dataset_of(case)) as loader:
        drawn = [row // 1000 for step in train(loader, case, 150) for row in step["rows"]]
    due = {1: 600, 2: 588, 3: 12}
    assert all(abs(drawn.count(number) - rows) < 2 for number, rows in due.items())


def test_the_prior_of_a_learning_mixer_is_not_rounded():
    case = learning(ADO, each=ODD, options={"mixer": ADO, "lag": 2, "epoch_size": 8})
    total = 0.123 + 0.5003 + 0.2
    assert dataset_of(case).run.run_plan.prior_K.tolist() == pytest.approx([0.5003 / total, 0.2 / total, 0.123 / total])


def test_a_repeat_of_less_than_a_sample_is_warned_of():
    with pytest.warns(UserWarning, match=r"'law' is never read: repeat=0.01 of its 1\d samples is less than one"):
        dataset_of(Case(each={"law": {"repeat": 0.01}}))
