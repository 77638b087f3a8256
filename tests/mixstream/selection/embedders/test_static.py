"""Static models: the definition, the package that ships one as oracle, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import WORDS, write_static, write_tokenizer  # pyright: ignore[reportMissingImports] - conftest.py

from mixstream.errors import ConfigError
from mixstream.selection.embedders import EmbedderSpec

TEXTS = ["red green", "cats", "the red dog runs fast", "", "unknown words", "dog " * 30]


@pytest.fixture(scope="module", params=[False, True], ids=["floats", "quantised"])
def directory(request, tmp_path_factory):
    return write_static(tmp_path_factory.mktemp("static"), mapped=request.param)


def reference(directory, text, most=512):
    """The definition, token by token; unknown tokens (1) do not count."""
    from safetensors.numpy import load_file

    tensors = load_file(str(directory / "model.safetensors"))
    pieces = {"cats": ["cat", "##s"]}
    ids = [WORDS.index(p) for word in text.split() for p in pieces.get(word, [word]) if p in WORDS][:most]
    mapping, weights = tensors.get("mapping", np.arange(99)), tensors.get("weights", np.ones(99))
    rows = [tensors["embeddings"][mapping[at]].astype(np.float64) * weights[at] for at in ids]
    mean = np.mean(rows, axis=0) if rows else np.zeros(6)
    return mean / (np.linalg.norm(mean) or 1)


def test_it_is_the_weighted_mean_of_token_vectors(directory) -> None:
    spec = EmbedderSpec.parse(str(directory))
    found = spec.load().embed(TEXTS)
    assert spec.kind == "static"
    assert spec.dimensions() == spec.load().dimensions == 6
    assert np.allclose(found.unit_ND, [reference(directory, text) for text in TEXTS], atol=1e-6)
    assert found.failed_N.tolist() == [False, False, False, True, True, False]
    assert found.tokens_N.tolist() == [2, 2, 5, 0, 2, 30]  # the whole text counts, and unknown tokens do


def test_a_text_is_cut_after_max_tokens(directory) -> None:
    text = "red green blue cat dog"
    found = EmbedderSpec.parse(str(directory), max_tokens=2).load().embed([text])
    assert np.allclose(found.unit_ND[0], reference(directory, text, 2), atol=1e-6)
    assert found.tokens_N.tolist() == [5]


@given(st.lists(st.sampled_from(TEXTS), max_size=12))
def test_an_embedding_does_not_depend_on_the_others(directory_of_floats, texts) -> None:
    model = EmbedderSpec.parse(str(directory_of_floats)).load()
    together = model.embed(texts).unit_ND
    assert [model.embed([text]).unit_ND.tobytes() for text in texts] == [row.tobytes() for row in together]


@pytest.fixture(scope="module")
def directory_of_floats(tmp_path_factory):
    return write_static(tmp_path_factory.mktemp("floats"))


def test_blocks_of_tokens_do_not_show(directory, monkeypatch) -> None:
    model = EmbedderSpec.parse(str(directory)).load()
    before = model.embed(TEXTS).unit_ND
    monkeypatch.setattr("mixstream.selection.embedders.static._BLOCK_TOKENS", 3)
    assert model.embed(TEXTS).unit_ND.tobytes() == before.tobytes()


def test_it_equals_the_package_that_ships_the_default() -> None:
    oracle = pytest.importorskip("static_model")
    texts = ["Hello world, this is a test.", "def f(x): return x**2", "日本語のテキスト", "", "ünï 🦄", "word " * 700]
    spec = EmbedderSpec.parse("static")
    model = spec.load()
    found = model.embed(texts)
    assert np.allclose(found.unit_ND, np.array(oracle.get_embeddings(texts)), atol=1e-6)
    assert found.failed_N.tolist() == [False, False, False, True, False, False]
    assert spec.dimensions() == 64
    cat, other_cat, law = model.embed(["the cat sat on the mat", "a cat lay on a mat", "tax law"]).unit_ND
    assert cat @ other_cat > cat @ law + 0.2


def test_files_of_two_models_are_refused(tmp_path) -> None:
    write_static(tmp_path, rows=5)
    with pytest.raises(ConfigError, match=r"12 tokens, but model\.safetensors has .* for 5 of them"):
        EmbedderSpec.parse(str(tmp_path)).load()


def test_a_mapping_out_of_range_is_refused(tmp_path) -> None:
    from safetensors.numpy import save_file

    write_tokenizer(tmp_path, special=False)
    tensors = {"embeddings": np.ones((3, 2), np.float32), "mapping": np.full(len(WORDS), 3)}
    save_file(tensors, str(tmp_path / "model.safetensors"))
    with pytest.raises(ConfigError, match="belong to different models"):
        EmbedderSpec.parse(str(tmp_path)).load()


def test_a_damaged_file_is_named(directory_of_floats, tmp_path) -> None:
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((directory_of_floats / name).read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a tokenizer\.json"):
        EmbedderSpec.parse(str(tmp_path)).load()
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ConfigError, match=r"model\.safetensors: not a file of tensors"):
        EmbedderSpec.parse(str(tmp_path))
