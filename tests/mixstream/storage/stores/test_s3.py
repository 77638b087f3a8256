"""Credentials, regions and endpoints of S3, as boto3 resolves them; no network but a server in this process."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bucket_server import Answer, BucketServer, Request, bucket_server, failure  # pyright: ignore[reportMissingImports]

from mixstream.errors import ConfigError, StoreAccessError, StoreError
from mixstream.storage import Retry, open_store
from mixstream.storage.original import HasClock
from mixstream.storage.stores.s3 import find_bucket

DATA = b"0123456789"


@pytest.fixture
def server() -> Iterator[BucketServer]:
    with bucket_server() as server:
        server.objects["bucket/a"] = server.objects["payers/a"] = DATA
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where AWS's files are; there are none, and nothing else gives credentials."""
    for name in os.environ:
        if name.startswith(("AWS_", "S3_", "MOSAICML_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


@pytest.fixture
def keys(server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give credentials and the endpoint by variables."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETWORD")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)


def _read(bucket: str = "bucket") -> bytes:
    return bytes(open_store(f"s3://{bucket}", timeout=5).read("a", 2, 5).data)


def _signer(request: Request) -> tuple[str, str]:
    """Return the key and the region that a request is signed with."""
    key, _, region, *_ = request.headers["authorization"].partition("Credential=")[2].split("/")
    return key, region


def _process(home: Path, *, seconds: float) -> None:
    """Make a profile whose credentials come from a process, AK1, AK2, ..., and are good for so many seconds."""
    script = home / "give.py"
    script.write_text(
        f"""
import json, pathlib, sys, datetime
calls = pathlib.Path({str(home / "calls")!r})
number = len(calls.read_text()) + 1 if calls.exists() else 1
calls.write_text("x" * number)
if pathlib.Path({str(home / "broken")!r}).exists():
    sys.exit("the vault is closed, see https://vault/login?token=SECRETWORD")
until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds={seconds})
print(json.dumps({{"Version": 1, "AccessKeyId": f"AK{{number}}", "SecretAccessKey": "SECRETWORD",
                   "SessionToken": "TOKEN", "Expiration": until.isoformat()}}))
"""
    )
    (home / "config").write_text(
        f"[profile vault]\nregion = eu-north-1\ncredential_process = {sys.executable} -IS {script}\n"
    )


# Credentials


def test_variables_give_credentials(server: BucketServer, keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "TOKEN")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "sa-east-1")
    assert _read() == DATA[2:5]
    assert _signer(server.requests[-1]) == ("AKENV", "sa-east-1")
    assert server.requests[-1].headers["x-amz-security-token"] == "TOKEN"


