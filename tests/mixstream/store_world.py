"""Every kind of store, in one table, and an environment in which all of them are served by this process."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from bucket_server import BucketServer  # pyright: ignore[reportMissingImports] - tests/conftest.py sets the path

from mixstream.storage import Store, open_store

KINDS = ("path", "file", "fsspec", "s3", "gs", "gs-hmac", "az", "http")
OVER_HTTP = ("s3", "gs", "gs-hmac", "az", "http")
DATA = bytes(range(256)) * 3

every_kind = pytest.mark.parametrize("world", KINDS, indirect=True)
over_http = pytest.mark.parametrize("world", OVER_HTTP, indirect=True)
over_s3 = pytest.mark.parametrize("world", ["s3"], indirect=True)
over_azure = pytest.mark.parametrize("world", ["az"], indirect=True)
over_plain_http = pytest.mark.parametrize("world", ["http"], indirect=True)
only_fsspec = pytest.mark.parametrize("world", ["fsspec"], indirect=True)
on_disk = pytest.mark.parametrize("world", ["path"], indirect=True)


@dataclass(frozen=True)
class World:
    """Where the stores of a test are."""

    server: BucketServer
    tmp: Path
    kind: str

    def url(self, kind: str | None = None) -> str:
        kind = kind or self.kind
        return {
            "path": f"{self.tmp}/some dir",
            "file": f"{self.tmp.as_uri()}/some%20dir",
            "fsspec": f"memory://{self.tmp}/dir",
            "gs-hmac": "gs://bucket/some dir/x",
            "http": f"{self.server.url}/bucket/some%20dir/x",
        }.get(kind, f"{kind}://bucket/some dir/x")

    def open(self, *, timeout: float = 5.0) -> Store:
        return open_store(self.url(), timeout=timeout)


def make_world(kind: str, server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return an empty store of a kind; the environment has credentials for all of them."""
    for name in os.environ:
        if name.startswith(("AWS_", "S3_", "GCS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)
    google = {
        "gcs_base_url": server.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    settings = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "SECRETWORD",
        "AWS_CONFIG_FILE": "/no/such/file",
        "AWS_SHARED_CREDENTIALS_FILE": "/no/such/file",
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(google),
        "AZURE_ACCOUNT_NAME": "account",
        "AZURE_ACCOUNT_ACCESS_KEY": base64.b64encode(b"SECRETWORD").decode(),
        "AZURE_STORAGE_ENDPOINT": server.url,
    }
    if kind == "gs-hmac":
        settings |= {"GCS_KEY": "GOOGEXAMPLE", "GCS_SECRET": "SECRETWORD", "GOOGLE_BASE_URL": server.url}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    server.objects.clear()
    server.requests.clear()
    server.odd = None
    return World(server, tmp_path, kind)


def assert_discreet(error: BaseException) -> None:
    """Neither the error nor what it drags along shows credentials or the client's own words."""
    chain: list[BaseException | None] = [
        error,
        error.__cause__,
        None if error.__suppress_context__ else error.__context__,
    ]
    shown = " ".join(f"{one!s} {one!r} {getattr(one, '__notes__', '')}" for one in chain if one is not None)
    for secret in ("SECRETWORD", "Debug source", "Signature", "AKIAEXAMPLE", "GOOGEXAMPLE", "sig="):
        assert secret not in shown
