"""The aliased dataset: one class to `isinstance`, the arguments by name, and an order of its own."""

from __future__ import annotations

import inspect
import pickle

import pytest
from alias_state import installed

import mixstream as ms
from mixstream.compat.dataset import StreamingDataset
from mixstream.errors import ConfigError


@pytest.fixture
def corpus(tmp_path):
    with ms.MDSWriter(columns={"x": "int"}, out=str(tmp_path / "corpus")) as writer:
        for x in range(24):
            writer.write({"x": x})
    return str(tmp_path / "corpus")


class Doubled(StreamingDataset):
    def __init__(self, *, factor: int = 2, **options):
        super().__init__(**options)
        self.factor = factor

    def __getitem__(self, at):
        return super().__getitem__(at)["x"] * self.factor


def test_instances_of_both_classes_count(corpus):
    ours, aliased = ms.StreamingDataset(local=corpus, batch_size=4), StreamingDataset(local=corpus, batch_size=4)
    assert isinstance(ours, StreamingDataset)
    assert isinstance(aliased, ms.StreamingDataset)
    assert issubclass(ms.StreamingDataset, StreamingDataset)


def test_a_subclass_of_a_program_counts_only_its_own(corpus):
    assert not isinstance(StreamingDataset(local=corpus, batch_size=4), Doubled)
    assert not issubclass(ms.StreamingDataset, Doubled)
    assert isinstance(Doubled(local=corpus, batch_size=4), Doubled)


@pytest.mark.parametrize("kind", [ms.StreamingDataset, StreamingDataset, Doubled])
def test_what_is_no_dataset_counts_for_none(kind):
    assert not isinstance([0], kind)
    assert not issubclass(list, kind)
    assert issubclass(Doubled, kind)


def test_the_signature_names_every_argument():
    aliased, ours = (inspect.signature(kind).parameters for kind in (StreamingDataset, ms.StreamingDataset))
    assert [*aliased] == [*ours]
    assert [*inspect.signature(Doubled).parameters] == ["factor", "options"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_seq_len'"):
        StreamingDataset(max_seq_len=7)


def test_the_default_order_is_that_of_install(corpus):
    with installed():
        assert StreamingDataset(local=corpus, batch_size=4).order == "mosaic"
        assert StreamingDataset(local=corpus, batch_size=4, order="mixstream").order == "mixstream"
        assert ms.StreamingDataset(local=corpus, batch_size=4).order == "mixstream"
    with installed(order="mixstream"):
        assert StreamingDataset(local=corpus, batch_size=4).order == "mixstream"


def test_an_unknown_order_in_the_environment_is_refused(corpus, monkeypatch):
    monkeypatch.setenv("MIXSTREAM_COMPAT_ORDER", "any")
    with pytest.raises(ConfigError, match="MIXSTREAM_COMPAT_ORDER='any' is not known"):
        StreamingDataset(local=corpus, batch_size=4)


def test_an_override_is_honoured_and_survives_a_pickle(corpus):
    dataset = pickle.loads(pickle.dumps(Doubled(local=corpus, batch_size=4, factor=3)))
    assert dataset[5] == 15
    assert sorted(dataset) == [3 * x for x in range(24)]


@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")
def test_workers_of_a_data_loader(corpus):  # spawned ones: tests/mosaic/test_compat.py
    from torch.utils.data import DataLoader

    loader = DataLoader(StreamingDataset(local=corpus, batch_size=4), batch_size=4, num_workers=1)
    assert sorted(int(x) for batch in loader for x in batch["x"]) == [*range(24)]
