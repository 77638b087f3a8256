"""Odd values of arguments are refused by the argument's name, or mean what they say: one table of callables."""

from __future__ import annotations

import errno
import inspect
import re
import warnings

import numpy as np
import pytest
from harness import streams
from odd_calls import LESS, ODD, SLOW, calls

import mixstream as ms
from mixstream import losses, mixers
from mixstream.errors import MixstreamError

SHARES = 6
NAMES_ANOTHER_WAY = {("Stream", "split_by")}  # the error of the scores that are not there
NOT_TRIED = {
    "Feedback": "what a loader gives a mixer",
    "LoaderStats": "what Loader.stats returns",
    "labelled": "its arguments are those of Loader.report",
    "Batch": "a dict of anything",
    "ValidationSet": "made by its `open`",
    "Loader.restore_state": "another name of load_state_dict",
    "Loader.save_state": "another name of state_dict",
    "Batch.of_rows": "what loaders call, with columns that they made",
    "Batch.update": "that of dict",
}
"""Public names that have no call in the table, and why."""
TOGETHER = ("rank", "world_size", "nodes")  # none of them means anything alone
OF_WRITERS = ("keep_local", "compression", "hashes", "size_limit")
ARGUMENTS_NOT_TRIED = {
    "Loader.validation": {"options"},  # those of ValidationSet.open
    "StreamingDataset.get_item": {"retry"},  # is not used
    "Batch.to": {"non_blocking"},  # torch's
    "ValidationSet.open": {"dataset", "collate_fn", "split", "streams"},
    **{
        key: {"out", *OF_WRITERS} for key in ("JSONWriter", "CSVWriter", "TSVWriter", "XSVWriter")
    },  # those of MDSWriter
}


@pytest.fixture(scope="module")
def table(library, tmp_path_factory):
    return calls(library, tmp_path_factory.mktemp("odd"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Odd paths are relative."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("share", range(SHARES))
def test_odd_values_are_refused_by_name(table, share):
    found = []
    for name in [*table][share::SHARES]:
        call = table[name]
        call.made(**call.given)
        for argument in call.arguments:
            for label, value in ODD.items():
                if label in call.without.get(argument, ()) or (name in SLOW and label not in LESS):
                    continue
                if (wrong := fault_of(name, call, argument, value)) is not None:
                    found.append((name, argument, label, wrong))
    assert not found


def fault_of(name, call, argument, value):
    """Return what is wrong with how the call takes the value; None if nothing is."""
    try:
        call.made(**{**call.given, argument: value})
    except call.also as error:
        return None if len(str(error)) <= 700 else "a long message"
    except MixstreamError as error:
        named = re.search(call.says.get(argument, argument), str(error)) or (name, argument) in NAMES_ANOTHER_WAY
        return None if named and len(str(error)) <= 700 else str(error)[:200]
    except OSError as error:  # of a path that no file system has
        return None if error.errno == errno.ENAMETOOLONG else repr(error)[:200]
    except Exception as error:
        return repr(error)[:200]
    return None


def test_more_samples_than_an_epoch_has_are_refused(library):
    """At once: a state is not walked to."""
    dataset = ms.StreamingDataset(streams=streams(library), batch_size=8)
    whole = 8 * 28  # of 219 rows
    assert dataset.state_dict(num_samples=whole)["epoch"] == 1
    for many in (whole + 8, 1 << 62):
        with pytest.raises(MixstreamError, match=f"num_samples={many} is more than epoch 0 has"):
            dataset.state_dict(num_samples=many)


def test_numbers_and_texts_of_numpy_mean_the_same(table):
    """Of every argument that has a number or text in the table."""
    found = []
    for name, call in table.items():
        for argument, value in {**call.given, **call.others}.items():
            kinds = {int: np.int64, float: np.float32, str: np.str_}
            if argument in call.arguments and type(value) in kinds and argument not in TOGETHER:  # go together
                try:
                    call.made(**{**call.given, argument: kinds[type(value)](value)})
                except Exception as error:
                    found.append((name, argument, value, repr(error)[:200]))
    assert not found


def test_every_public_name_is_in_the_table(table):
    """And every argument of it: a new one is tried, or a reason is given."""
    public = {name: getattr(ms, name) for name in dir(ms) if name in ms.__all__ or name == "XSVWriter"}
    public |= {name: getattr(module, name) for module in (losses, mixers) for name in module.__all__}
    for made in (ms.Loader, ms.LocalDataset, ms.Batch, ms.ValidationSet):
        names = [name for name in dir(made) if not name.startswith("_")]
        public |= {f"{made.__name__}.{name}": getattr(made, name) for name in names}
    public |= {"StreamingDataset.get_item": ms.StreamingDataset.get_item}
    missing, untried = set(), {}
    for name, each in public.items():
        own = (getattr(each, "__module__", None) or "").startswith("mixstream")
        if name in NOT_TRIED or not own or not callable(each) or getattr(each, "_is_protocol", False):
            continue
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        wanted = {
            one.name
            for one in inspect.signature(each).parameters.values()
            if one.kind not in kinds and one.name != "self"
        }
        if name not in table:
            missing |= {name} if wanted or "." not in name else set()
        elif left := wanted - {*table[name].good, *table[name].others} - ARGUMENTS_NOT_TRIED.get(name, set()):
            untried[name] = left
    assert not missing
    assert not untried
