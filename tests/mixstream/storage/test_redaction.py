"""What is secret is shown nowhere, however odd the URL is that holds it; what names a place is shown."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from directory_server import directory_server  # pyright: ignore[reportMissingImports] - conftest.py sets the path
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_urls import SECRET, no_urls, odd_urls, said  # pyright: ignore[reportMissingImports] - tests/conftest.py sets the path

import mixstream as ms
from mixstream.errors import ConfigError, MixstreamError
from mixstream.selection import Selection
from mixstream.storage import DatasetFiles, Retry, find_destinations, open_store, place_of, redact
from mixstream.storage.url import refuse_slip, scheme_of
from mixstream_tools.cli import main

URLS = odd_urls()


def test_no_url_shows_it_in_any_text() -> None:
    assert len(URLS) > 500
    for url in URLS:
        for text in (
            url,
            f"could not read {url}: nope",
            repr(url),
            json.dumps({"remote": url}),
            f"<{url}>",
            f"({url})",
        ):
            assert SECRET not in redact(text), text
            assert SECRET not in redact(redact(text)), text


def test_what_is_no_url_does_not_show_it_either() -> None:
    assert len(no_urls()) > 800
    for text in no_urls():
        assert SECRET not in redact(text), text
        assert redact(redact(text)) == redact(text), text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("u:pw@h:/d", "***@h:/d"),
        ("copied me:pw@host:/d to ./u:pw@h", "copied ***@host:/d to ./***@h"),
        ("jdbc:oracle:thin:me/pw@host:1521/x", "jdbc:oracle:thin:***@host:1521/x"),
        ("http%3A//me:pw@host/d", "http%3A//***@host/d"),
        ("http\uff1a//me:pw@host/d", "http\uff1a//***@host/d"),
        ("http://host/d;jsessionid=ab/e", "http://host/d;jsessionid=***"),
        ("http:/me:pw@host/dir", "http:/***@host/dir"),
        ("http:me:pw@host/dir?a", "http:***@host/dir"),
        ("  https://me:pw@host/dir?a#b", "  https://host/dir"),
        ("hf://u:p@datasets/me/data", "hf://datasets/me/data"),
        ("s3://key:secret@bucket/dir", "s3://bucket/dir"),
        ("//u:p@h/dir", "//***@h/dir"),
        ("https:\\\\u:p@h\\dir", "https:\\\\***@h\\dir"),
        ("https://u%3Ap%40h/dir", "https://h/dir"),
        ("https://u:p@x@h/dir", "https://h/dir"),
        ("GET /dir/a?X-Amz-Signature=ab&x=1 HTTP/1.1", "GET /dir/a?X-Amz-Signature=***&x=1 HTTP/1.1"),
        ("{'secret': 'pw', 'anon': False, 'token': 5}", "{'secret': ***, 'anon': False, 'token': 5}"),
        ('{"api_key": "pw", "n": 1}', '{"api_key": ***, "n": 1}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("x-amz-security-token: abc", "x-amz-security-token: ***"),
        ("aws_secret_access_key = abc", "aws_secret_access_key = ***"),
        ("keys AKIAIOSFODNN7EXAMPLE are old", "keys *** are old"),
    ],
)
def test_what_is_shown_instead(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "/data/x@y/web",
        "/data/token=abc/web",
        "http://127.0.0.1:80/hf/data@main/x",
        "s3://bucket/x: could not read it: 404 NoSuchKey, not found; ask admin@example.com for the right bucket",
        "az://bucket: set AZURE_ACCOUNT_NAME, or write abfss://bucket@ACCOUNT.dfs.core.windows.net/directory",
        "seed: 3, token: 5, tokens: [int64], key: value, the secret: a b",
        "user:password before the host, or a signed query",
        "C:\\data\\web",
        "a // b :: c@d",
        "C:\\data\\me@x",
        "127.0.0.1:80/hf/data@main/x, or git@host:me/x",
        "{'mail':'a@b', 'at': 5}; see: me@host",
        "ids are 3:5, user@host; http:/***@host/web",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@settings(max_examples=60)
@given(text=st.text(max_size=300))
def test_any_text_can_be_given(text: str) -> None:
    assert isinstance(redact(text), str)
    assert isinstance(redact(f"https://u:{text}@h"), str)


PIECES = [
    *"/.~-_ @=:%\\aZ9?#",
    "//",
    "%3a",
    "%2f",
    "\uff1a",
    "\uff0f",
    "\u212a",
    "\u017f",
    "http",
    "s3",
    "asia",
    "hf_",
    "GHP_",
    "eyJ",
]
PIECES += ["A" * 16, "K" * 30, "key", "password"]


@settings(max_examples=300)
@given(text=st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_is_plain_is_what_no_pattern_finds_anything_in(text: str) -> None:
    def judged(each: str) -> list[str]:
        with suppress(ConfigError):
            refuse_slip(each)
            return [redact(each), place_of(each)]
        return []

    for each in (text, f"AKIA{'0' * 16}{text}", f"/data/{text}", f"hf_{'a' * 30}/{text}"):
        found = judged(each)
        with ExitStack() as stack:
            for module in ("redaction", "url"):
                stack.enter_context(patch(f"mixstream.storage.{module}.is_plain", return_value=False))
            assert judged(each) == found


def test_long_texts_take_no_longer_than_their_length() -> None:
    for piece in ("http:", "//", "://", "a:", "@", "%40", "?sig=", "https://u:p", " \n:@"):
        assert isinstance(redact(piece * 4_000), str)


def test_names_of_caches_do_not_change() -> None:
    for url in URLS:
        assert SECRET not in place_of(url) or not scheme_of(url), url
    for url, place in {
        "https://me:pw@host.x:8/a/b?sig=pw#frag": "https://host.x:8/a/b",
        "s3://bucket/secret=5/token=abc": "s3://bucket/secret=5/token=abc",
        "abfss://c@account.dfs.core.windows.net/dir?sas": "abfss://c@account.dfs.core.windows.net/dir",
        "hf://datasets/me/data@main/dir": "hf://datasets/me/data@main/dir",
        "/data/secret=5/http:x": "/data/secret=5/http:x",
    }.items():
        assert place_of(url) == place


def _uses(url: str, place: Path) -> dict[str, Any]:
    retry = Retry(attempts=1, timeout=2)

    def stream() -> Any:
        return ms.Stream(remote=url, local=str(place / "cache"), download_retry=1, download_timeout=2)

    def store() -> Any:
        opened = open_store(url, timeout=2)
        return [opened, opened.url, opened.read("index.json")]

    return {
        "open_store": store,
        "Stream": lambda: [made := stream(), made.location, made.open(allow_unsafe_types=False)],
        "StreamingDataset": lambda: ms.StreamingDataset(streams=[stream()], batch_size=1),
        "streams": lambda: ms.streams(url, split="train"),
        "DatasetFiles": lambda: DatasetFiles.locate(remote=url, local=None, split=None, retry=retry).read_index(),
        "destinations": lambda: find_destinations(url, keep_local=False, retry=0)[2],
        "two destinations": lambda: find_destinations((str(place / "x"), url), keep_local=True, retry=0)[2],
        "no path at all": lambda: find_destinations((url, url, url), keep_local=True, retry=0),
        "Selection": lambda: Selection.open(url),
    }


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is reached: every store refuses, and local paths are below an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Retry, "pause", lambda self, number: 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AZURE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


NO_URLS = ["jdbc:mysql://u:{}@h/db", "http%3A//u:{}@h", "http\uff1a//u:{}@h", "u:{}@h:/d", "data;jsessionid={}"]
USED = [
    *(text.format(SECRET) for text in NO_URLS),
    *URLS[:: len(URLS) // 16],
    f"hf://u:a\t{SECRET}@127.0.0.1:9/a/b",
    *URLS[-2:],
]


def test_whatever_is_given_such_a_url_does_not_show_it(
    closed: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("fsspec"), "level", logging.INFO)  # file systems log their paths
    shown: dict[str, str] = {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for url in USED:
            for name, use in _uses(url, closed).items():
                try:
                    text = repr(use())
                except MixstreamError as error:  # and nothing else
                    text = said(error)
                if SECRET in text:
                    shown[f"{name} {url!r}"] = text
    assert not shown
    assert SECRET not in caplog.text
    assert SECRET not in " ".join(str(warning.message) for warning in warned)
    for path in closed.rglob("*"):
        assert SECRET not in str(path)
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("text", NO_URLS)
def test_a_path_that_looks_like_a_credential_is_one_only_if_it_begins_as_a_path(closed: Path, text: str) -> None:
    text = text.format(SECRET)
    for arguments in ({"remote": text}, {"local": text}):
        with pytest.raises(ConfigError, match=r"what looks like a credential in it.*with \./ before it") as caught:
            ms.Stream(**arguments).open(allow_unsafe_types=False)
        assert SECRET not in said(caught.value)
    assert scheme_of(text) == ""
    with ms.MDSWriter(out=f"./{text}", columns={"text": "str"}) as writer:
        writer.write({"text": "a"})
    assert ms.Stream(local=f"./{text}").open(allow_unsafe_types=False)


@pytest.mark.parametrize("text", ["run:a@b", "x;key=1", "C:me@home", "10:30@node/out", "a=b;sid=4/c", "u:x/y@h:/d"])
def test_a_path_that_is_there_or_below_what_is_there_is_one(closed: Path, text: str) -> None:
    """Runs that were begun under such a name go on, and `remote` and `out` are the places that they were."""
    with pytest.raises(ConfigError, match=r"with \./ before it"):
        ms.MDSWriter(out=text, columns={"text": "str"})
    Path(text.partition("/")[0]).mkdir()
    with ms.MDSWriter(out=text, columns={"text": "str"}) as writer:
        writer.write({"text": "a"})
    assert len(ms.StreamingDataset(remote=text, batch_size=1).streams) == 1
    assert (Path.cwd() / text / "index.json").exists()


@pytest.mark.parametrize("text", ["runs/2026-01-01T10:30@node", "sel 1/web:v1@2", "a/x;key=1"])
def test_what_lies_below_a_plain_name_is_a_path(closed: Path, text: str) -> None:
    with ms.MDSWriter(out=text, columns={"text": "str"}) as writer:
        writer.write({"text": "a"})
    assert (Path.cwd() / text / "index.json").exists()
    for url in (f"https//u:{SECRET}@h/d", f"https/x//u:{SECRET}@h", f"a=b/u:{SECRET}@h"):
        with pytest.raises(ConfigError, match=r"with \./ before it"):
            ms.MDSWriter(out=url, columns={"text": "str"})


def _search(value: Any, seen: set[int] | None = None) -> bool:
    """Return whether a state holds the secret, as a text or as bytes."""
    if isinstance(value, dict):
        return any(_search(key) or _search(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return any(map(_search, value))
    return SECRET in str(value) or (isinstance(value, bytes) and SECRET.encode() in value)


@pytest.mark.parametrize("user", [f"me:{SECRET}@", ""])
def test_a_run_over_a_signed_url_writes_it_nowhere(
    library: Path, tmp_path: Path, user: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    domain = min(path.name for path in library.iterdir() if path.is_dir())
    with directory_server(library) as url:
        remote = f"{url.replace('//', f'//{user}')}/{domain}?X-Amz-Signature={SECRET}"
        streams = [ms.Stream(remote=remote, local=str(tmp_path / "cache")), ms.Stream(remote=remote, name="twice")]
        dataset = ms.StreamingDataset(streams=streams, batch_size=2, shuffle=True)
        with ms.Loader(dataset, log=str(tmp_path / "log")) as loader:
            next(iter(loader))
            shown = [repr(loader), repr(dataset), repr(streams), loader.describe(), str(loader.state_dict())]
            assert not _search(loader.state_dict())
        shown.append(repr([stream.location for stream in streams]))
    assert SECRET not in "".join(shown)
    assert f"{url}/{domain}" in repr(streams[0])  # what names the place is there
    assert SECRET not in caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 3
    for path in tmp_path.rglob("*"):
        assert SECRET not in str(path)
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("command", ["inspect", "verify", "plan", "select", "convert", "prune"])
def test_commands_do_not_show_it(closed: Path, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    for url in [
        f"http://u:{SECRET}@127.0.0.1:9/dir?sig={SECRET}",
        f"http:/u:{SECRET}@h/dir",
        f" s3://k:{SECRET}@b/dir",
        f"u:{SECRET}@h:/d",
        f"/no/u:{SECRET}@h/d",
        f"http://127.0.0.1:9/d;jsessionid={SECRET}/e",
    ]:
        words = {
            "plan": ["plan", "--data", url],
            "select": ["select", "stats", url],
            "prune": ["prune", "run", "--emb", url, "--side", "hard", "--fraction", "0.5", "--out", "out"],
            "convert": ["convert", f"web={url}", "--out", str(closed / "out"), "--seq-len", "8"],
        }.get(command, [command, url])
        for more in ([], ["--json"]):
            with suppress(SystemExit):
                assert main([*words, *more]) != 0
    said_ = capfd.readouterr()
    assert SECRET not in said_.out + said_.err
    assert said_.err
