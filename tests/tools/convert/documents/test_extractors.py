"""HTML → text by the user's choice, which is part of the recipe."""

import pytest

from mixstream.errors import ConfigError
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer
from mixstream_tools.convert.documents.extractors import describe_extractor, extract

PAGE = "<html><body><nav><a href=x>menu</a></nav><main><p>The text of the page, as it is read.</p></main></body></html>"


def test_resiliparse_keeps_the_main_text():
    pytest.importorskip("resiliparse", reason="pip install resiliparse")
    assert extract(PAGE, "resiliparse").strip() == "The text of the page, as it is read."
    assert describe_extractor("resiliparse").startswith("resiliparse 2.")


def test_a_function_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_extractor.py").write_text(
        "def good(html):\n    return html[:3]\ndef none(html):\n    return None\n"
        "def bad(html):\n    return 1 / 0\ndef wrong(html):\n    return b''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert extract(PAGE, "my_extractor:good") == "<ht"
    assert extract(PAGE, "my_extractor:none") == ""
    with pytest.raises(ValueError, match="--extract my_extractor:bad failed: ZeroDivisionError"):
        extract(PAGE, "my_extractor:bad")
    with pytest.raises(ValueError, match="returned bytes, not a text"):
        extract(PAGE, "my_extractor:wrong")
    before = describe_extractor("my_extractor:good")
    assert before != describe_extractor("my_extractor:none")


@pytest.mark.parametrize("name", ["no-such-thing", "no_such_module:function", "json:no_such_function"])
def test_what_is_none_is_refused(name):
    with pytest.raises(ConfigError, match=name.partition(":")[0]):
        describe_extractor(name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(ConfigError, match="pip install trafilatura"):
        extract(PAGE, "trafilatura")


def test_it_is_part_of_the_recipe_where_it_is_given():
    pytest.importorskip("resiliparse", reason="pip install resiliparse")
    plain = Recipe(tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text"))
    given = Recipe(tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text", extract="resiliparse"))
    assert "extract" not in plain.identity()
    assert given.identity()["extract"].startswith("resiliparse ")
