"""What a state is, what it refuses, and what it keeps of a run that is no longer the same."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import FIRST, SIZES, Tilt, drive, joined, loaders_of, make_dataset, row_ids, streams, write_tokens
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.plan.state import parse_state
from mixstream.plan.state_differences import other_samples

STATIC = ms.mixers.Static({"web": 1, "code": 1, "law": 1})
SCHEDULE = ms.mixers.Schedule({0: {"web": 1, "code": 1, "law": 1}})


def saved(root: Path, steps: int = 10, **kw: Any) -> dict[str, Any]:
    with loaders_of(root, **kw) as loaders:
        drive(loaders, steps)
        return json.loads(json.dumps(loaders[0].state_dict()))


def test_the_document_says_where_the_run_is(library):
    state = saved(library, 30, world=2)
    assert state["mixstream"] == 2
    assert (state["step"], state["epoch"], state["sample_in_epoch"]) == (30, 1, 16)
    assert (state["num_canonical_nodes"], state["shuffle_seed"], state["repeats"]) == (1, 9176, 5)
    assert {domain["name"] for domain in state["domains"]} == set(SIZES)
    assert sum(sum(domain["drawn"]) for domain in state["domains"]) == 219 + 16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shuffle_seed": 1}, r"shuffle_seed: saved 9176, now 1"),
        ({"batch": 16}, r"global_batch_size: saved 8, now 16"),
        ({"lanes": 2}, r"lanes \(num_canonical_nodes\): saved 1, now 2"),
        ({"shuffle": False}, r"shuffle: saved True, now False"),
        ({"shuffle_block_size": 30}, r"shuffle_block_size: saved 4000000, now 30"),
        ({"shuffle_algo": "py1s"}, r"shuffle_block_size: saved 4000000, now 1"),
        ({"epoch_size": 100}, r"epoch_size: saved 219, now 100"),
        ({"drop_last": True}, r"drop_last: saved False, now True"),
        ({"mixer": SCHEDULE}, r"mixing method: saved 'static', now 'Schedule"),
        ({"mixer": Tilt()}, r"mixing method: saved 'static', now 'Tilt"),
        ({"mixer": STATIC}, r"domain 'code': an epoch took 50 samples, now 73"),
        ({"names": ["web", "code"]}, r"domains in the state and not in this run: \['law'\]"),
    ],
)
@pytest.mark.parametrize("face", ["loader", "dataset", "dataloader"])
def test_a_state_of_another_run_is_refused_by_name(library, change, said, face):
    state = saved(library)
    if "names" in change:
        change = {"streams": streams(library, change["names"])}
    with loaders_of(library, **change) as (loader,):
        dataset = loader.dataset
        target = {"loader": loader, "dataset": dataset, "dataloader": None}[face]
        if target is None:
            target = ms.StreamingDataLoader(dataset, batch_size=dataset.batch_size)
        with pytest.raises(StateError, match=said) as refused:
            target.load_state_dict(state)
        assert "strict=False" in str(refused.value)


def test_everything_that_differs_is_named_at_once(library):
    state = saved(library)
    with (
        loaders_of(library, shuffle_seed=1, drop_last=True) as (loader,),
        pytest.raises(StateError, match=r"(?s)shuffle_seed: .*drop_last: "),
    ):
        loader.load_state_dict(state)


def test_a_learning_run_names_its_lag_and_its_mixer(library):
    state = saved(library, mixer=Tilt(), lag=8)
    for change, said in (
        ({"mixer": Tilt(), "lag": 9}, "lag: saved 8, now 9"),
        ({}, "mixing method: saved 'Tilt .*, now"),
    ):
        with loaders_of(library, **change) as (loader,), pytest.raises(StateError, match=said):
            loader.load_state_dict(state)


def test_what_a_mixer_and_its_domains_were_told_is_part_of_the_run(library):
    limited = streams(library, law={"max_epochs": 2})
    with loaders_of(library, streams=limited) as (loader,):
        with pytest.raises(StateError, match=r"domain 'law': max_epochs was None, now 2"):
            loader.load_state_dict(saved(library))
        loader.load_state_dict(saved(library, streams=limited))
    for one, other in ((Tilt(), Tilt(rate=0.5)), (SCHEDULE, ms.mixers.Schedule({0: {"web": 2, "code": 1, "law": 1}}))):
        with loaders_of(library, mixer=one) as (loader,), pytest.raises(StateError, match="mixing method: saved"):
            loader.load_state_dict(saved(library, mixer=other))


def test_the_prior_of_a_learning_mixer_is_part_of_the_run(library):
    weighted = streams(library, **{name: {"proportion": 1} for name in SIZES})
    with (
        loaders_of(library, mixer=Tilt(), streams=weighted) as (loader,),
        pytest.raises(StateError, match=r"domain 'code': an epoch took 50 samples, now 73"),
    ):
        loader.load_state_dict(saved(library, mixer=Tilt()))


def test_a_new_domain_and_other_shards_are_named(library, tmp_path):
    write_tokens(tmp_path / "new", range(9000, 9030))
    write_tokens(tmp_path / "code", range(2000, 2051))
    state = saved(library)
    more = [*streams(library), ms.Stream(remote=str(tmp_path / "new"))]
    other = [*streams(library, ["web", "law"]), ms.Stream(remote=str(tmp_path / "code"))]
    for listed, said in ((more, "domain 'new' is not in the state"), (other, "domain 'code' has other shards")):
        with loaders_of(library, streams=listed) as (loader,), pytest.raises(StateError, match=said):
            loader.load_state_dict(state)


def test_fingerprints_are_shown_as_far_as_they_differ():
    domain, theirs = (
        SimpleNamespace(fingerprint="63d1928741"),
        SimpleNamespace(fingerprint="63d1928751", selection=UNSET),
    )
    assert other_samples(domain, theirs, None)[1] == " has other shards (fingerprint 63d192875, now 63d192874)"


def test_where_a_dataset_lies_and_how_it_is_listed_does_not_matter(library, tmp_path):
    """Fingerprints are of content; a run may move to another machine."""
    for name, size in SIZES.items():
        write_tokens(tmp_path / "elsewhere" / name, range(FIRST[name], FIRST[name] + size))
    with loaders_of(library) as loaders:
        expected = drive(loaders, 28)
    state = saved(library)
    with loaders_of(library, streams=streams(tmp_path / "elsewhere", ["law", "web", "code"])) as (loader,):
        loader.load_state_dict(state)
        assert drive([loader], 18) == expected[10:]


def test_in_order_the_list_matters(library):
    state = saved(library, shuffle=False)
    changed = streams(library, ["law", "web", "code"])
    with (
        loaders_of(library, shuffle=False, streams=changed) as (loader,),
        pytest.raises(StateError, match=r"read in order, and the order was \['web', 'code', 'law'\]"),
    ):
        loader.load_state_dict(state)


def test_after_a_refusal_everything_is_as_it_was(library):
    state = saved(library, shuffle_seed=1)
    with loaders_of(library) as loaders:
        expected = drive(loaders, 56)
    with loaders_of(library) as (loader,):
        drive([loader], 10)
        for bad in (state, {"mixstream": 1}, {}):
            with pytest.raises(StateError):
                loader.load_state_dict(bad)
        assert loader.step == 10
        assert drive([loader], 46) == expected[10:]
    dataset = make_dataset(library)
    loader = DataLoader(dataset, batch_size=8)
    assert [row_ids(batch) for batch in loader] == expected[:28]
    with pytest.raises(StateError):
        dataset.load_state_dict(state)
    assert dataset.next_epoch == 1
    assert [row_ids(batch) for batch in loader] == expected[28:]


# --- strict=False -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.filterwarnings("ignore:the state is of another run")
def test_without_strict_matching_domains_keep_their_place(library, tmp_path, learns):
    """A domain is added and one is dropped: the others' next samples are the ones that they had not seen."""
    write_tokens(tmp_path / "new", range(9000, 9030))
    kw = {"mixer": Tilt(), "lag": 4} if learns else {}
    with loaders_of(library, **kw) as loaders:
        before = joined(drive(loaders, 10))
        state = json.loads(json.dumps(loaders[0].state_dict()))
    changed = [*streams(library, ["code", "web"]), ms.Stream(remote=str(tmp_path / "new"))]
    with loaders_of(library, streams=changed, **kw) as (loader,):
        loader.load_state_dict(state, strict=False)
        assert loader.step == 10
        after = joined(drive([loader], 10))
        assert {number // 1000 for number in after} == {1, 2, 9}
        for first in (FIRST["web"], FIRST["code"]):
            seen, then = ({n for n in rows if n // 1000 == first // 1000} for rows in (before, after))
            assert not seen & then
        again = json.loads(json.dumps(loader.state_dict()))
        rest = drive([loader], 30)
    with loaders_of(library, streams=changed, **kw) as (loader,):  # and such a run is resumed like any other
        loader.load_state_dict(again)
        assert drive([loader], 30) == rest


def test_without_strict_a_domain_with_other_shards_begins_anew(library, tmp_path):
    write_tokens(tmp_path / "code", range(5000, 5051))
    state = saved(library)
    changed = [*streams(library, ["web", "law"]), ms.Stream(remote=str(tmp_path / "code"))]
    with loaders_of(library, streams=changed) as (loader,):
        with pytest.warns(UserWarning, match=r"begin anew(?s:.*)domain 'code' has other shards"):
            loader.load_state_dict(state, strict=False)
        found = {d["name"]: sum(d["drawn"]) for d in loader.state_dict()["domains"]}
    known = {d["name"]: sum(d["drawn"]) for d in state["domains"]}
    assert found == {**known, "code": 0}


def test_without_strict_lanes_must_still_be_the_same(library):
    state = saved(library)
    with loaders_of(library, lanes=2) as (loader,), pytest.raises(StateError, match="pass num_canonical_nodes=1"):
        loader.load_state_dict(state, strict=False)


# --- damaged and foreign ----------------------------------------------------------------------------------------------

MOSAIC = {
    "epoch": 0,
    "sample_in_epoch": 640,
    "num_canonical_nodes": 1,
    "shuffle_seed": 9176,
    "initial_physical_nodes": 1,
}


@pytest.mark.parametrize("state", [{}, {"mixstream": 1}, {"mixstream": "2"}, {"model": {}}])
@pytest.mark.parametrize("strict", [True, False])
def test_foreign_states_are_refused(library, state, strict):
    dataset = make_dataset(library)
    with ms.Loader(dataset) as loader:
        for target in (dataset, loader, ms.StreamingDataLoader(make_dataset(library), batch_size=8)):
            with pytest.raises(StateError, match="not a state of mixstream's version 2"):
                target.load_state_dict(state, strict=strict)


@pytest.mark.parametrize("state", [MOSAIC, {key: MOSAIC[key] for key in MOSAIC if key != "initial_physical_nodes"}])
def test_a_state_of_mosaicml_streaming_is_known_and_the_way_out_named(library, state):
    said = r"a state of mosaicml-streaming.*Trainer\(load_ignore_keys=\['state/dataset_state'\]\)"
    for target in (make_dataset(library), ms.StreamingDataLoader(make_dataset(library), batch_size=8)):
        with pytest.raises(StateError, match=said):
            target.load_state_dict(state)  # it has more samples than an epoch here
        with pytest.raises(StateError, match=r'a state of mosaicml-streaming within epoch 0.*order="mosaic"'):
            target.load_state_dict({**state, "sample_in_epoch": 64})
    with pytest.raises(
        StateError, match=r"mosaicml-streaming: load checkpoint\['state'\].*order=\"mosaic\""
    ):  # as Composer keeps it
        make_dataset(library).load_state_dict({"state": {"dataset_state": {"train": state, "eval": {}}}, 0: None})
    with pytest.raises(StateError) as other:
        make_dataset(library).load_state_dict({"mixstream": 1, **state})
    assert "load_ignore_keys" not in str(other.value)
    nested = {"state": {"dataset_state": {"train": make_dataset(library).state_dict()}}}
    with pytest.raises(StateError, match=r"load checkpoint\['state'\]\['dataset_state'\]\['train'\]"):
        make_dataset(library).load_state_dict(nested)


def parts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, item in inner for deeper in parts(item, (*path, key)))]


def replaced(state: Any, path: tuple[Any, ...], by: Any) -> Any:
    state = copy.deepcopy(state)
    at = state
    for key in path[:-1]:
        at = at[key]
    if by is REMOVED:
        del at[path[-1]]
    else:
        at[path[-1]] = by
    return state


REMOVED = object()


_states: dict[bool, Any] = {}


@pytest.mark.parametrize("learns", [False, True])
@given(data=st.data())
def test_a_damaged_state_is_refused_or_harmless(library, learns, data):
    """Whatever is lost or changed in the document: a StateError, or a run that goes on; never another exception."""
    kw = {"mixer": Tilt(), "lag": 4} if learns else {}
    if learns not in _states:
        _states[learns] = saved(library, **kw)
    state = _states[learns]
    known = [path for path in parts(state) if path and path[:2] != ("mixing", "state")]  # that is the mixer's own
    path = data.draw(st.sampled_from(known))
    by = data.draw(st.sampled_from([REMOVED, None, "x", -1, 2**40, 1.5, [], {}, [1, 2, 3]]))
    damaged = replaced(state, path, by)
    with loaders_of(library, prefetch=0, **kw) as (loader,), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loader.load_state_dict(damaged)
        except StateError:
            return
        drive([loader], 3)


@pytest.mark.parametrize(
    ("path", "by"),
    [
        (("step",), -1),
        (("epoch",), -1),
        (("sample_in_epoch",), -8),
        (("sample_in_epoch",), 3),
        (("sample_in_epoch",), 10**6),
        (("total",), []),
        (("total",), [0]),
        (("domains", 0, "base"), [1, 2]),
        (("domains", 0, "credit"), []),
        (("domains", 0, "credit"), [5]),  # those of a lane sum to 0
        (("domains", 0, "drawn"), [-4]),
        (("domains", 0), REMOVED),
        (("domains",), []),
        (("settings",), REMOVED),
        (("settings", "mixer"), REMOVED),
    ],
)
def test_a_position_that_cannot_be_is_refused(library, path, by):
    with loaders_of(library) as (loader,), pytest.raises(StateError):
        loader.load_state_dict(replaced(saved(library), path, by))


@pytest.mark.parametrize(
    ("path", "by"),
    [
        (("mixing",), None),
        (("mixing",), {}),
        (("mixing", "state"), REMOVED),
        (("mixing", "reported"), "many"),
        (("mixing", "log"), REMOVED),
        (("mixing", "log", 0), [3]),
    ],
)
def test_a_learning_run_does_not_go_on_without_what_it_learned(library, path, by):
    kw = {"mixer": Tilt(), "lag": 4}
    with loaders_of(library, **kw) as (loader,), pytest.raises(StateError):
        loader.load_state_dict(replaced(saved(library, **kw), path, by))


def test_a_dataset_alone_cannot_save_what_a_mixer_learned(library):
    with pytest.raises(ConfigError, match=r"Tilt learns from losses.*loader\.state_dict\(\)"):
        make_dataset(library, mixer=Tilt()).state_dict(0)


@pytest.mark.parametrize("state", [None, [], {}, "step", b"7"])
def test_what_is_no_dict_is_not_taken_for_a_state_of_another_version(state):
    with pytest.raises(StateError, match="not a state of mixstream's version 2: a state is the dict") as refused:
        parse_state(state)
    assert ("json.loads" in str(refused.value)) == isinstance(state, (str, bytes))
