"""Defaults that have changed: old states are those of the old values, and a refusal says which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from previous import CASES, dataset_of, stored

import mixstream as ms
from mixstream.errors import StateError
from mixstream.loader.run import former_settings, mixing_method
from mixstream.mixers import ADO, ODM, Aioli, MatrixMixer
from mixstream.mixers.settings import former_versions, settings_text

TODAY = {"ado": ("forgetting", "law", "forgetting='ignore'"), "aioli_probing": ("ema", 0.1, "ema=None")}


def test_a_new_field_at_its_former_value_is_not_in_the_settings():
    assert "forgetting" not in settings_text(ADO.reference())
    assert "forgetting='law'" in settings_text(ADO())
    assert settings_text(ODM()) == repr(ODM())


@dataclass(frozen=True, kw_only=True)
class Capped:
    """A mixer of a user's own that holds others."""

    inner: Any
    stages: Mapping[int, Any] = field(default_factory=dict)
    most: float = 0.5

    def init(self, prior_K):
        return self.inner.init(prior_K)

    def update(self, state, feedback):
        return self.inner.update(state, feedback)


def test_former_defaults_are_those_of_options_that_were_not_given():
    former, words = next(former_versions(ADO(s=0.1)))
    assert former == ADO(s=0.1, subsample=10, forgetting="ignore")
    assert words == "ADO(..., subsample=10, forgetting='ignore')"
    assert [words for _, words in former_versions(ADO(subsample=2))] == ["ADO(..., forgetting='ignore')"]
    for mixer in (Aioli(ema=0.5), ADO.reference(), object(), ADO, MatrixMixer()):
        assert not list(former_versions(mixer))
    for mixer in (ADO(), Aioli()):
        for option in fields(mixer):
            assert option.metadata.get("formerly", ...) != option.default


def test_a_default_of_today_may_have_been_typed_then():
    assert ADO(subsample=5, forgetting="ignore") in [former for former, _ in former_versions(ADO())]


def test_mixers_that_a_mixer_holds_have_former_defaults_too():
    nested = Capped(inner=ADO(s=0.1), stages={7: Aioli(), 9: [ADO(s=0.1)]})
    former = Capped(
        inner=ADO(s=0.1, subsample=10, forgetting="ignore"),
        stages={7: Aioli(ema=None), 9: [ADO(s=0.1, subsample=10, forgetting="ignore")]},
    )
    found, words = next(former_versions(nested))
    assert found == former
    assert words == "ADO(..., subsample=10, forgetting='ignore') and Aioli(..., ema=None)"
    assert former_settings(nested, mixing_method(former, in_order=False)).endswith(words)
    assert not former_settings(nested, mixing_method(Capped(inner=ADO(s=0.2)), in_order=False))


def test_many_mixers_in_one_are_gone_through_up_to_a_limit():
    assert len(list(former_versions(Capped(inner=[ADO()] * 40)))) < 2000


@pytest.mark.parametrize("name", TODAY)
def test_a_state_of_former_defaults_is_refused_with_the_words_to_go_on(name):
    option, today, words = TODAY[name]
    case = CASES[name]
    mixer = case.options["mixer"]
    now = type(mixer)(**{f.name: getattr(mixer, f.name) for f in fields(mixer)} | {option: today})
    changed = CASES[name].__class__(**{**vars(case), "options": {**case.options, "mixer": now}})
    with ms.Loader(dataset_of(changed), prefetch=2) as loader:
        before = loader.state_dict()
        with pytest.raises(StateError) as refused:
            loader.load_state_dict(stored(f"states/{name}.json"))
        assert loader.state_dict() == before
    assert str(refused.value).endswith(f"To go on exactly, give {type(mixer).__name__}(..., {words})")


def test_a_state_of_other_settings_is_refused_without_that_advice():
    case = CASES["ado"]
    changed = case.__class__(**{**vars(case), "options": {**case.options, "mixer": ADO(s=0.1)}})
    with ms.Loader(dataset_of(changed), prefetch=2) as loader, pytest.raises(StateError, match="mixing") as refused:
        loader.load_state_dict(stored("states/ado.json"))
    assert "defaults" not in str(refused.value)


def test_the_method_in_a_state_tells_old_from_new_behaviour():
    now, then = (mixing_method(ADO(forgetting=value), in_order=False) for value in ("law", "ignore"))
    assert now != then
