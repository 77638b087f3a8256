"""What tells originals apart whose URLs look alike once credentials are removed: query, user, endpoint, account.

Rules: no request is made; what may be secret is hashed, slowly, and never shown. A URL that says all by itself has no
identity besides its text, so caches of such URLs keep their names.
"""

import os
import threading
from functools import lru_cache
from hashlib import blake2s, scrypt
from pathlib import Path
from urllib.parse import urlsplit

from mixstream.errors import MixstreamError
from mixstream.storage.forks import ProcessLocal, unforked
from mixstream.storage.redaction import place_of
from mixstream.storage.url import is_local, scheme_of

_AZURE = ("az", "azure", "azure-dl", "abfs", "abfss")
_AZURE_SETTINGS = ("AZURE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
# What boto3 resolved, by what it resolved it from: a fifth of a second each time, and all buckets have one endpoint.
_endpoints: dict[int, str] = {}
_resolving = ProcessLocal(threading.Lock)
_S3_ENDPOINTS = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def identity_of(url: str) -> str:
    """Return what identifies an original besides its redacted URL: hexadecimal of 128 bits, "" for nothing.

    >>> identity_of("s3://corpus/web"), identity_of("/data/web")
    ('', '')
    >>> one, two = (identity_of(f"https://host/web?v={version}") for version in (1, 2))
    >>> len(one), one != two
    (32, True)
    """
    if is_local(url):
        return ""
    secret = _without_fragment(url) if place_of(url).rstrip("/") != _without_fragment(url).rstrip("/") else ""
    facts = _endpoint(url)
    if secret:
        return _slow_hash(secret, "\n".join(facts))
    return blake2s("\n".join(facts).encode(), digest_size=16).hexdigest() if facts else ""


def _without_fragment(url: str) -> str:
    return url.partition("#")[0] if scheme_of(url) in ("http", "https") else url


@lru_cache(maxsize=256)
def _slow_hash(secret: str, facts: str) -> str:
    """Return a hash that takes some milliseconds, so that it is not worth trying passwords on it."""
    salt = f"mixstream original\n{place_of(secret)}\n{facts}".encode()
    return scrypt(secret.encode(), salt=salt, n=1 << 12, r=8, p=1, dklen=16).hex()


def _endpoint(url: str) -> list[str]:
    """Return what of the environment decides where the requests for a URL go, beyond the URL."""
    scheme = scheme_of(url)
    if scheme == "s3":
        endpoint = _s3_endpoint(url.partition("://")[2].partition("/")[0])
        host = (urlsplit(endpoint).hostname or "") if "://" in endpoint else endpoint
        return [endpoint.rstrip("/")] if host and not host.endswith(".amazonaws.com") else []
    if scheme in ("gs", "gcs"):
        base = os.environ.get("GOOGLE_BASE_URL", "")
        key = os.environ.get("GOOGLE_SERVICE_ACCOUNT_KEY", "")
        if not base and '"gcs_base_url"' in key:
            base = key.partition('"gcs_base_url"')[2].partition('"')[2].partition('"')[0]
        return [base.rstrip("/")] if base and "storage.googleapis.com" not in base else []
    if scheme in _AZURE:
        host = url.partition("://")[2].partition("/")[0]
        endpoints = [os.environ.get(name, "") for name in _AZURE_SETTINGS[2:]]
        names = [] if "@" in host or "." in host else [os.environ.get(name, "") for name in _AZURE_SETTINGS[:2]]
        return [value for value in (*names, *endpoints) if value]
    if scheme == "hf" and (base := os.environ.get("HF_ENDPOINT", "")) and "huggingface.co" not in base:
        return [base.rstrip("/")]
    return []


def _s3_endpoint(bucket: str) -> str:
    """Return the endpoint that is configured; "" if none is, so that it is Amazon's."""
    named = [value for name in _S3_ENDPOINTS if (value := os.environ.get(name, "").strip())]
    services = any(name.startswith("AWS_ENDPOINT_URL") for name in os.environ)
    path = Path(os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser()
    try:
        configured = path.is_file() and "endpoint_url" in path.read_text(errors="replace")
    except OSError:
        configured = False
    if not named and not services and not configured:
        return ""
    files = [
        _stamp(path),
        _stamp(Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()),
    ]
    variables = sorted(item for item in os.environ.items() if item[0].upper().startswith(("AWS_", "S3_")))
    facts = hash((*variables, *files))
    with _resolving.value:  # the streams of a dataset are opened at once
        if facts not in _endpoints:
            try:
                with unforked():
                    from mixstream.storage.stores.s3 import find_bucket
                _endpoints[facts] = find_bucket(bucket, timeout=60.0).endpoint
            except MixstreamError:  # the first request will say what is wrong
                return named[0] if named else ""
        return _endpoints[facts]


def _stamp(path: Path) -> tuple[str, int, int]:
    """Return what changes whenever a file does."""
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_size, found.st_mtime_ns
