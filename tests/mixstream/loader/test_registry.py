"""`streams_registry`, and the kind of stream that `stream_name` names."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint

import pytest

import mixstream as ms
from mixstream.compat.registry_utils import construct_from_registry, create_registry, import_file
from mixstream.errors import ConfigError
from mixstream.loader.registry import Registry, saved_entries


class Tagged(ms.Stream):
    def __init__(self, *, tag: str, **options):
        super().__init__(**options)
        self.tag = tag


@pytest.fixture(autouse=True)
def restored():
    with saved_entries():
        yield


@pytest.fixture
def corpus(tmp_path):
    with ms.MDSWriter(columns={"x": "int"}, out=str(tmp_path / "corpus")) as writer:
        writer.write({"x": 1})
    return str(tmp_path / "corpus")


def test_stream_name_names_the_kind_of_the_single_stream(corpus):
    ms.streams_registry.register("tagged", func=Tagged)
    dataset = ms.StreamingDataset(local=corpus, batch_size=1, stream_name="tagged", stream_config={"tag": "a"})
    assert isinstance(dataset.streams[0], Tagged)
    assert dataset.streams[0].tag == "a"
    assert [sample["x"] for sample in dataset] == [1]


class Former(ms.Stream):
    """Takes what streams of mosaicml-streaming take, one by one."""

    def __init__(self, *, remote, local, split, download_retry, download_timeout, validate_hash, keep_zip):
        super().__init__(remote=remote, local=local, split=split, keep_zip=keep_zip, validate_hash=validate_hash)


@pytest.mark.parametrize("durable", [True, False])
def test_a_kind_of_stream_need_not_know_our_arguments(corpus, durable):
    ms.streams_registry.register("former", func=Former)
    dataset = ms.StreamingDataset(local=corpus, batch_size=1, stream_name="former", durable=durable)
    assert dataset.streams[0].durable is dataset.durable is durable
    assert dataset.streams[0].validate_hash == "arrival"
    assert [sample["x"] for sample in dataset] == [1]


def test_an_unknown_kind_is_refused(corpus):
    with pytest.raises(ConfigError, match=r"no entry 'other' in the registry mixstream\.streams_registry.*'stream'"):
        ms.StreamingDataset(local=corpus, batch_size=1, stream_name="other")


def test_entries_come_and_go():
    registry = Registry(("test", "kinds"))
    assert registry.register("one", func=1) == 1
    registry.register("one", func=2)
    assert (registry.get("one"), registry.get_all(), "two" in registry) == (2, {"one": 2}, False)
    assert Registry(("test",)).get_all() == {}
    with saved_entries():
        registry("two")(int)
        assert registry.get_all() == {"one": 2, "two": int}
    assert registry.get_all() == {"one": 2}


def test_kinds_of_mosaicml_streaming_in_the_same_process_stay():
    theirs = Registry(("streaming", "streams_registry"))
    theirs.register("stream", func=int)
    assert ms.streams_registry.get("stream") is ms.Stream
    assert theirs.get("stream") is int


def test_a_registry_moves_with_its_entries():
    registry = Registry(("test", "from"))
    registry.register("one", func=1)
    Registry(("test", "from", "below")).register("two", func=2)
    registry.move("test", "to")
    assert (registry.get_all(), Registry(("test", "from")).get_all()) == ({"one": 1}, {})
    assert Registry(("test", "to")).get("one") == 1
    assert Registry(("test", "from", "below")).get("two") == 2


def test_entry_points_are_entries(monkeypatch):
    point = EntryPoint(name="plugin", value="mixstream.errors:ConfigError", group="test_plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda: importlib.metadata.EntryPoints([point]))
    monkeypatch.setattr("mixstream.loader.registry._catalogue", lambda: None)
    registry = create_registry("test", "plugins", generic_type=type, entry_points=True)
    assert registry.get("plugin") is ConfigError
    assert registry.get_all() == {"plugin": ConfigError}
    assert "plugin" in registry
    assert "plugin" not in Registry(("test", "plugins"))


def test_what_is_constructed_is_checked(tmp_path):
    registry = create_registry("test", "made", generic_type=type)
    registry.register("number", func=int)
    registry.register("product", func=lambda x, y: x * y)
    registry.register("text", func="text")
    assert construct_from_registry("number", registry, pre_validation_function=int) == 0
    assert construct_from_registry("product", registry, kwargs={"x": 2})(y=3) == 6
    assert construct_from_registry("product", registry, partial_function=False, kwargs={"x": 2, "y": 3}) == 6
    with pytest.raises(ValueError, match="Expected number to be of type"):
        construct_from_registry("number", registry, pre_validation_function=str)
    with pytest.raises(ValueError, match="Expected text to be a class or function"):
        construct_from_registry("text", registry)


def test_a_file_of_python_registers(tmp_path):
    (tmp_path / "code.py").write_text(
        "import mixstream as ms\n@ms.streams_registry.register('mine')\nclass Mine(ms.Stream): ...\n"
    )
    module = import_file(tmp_path / "code.py")
    assert ms.streams_registry.get("mine") is module.Mine
    (tmp_path / "bad.py").write_text("asdf")
    with pytest.raises(RuntimeError, match=r"Error executing .*bad\.py"):
        import_file(tmp_path / "bad.py")
    with pytest.raises(FileNotFoundError, match=r"File .* does not exist"):
        import_file(tmp_path / "none.py")
