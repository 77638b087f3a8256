"""Words about URLs: what is secret does not get through, and what names a place does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream import MDSWriter, Stream, replay
from mixstream.errors import ConfigError, StoreError
from mixstream.storage import is_local, join, local_path, open_store, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host.x:8/a/b?sig=secret#frag", "https://host.x:8/a/b"),
        ("GET https://h/a?X-Amz-Signature=1: failed", "GET https://h/a failed"),
        ('uri: "https://me@h/a?b", then s3://bucket/key', 'uri: "https://h/a", then s3://bucket/key'),
        ("sftp://user:pass@host/dir", "sftp://host/dir"),
        (
            "abfss://container@account.dfs.core.windows.net/dir?sas",
            "abfss://container@account.dfs.core.windows.net/dir",
        ),
        ("az://name:key@account/dir", "az://account/dir"),
        ("hf://datasets/me/data@main/dir", "hf://datasets/me/data@main/dir"),
        ("https://h?token=secret", "https://h"),
        ("https://[::1]:8/a", "https://[::1]:8/a"),
        ("https://me:pass/word@host/dir", "https://host/dir"),
        ("https://me:pass?word@host/dir", "https://***"),
        ("nothing to see: a@b, c?d#e", "nothing to see: a@b, c?d#e"),
    ],
)
def test_credentials_of_urls_are_taken_out_of_any_text(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


_WORD = st.text("abcXYZ012_-.", min_size=8, max_size=12)


@settings(max_examples=40)
@given(user=_WORD, word=_WORD, query=_WORD, before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_secret_survives_wherever_the_url_stands(user: str, word: str, query: str, before: str, after: str) -> None:
    secret = f"S3CR{word}"
    text = f"{before} https://{user}:{secret}@host/path?token={secret}{query}#{secret} {after}"
    assert secret not in redact(text)
    assert "https://host/path" in redact(text)


def test_what_is_local() -> None:
    assert is_local("/a/b")
    assert is_local("a/b")
    assert is_local("file:///a")
    assert is_local("FILE:///a")
    assert is_local("odd:name/x")
    assert not is_local("s3://a")
    assert not is_local("memory://a")


def test_paths_and_file_urls_name_local_paths() -> None:
    assert local_path("/a/b%20c#d?e") == Path("/a/b%20c#d?e")
    assert local_path("file:///a/b%20c") == Path("/a/b c")
    assert local_path("file://localhost/a") == Path("/a")


def test_other_urls_name_no_local_path() -> None:
    with pytest.raises(ConfigError, match=r"s3://bucket/a.*file://"):
        local_path("s3://bucket/a")
    with pytest.raises(ConfigError, match="write file:///data/set"):
        local_path("file://data/set")


@pytest.mark.parametrize(
    ("url", "parts", "joined"),
    [
        ("/a/b/", ("c", "d"), "/a/b/c/d"),
        ("/", ("a",), "/a"),
        ("", ("a",), "a"),
        ("rel", ("",), "rel"),
        ("s3://bucket", ("a b", "c#d"), "s3://bucket/a b/c#d"),
        ("s3://bucket/x/", (), "s3://bucket/x/"),
        ("https://h/d?sig=1", ("a b", "c"), "https://h/d/a%20b/c?sig=1"),
        ("file:///a", ("b%c",), "file:///a/b%25c"),
    ],
)
def test_join(url: str, parts: tuple[str, ...], joined: str) -> None:
    assert join(url, *parts) == joined


@pytest.mark.parametrize(
    "url",
    [
        "http://[me:secret@::1]:9/web", "https://me:secret@[::1/web", "http://me\n:secret@h/web",
        "s3://me\t:secret@b/web", "memory://me:secret\r@h/web",
    ],
)  # fmt: skip
def test_what_no_url_has_is_refused_without_its_words(url: str) -> None:
    for take in (lambda: Stream(remote=url), lambda: MDSWriter(out=url, columns={"a": "int"}), lambda: replay(url)):
        with pytest.raises(ConfigError) as raised:
            take()
        assert "secret" not in f"{raised.value!r} {raised.value.__cause__!r}"


def test_a_log_is_on_local_disk() -> None:
    with pytest.raises(ConfigError, match="'https://h/runs' is not on local disk"):
        replay("https://me:secret@h/runs?sig=secret")


def test_a_server_that_is_not_found_is_named_without_what_stands_before_it() -> None:
    with pytest.raises(StoreError) as raised:
        open_store("https://me%3Asecret%40host.invalid/d;jsessionid=secret", timeout=2).info("a")
    assert "secret" not in str(raised.value)