def test_a_profile_gives_credentials_region_and_endpoint(
    server: BucketServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config").write_text(f"[profile work]\nregion = eu-west-3\nendpoint_url = {server.url}\n")
    (home / "credentials").write_text(
        "[default]\naws_access_key_id = AKHOME\naws_secret_access_key = s\n"
        "[work]\naws_access_key_id = AKWORK\naws_secret_access_key = s\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert _read() == DATA[2:5]
    assert _signer(server.requests[-1]) == ("AKWORK", "eu-west-3")
    monkeypatch.setenv("AWS_PROFILE", "default")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    assert _read() == DATA[2:5]
    assert _signer(server.requests[-1]) == ("AKHOME", "us-east-1")


def test_a_credential_process_is_asked_again_when_its_credentials_expire(
    server: BucketServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _process(home, seconds=61.5)  # credentials are renewed a minute before they expire
    monkeypatch.setenv("AWS_PROFILE", "vault")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    store = open_store("s3://bucket", timeout=5)
    store.read("a")
    store.read("a")
    first = {_signer(request)[0] for request in server.requests}
    assert len(first) == 1
    time.sleep(1.6)
    store.read("a")
    assert _signer(server.requests[-1])[0] not in first
    (home / "broken").touch()
    time.sleep(1.6)
    asked = len(server.requests)
    with pytest.raises(StoreAccessError, match=r"vault is closed.*aws sso login") as caught:
        store.read("a")
    assert "SECRETWORD" not in str(caught.value)
    assert len(server.requests) == asked
    (home / "broken").unlink()
    assert bytes(store.read("a").data) == DATA


def test_credentials_that_last_are_asked_for_once(
    server: BucketServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _process(home, seconds=3600)
    monkeypatch.setenv("AWS_PROFILE", "vault")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    for directory in ("s3://bucket", "s3://bucket/sub", "s3://bucket"):
        open_store(directory, timeout=5).names()
    assert {_signer(request) for request in server.requests} == {("AK1", "eu-north-1")}
    assert (home / "calls").read_text() == "x"


def test_expiry_is_that_of_the_credentials(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _process(home, seconds=3600)
    monkeypatch.setenv("AWS_PROFILE", "vault")
    credentials = find_bucket("bucket", timeout=5).credentials
    assert credentials is not None
    left = credentials()["expires_at"] - datetime.now(UTC)
    assert timedelta(seconds=3500) < left <= timedelta(seconds=3540)
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    static = find_bucket("bucket", timeout=5).credentials
    assert static is not None
    assert static()["expires_at"] is None


def test_renew_reads_the_files_anew_and_once_for_all_threads(
    server: BucketServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    server.odd = lambda request: (
        failure(400, "ExpiredToken") if _signer(request)[0] == "AKOLD" else None  # what AWS says of old tokens
    )

    def write(key: str) -> None:
        (home / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")

    write("AKOLD")
    store = open_store("s3://bucket", timeout=5)
    with pytest.raises(StoreAccessError, match="expired"):
        store.read("a")
    write("AKNEW")
    with pytest.raises(StoreAccessError):
        store.read("a")  # nothing is read anew unasked
    together = threading.Barrier(6)
    made: list[str] = []
    session = __import__("boto3").Session
    monkeypatch.setattr("boto3.Session", lambda *args, **more: made.append("session") or session(*args, **more))

    def recover() -> None:
        with pytest.raises(StoreAccessError):
            store.read("a")
        together.wait(timeout=20)
        store.renew()
        assert bytes(store.read("a").data) == DATA
        done.append(True)

    done: list[bool] = []
    threads = [threading.Thread(target=recover) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 6
    assert _signer(server.requests[-1])[0] == "AKNEW"
    assert made == ["session"]


def test_without_credentials_requests_go_unsigned(server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    assert _read() == DATA[2:5]
    assert "authorization" not in server.requests[-1].headers
    server.odd = lambda request: failure(403, "AccessDenied")
    with pytest.raises(StoreAccessError, match=r"403 AccessDenied, no credentials were found.*aws configure"):
        _read()


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("AWS_PROFILE", "nobody", "nobody"),
        ("AWS_ACCESS_KEY_ID", "AKALONE", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_CA_BUNDLE", "/no/such/bundle.pem", "/no/such/bundle.pem"),
    ],
)
def test_settings_that_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str, word: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreAccessError, match=word):
        _read()


# Endpoints


@pytest.mark.parametrize("name", ["S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("127.0.0.1:18333", "=127.0.0.1:18333 has no http:// or https://; write .*http://127.0.0.1:18333"),
        ("me:SECRETWORD@localhost:9000", "=localhost:9000 has no http://"),
        ("ftp://host", "=ftp://host has no http://"),
        ("http://", "names no host"),
    ],
)
def test_an_endpoint_that_is_no_url(name: str, value: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}{word}" if word[0] == "=" else f"^{name}.*{word}") as caught:
        _read()
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_endpoint_is_none(
    server: BucketServer, keys: None, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", empty)
    assert _read() == DATA[2:5]


def test_the_first_endpoint_that_is_set_is_used(
    server: BucketServer, keys: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "http://127.0.0.1:1"
    (home / "config").write_text(f"[default]\nendpoint_url = {server.url}\n")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert _read() == DATA[2:5]
    (home / "config").write_text(f"[default]\nendpoint_url = {nowhere}\n")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, server.url)
        assert _read() == DATA[2:5], name
        monkeypatch.setenv(name, nowhere)
    assert len(server.requests) == 4


def test_buckets_of_amazon_stand_in_the_host_name_where_they_can(home: Path) -> None:
    bucket = find_bucket("bucket", timeout=5, region="eu-west-1")
    assert bucket.virtual
    assert bucket.config()["endpoint"] == "https://bucket.s3.eu-west-1.amazonaws.com"
    assert find_bucket("bucket", timeout=5, region="cn-north-1").config()["endpoint"].endswith(".amazonaws.com.cn")
    assert not find_bucket("dotted.bucket", timeout=5).virtual
    (home / "config").write_text("[default]\ns3 =\n  addressing_style = path\n")
    assert not find_bucket("bucket", timeout=5).virtual


def test_a_bucket_in_another_region_is_found_and_remembered(server: BucketServer, keys: None) -> None:
    def elsewhere(request: Request) -> Answer | None:
        if request.method == "HEAD":
            return Answer(301, headers={"x-amz-bucket-region": "ap-south-1"})
        if _signer(request)[1] == "ap-south-1":
            return None
        return failure(301, "PermanentRedirect")

    server.odd = elsewhere
    assert _read() == DATA[2:5]
    asked = len(server.requests)
    assert _read() == DATA[2:5]
    assert [request.method for request in server.requests[asked:]] == ["GET"]
    assert _signer(server.requests[-1])[1] == "ap-south-1"


def test_a_bucket_in_another_region_is_found_by_who_looks_first(server: BucketServer, keys: None) -> None:
    """S3 answers a HEAD that is signed for another region by 400, and HEAD has no body that could say why."""

    def elsewhere(request: Request) -> Answer | None:
        if request.path.strip("/") == "bucket":
            return Answer(400, headers={"x-amz-bucket-region": "ap-south-1"})
        return None if _signer(request)[1] == "ap-south-1" else Answer(400)

    server.odd = elsewhere
    assert open_store("s3://bucket", timeout=5).info("a").size == len(DATA)


def test_expired_credentials_that_head_cannot_name_are_read_anew(server: BucketServer, keys: None, home: Path) -> None:
    server.odd = lambda request: Answer(400) if request.method == "HEAD" else None
    store = open_store("s3://bucket", timeout=5)
    renewed = []
    with pytest.raises(StoreAccessError, match=r"400 and no reason.*expired.*aws sso login"):
        Retry(attempts=1).call("looking", lambda: store.info("a"), renew=lambda: renewed.append(store.renew()))
    assert renewed == [None]


def test_a_region_that_cannot_be_found_out_is_asked_for(server: BucketServer, keys: None) -> None:
    server.odd = lambda request: (
        Answer(403) if request.method == "HEAD" else failure(400, "AuthorizationHeaderMalformed")
    )
    with pytest.raises(StoreError, match=r"400 AuthorizationHeaderMalformed.*AWS_REGION"):
        _read()


# What mosaicml-streaming takes from the environment


@pytest.mark.parametrize("pays", [False, True])
def test_the_requester_pays_variable_is_named_where_the_store_speaks_of_it(
    server: BucketServer, keys: None, pays: bool
) -> None:
    server.objects["requester-pays/a"] = DATA
    prose = "Bucket is a requester pays bucket" if pays else "Access Denied"
    server.odd = lambda request: failure(403, "AccessDenied", prose)
    with pytest.raises(StoreAccessError, match="AWS_SECRET_ACCESS_KEY") as caught:
        _read("requester-pays")
    assert ("MOSAICML_STREAMING_AWS_REQUESTER_PAYS" in str(caught.value)) == pays


def test_the_requester_pays_for_the_buckets_that_are_named(
    server: BucketServer, keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOSAICML_STREAMING_AWS_REQUESTER_PAYS", "others,payers")
    _read("payers")
    assert server.requests[-1].headers["x-amz-request-payer"] == "requester"
    _read("bucket")
    assert "x-amz-request-payer" not in server.requests[-1].headers


def test_a_canned_acl_goes_with_every_upload(
    server: BucketServer, keys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_CANNED_ACL", "bucket-owner-full-control")
    source = tmp_path / "source"
    source.write_bytes(DATA * 9)
    store = open_store("s3://bucket/dir", timeout=5)
    for data, wanted in ((DATA, DATA), (source, DATA * 9)):
        store.write("x y", data)
        assert bytes(store.read("x y").data) == wanted
        put = next(request for request in reversed(server.requests) if request.method == "PUT")
        assert put.headers["x-amz-acl"] == "bucket-owner-full-control"
        assert "x-amz-acl" in put.headers["authorization"]  # signed, or AWS refuses it
    server.odd = lambda request: failure(403, "AccessDenied", "SECRETWORD")
    with pytest.raises(StoreAccessError, match=r"dir/x y: could not write it: 403 AccessDenied") as caught:
        store.write("x y", DATA)
    assert "SECRETWORD" not in json.dumps([str(caught.value), repr(caught.value.__cause__)])


@pytest.mark.usefixtures("keys")
def test_a_store_is_asked_for_its_time_by_the_client_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that was written lately is compared with the time; a session of boto3 takes a tenth of a second."""
    store = open_store("s3://bucket", timeout=5)
    store.read("a", 2, 5)
    monkeypatch.setattr("mixstream.storage.stores.s3.boto3", None)
    assert isinstance(store, HasClock)
    assert abs((store.clock() or 0.0) - time.time()) < 5


@pytest.mark.usefixtures("keys")
def test_no_client_is_made_to_ask_a_store_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child asks too, and obstore may not be used there."""
    monkeypatch.setattr("mixstream.storage.stores.clients._make", None)
    store = open_store("s3://bucket", timeout=4)  # of another key than that of other tests
    assert isinstance(store, HasClock)
    assert abs((store.clock() or 0.0) - time.time()) < 5
