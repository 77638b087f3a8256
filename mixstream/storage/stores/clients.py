"""Clients of object stores: the bucket of a URL, and the one client of it that all stores of this process share.

Rules: one client, hence one pool of connections, per bucket, timeout and environment, however many stores there are; a
client is made by the first request, never by opening a store, and is kept until `renew`. obstore's own retries are
off: a caller that counts attempts must see each. Nothing here may run in a forked child of a process that used obstore.
Servers that could be anyone's, of http(s):// URLs and of S3 endpoints, are asked through `transport`, which bounds what
they may send and where credentials may go. obstore is for Google's and Azure's, and for large reads from S3 over TLS.

How to write buckets: s3://bucket/dir; gs://bucket/dir; az://container/dir, abfs(s)://container@account.host/dir and
azure://account.host/container/dir (as in mosaicml-streaming); http(s)://any/dir.
"""

import base64
import os
import threading
from dataclasses import field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies_environment

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.storage.forks import ProcessLocal
from mixstream.storage.stores.client_errors import Operation
from mixstream.storage.stores.http_objects import HttpObjects
from mixstream.storage.stores.obstore_objects import ObstoreObjects, locked
from mixstream.storage.stores.s3_objects import S3Objects, signer
from mixstream.storage.stores.transport import Sign, Transport
from mixstream.storage.url import redact, scheme_of, split_url

if TYPE_CHECKING:
    from mixstream.storage.stores.s3 import Bucket

# The kinds of schemes that are not named like their kind.
_KINDS = {"gcs": "gs", "azure": "az", "azure-dl": "az", "abfs": "az", "abfss": "az", "https": "http"}
_ACCESS = {
    "gs": (
        "credentials are given by `gcloud auth application-default login`, by GOOGLE_APPLICATION_CREDENTIALS, or by "
        "GCS_KEY and GCS_SECRET; for a public bucket set GOOGLE_SKIP_SIGNATURE=true"
    ),
    "az": (
        "credentials are given by AZURE_ACCOUNT_NAME and AZURE_ACCOUNT_ACCESS_KEY, by AZURE_STORAGE_SAS_TOKEN, or by "
        "`az login` and AZURE_USE_AZURE_CLI=true; for a public container set AZURE_SKIP_SIGNATURE=true"
    ),
    "http": (
        "credentials are given in the URL (user:password before the host, or a signed query); a bucket is better "
        "written s3://BUCKET/... with S3_ENDPOINT_URL"
    ),
}
_SETTINGS = ("AWS_", "S3_", "GCS_", "GOOGLE_", "AZURE_", "MOSAICML_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_")
_NO_RETRIES: Any = {"max_retries": 0}
_CONNECT = 20.0  # seconds: no network is slower, and a host that is down should not use up a whole timeout
_BULK = 1 << 20  # bytes from which on a read is made without the GIL, where it can be


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The directory that a URL names.

    Args:
        kind: "s3", "gs", "az" or "http".
        bucket: or container; for http, the URL of the directory.
        prefix: the directory in the bucket, without slashes at its ends.
        account: Azure's, if the URL names it.
    """

    kind: str
    bucket: str = field(repr=False)  # an http URL may hold credentials
    prefix: str = ""
    account: str | None = None


def address_of(url: str) -> Address:
    """Return the directory that a URL names.

    Raises:
        ConfigError: it names no bucket.
    """
    scheme = scheme_of(url)
    kind = _KINDS.get(scheme, scheme)
    if kind == "http":
        parts = split_url(url)
        if not parts.hostname:
            raise ConfigError(f"{redact(url)!r} names no host: write {scheme}://host/directory")
        return Address(kind=kind, bucket=parts._replace(path=parts.path.rstrip("/"), fragment="").geturl())
    host, _, path = url.partition("://")[2].partition("/")
    account = None
    if kind == "az" and "@" in host:
        host, _, account = host.partition("@")
    elif kind == "az" and "." in host:
        account, (host, _, path) = host, path.partition("/")
    if kind == "s3" and ("@" in host or (":" in host and "@" in path)):  # a secret may have slashes
        raise ConfigError(
            f"credentials cannot be written into an s3:// URL: write {redact(url)} and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or a profile"
        )
    if not host or "@" in host or ":" in host:
        example = "container" if kind == "az" else "bucket"
        raise ConfigError(
            f"{redact(url)!r} names no {example}: write {scheme}://{example}/directory; credentials and endpoints come "
            "from the environment, not from the URL"
        )
    prefix = "/".join(part for part in path.split("/") if part)
    return Address(kind=kind, bucket=host, prefix=prefix, account=account.partition(".")[0] if account else None)


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client of one bucket.

    Args:
        kind: as of `Address`.
        pool: makes the requests.
        bulk: makes large reads; None if `pool` makes these too.
        signed: whether there are credentials to sign requests with.
        access: how to give credentials, in words to type.
        bucket: for S3, its settings as boto3 resolved them.
    """

    kind: str
    pool: HttpObjects | ObstoreObjects = field(repr=False)
    bulk: ObstoreObjects | None = field(default=None, repr=False)
    signed: bool = True
    access: str = ""
    bucket: "Bucket | None" = None

    def reads(self, size: int) -> HttpObjects | ObstoreObjects:
        """Return what makes a read of `size` bytes."""
        return self.bulk if self.bulk is not None and size >= _BULK else self.pool


_Key = tuple[Address, float, int]
_clients: dict[_Key, Client] = {}
_regions: dict[_Key, str] = {}  # of S3 buckets in another region than configured
_lock = ProcessLocal(threading.Lock)


class _Used(threading.local):
    """The clients that a thread has used."""

    def __init__(self) -> None:
        self.clients: dict[_Key, Client] = {}


_used = _Used()


def client_of(address: Address, timeout: float) -> Client:
    """Return the client of a bucket; it is made if there is none yet.

    Raises:
        StoreAccessError: configured credentials cannot be read.
        ConfigError: no client can be made with the settings.
    """
    key = _key(address, timeout)
    client = _clients.get(key)
    if client is None:
        with _lock.value:
            client = _clients.get(key)
            if client is None:
                client = _clients[key] = _make(key[0], timeout, _regions.get(key))
    _used.clients[key] = client
    return client


def date_of(address: Address, timeout: float, operation: Operation) -> float | None:
    """Return the time of a bucket's server in seconds since 1970; None if it gives none.

    Raises:
        StoreError: it does not answer.
    """
    asking = HttpObjects(base="", transport=Transport(timeout=min(timeout, 10.0)))
    return asking.date(operation, endpoint_of(address, timeout))


def endpoint_of(address: Address, timeout: float) -> str:
    """Return a URL at the server of a bucket, without credentials, that answers whether it may be read or not."""
    if address.kind == "http":
        parts = urlsplit(address.bucket)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
    if address.kind == "s3":
        from mixstream.storage.stores.s3 import find_bucket

        # boto3 takes a tenth of a second to say it again. No client is made for it: this may be a forked child.
        there = _clients.get(_key(address, timeout))
        bucket = there.bucket if there is not None else None
        return (bucket or find_bucket(address.bucket, timeout=timeout)).endpoint
    if address.kind == "gs":
        return os.environ.get("GOOGLE_BASE_URL") or "https://storage.googleapis.com"
    account = address.account or os.environ.get("AZURE_ACCOUNT_NAME", "")
    given = os.environ.get("AZURE_STORAGE_ENDPOINT", os.environ.get("AZURE_ENDPOINT", ""))
    return given or f"https://{account}.blob.core.windows.net"


def drop(address: Address, timeout: float) -> None:
    """Forget the client of a bucket: the next request reads credentials again.

    When requests of many threads through one client are refused, the first thread drops it; the others use the next.
    """
    key = _key(address, timeout)
    mine = _used.clients.pop(key, None)
    with _lock.value:
        if mine is None or _clients.get(key) is mine:
            _clients.pop(key, None)


def move(address: Address, timeout: float, client: Client) -> bool:
    """Find the region of a bucket, and let the next request make a client for it; return whether it is another one."""
    if client.bucket is None or not isinstance(client.pool, S3Objects):
        return False
    key = _key(address, timeout)
    region = _regions.get(key)
    if region in (None, client.bucket.region):
        place = f"s3://{address.bucket}"
        region = client.pool.region(Operation(act="find the region of", place=place))
    if region in (None, client.bucket.region):
        return False
    with _lock.value:
        _regions[key] = region
        if _clients.get(key) is client:
            del _clients[key]
    return True


def _key(address: Address, timeout: float) -> _Key:
    settings = hash(tuple(sorted(item for item in os.environ.items() if item[0].upper().startswith(_SETTINGS))))
    return replace(address, prefix=""), timeout, settings


def _make(address: Address, timeout: float, region: str | None) -> Client:
    options: Any = {
        "timeout": timedelta(seconds=timeout),  # obstore's covers the body
        "connect_timeout": timedelta(seconds=min(timeout, _CONNECT)),
    }
    try:
        if address.kind == "s3":
            return _make_s3(address, timeout, region, options)
        if address.kind == "http":
            return _make_http(address, timeout)
        if address.kind == "gs" and "GCS_KEY" in os.environ and "GCS_SECRET" in os.environ:
            return _make_hmac(address, timeout)
        return {"gs": _make_gcs, "az": _make_azure}[address.kind](address, options)
    except (BaseError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        words = redact(str(error).partition("\n\nDebug source:")[0])[:200]
        place = redact(address.bucket) if address.kind == "http" else f"{address.kind}://{address.bucket}"
        raise ConfigError(
            f"{place}: no client can be made with these settings: {words}; check the variables of the environment "
            f"that begin with {', '.join(_SETTINGS[:5])}"
        ) from None


def _make_s3(address: Address, timeout: float, region: str | None, options: Any) -> Client:
    from mixstream.storage.stores.s3 import ACCESS, find_bucket

    bucket = find_bucket(address.bucket, timeout=timeout, region=region)
    given, parts = bucket.credentials, urlsplit(bucket.base)
    objects = S3Objects(
        base=bucket.base,
        transport=Transport(timeout=timeout, authorities=bucket.authorities),
        sign=signer(given.frozen, bucket.region) if given is not None else None,
        acl=os.environ.get("S3_CANNED_ACL", ""),
        headers={"x-amz-request-payer": "requester"} if bucket.pays else {},
    )
    bulk = None
    token = given is not None and given.frozen().token
    # A user's proxy would be in the place of the lock. The lock knows hosts, not ports; all of Amazon's are its own.
    if (
        parts.scheme == "https"
        and (bucket.is_amazon or not token)
        and not getproxies_environment().keys() & {"https", "all"}
    ):
        options |= {"allow_http": False, **locked(parts.hostname or "")}
        if bucket.authorities is not None:
            options["root_certificate"] = bucket.authorities
        pool = S3Store(address.bucket, **bucket.config(), client_options=options, retry_config=_NO_RETRIES)
        bulk = ObstoreObjects(pool=pool, unreadable=bucket.unreadable)
    return Client(kind="s3", pool=objects, bulk=bulk, signed=given is not None, access=ACCESS, bucket=bucket)


def _make_gcs(address: Address, options: Any) -> Client:
    base = os.environ.get("GOOGLE_BASE_URL", "")
    options["allow_http"] = base.startswith("http://") or "gcs_base_url" in os.environ.get(
        "GOOGLE_SERVICE_ACCOUNT_KEY", ""
    )
    pool = GCSStore(address.bucket, client_options=options, retry_config=_NO_RETRIES)
    return Client(kind="gs", pool=ObstoreObjects(pool=pool), access=_ACCESS["gs"])


def _make_hmac(address: Address, timeout: float) -> Client:
    """Return the client of a bucket of Google with HMAC keys, which are for the S3 protocol."""
    from botocore.credentials import Credentials

    keys = Credentials(os.environ["GCS_KEY"], os.environ["GCS_SECRET"]).get_frozen_credentials()
    base = (os.environ.get("GOOGLE_BASE_URL") or "https://storage.googleapis.com").rstrip("/")
    objects = S3Objects(
        base=f"{base}/{quote(address.bucket)}",
        transport=Transport(timeout=timeout),
        sign=signer(lambda: keys, "auto"),
    )
    return Client(kind="gs", pool=objects, access=_ACCESS["gs"])


def _make_azure(address: Address, options: Any) -> Client:
    settings: dict[str, Any] = {}
    if account := address.account or os.environ.get("AZURE_ACCOUNT_NAME"):
        settings["account_name"] = account
    elif not os.environ.keys() & {"AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"}:
        raise ConfigError(
            f"az://{address.bucket}: no storage account is named: set AZURE_ACCOUNT_NAME, or write "
            f"abfss://{address.bucket}@ACCOUNT.dfs.core.windows.net/directory"
        )
    if key := os.environ.get("AZURE_ACCOUNT_ACCESS_KEY"):
        settings["account_key"] = key
    endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT", os.environ.get("AZURE_ENDPOINT", ""))
    emulated = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true")
    options["allow_http"] = emulated or endpoint.startswith("http://")
    account_host = urlsplit(endpoint).hostname or f"{settings.get('account_name', '')}.blob.core.windows.net"
    sas = os.environ.keys() & {"AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"}
    if sas and not getproxies_environment().keys() & {"http", "https", "all"}:  # is a query, which would be a Referer
        options |= locked(account_host)
    pool = AzureStore(address.bucket, **settings, client_options=options, retry_config=_NO_RETRIES)
    return Client(kind="az", pool=ObstoreObjects(pool=pool), access=_ACCESS["az"])


def _make_http(address: Address, timeout: float) -> Client:
    parts = urlsplit(address.bucket)
    user, found, host = parts.netloc.rpartition("@")
    objects = HttpObjects(
        base=parts._replace(netloc=host, query="").geturl(),
        transport=Transport(timeout=timeout),
        sign=_basic(user) if found else None,
        query=parts.query,
    )
    return Client(kind="http", pool=objects, signed=bool(found or parts.query), access=_ACCESS["http"])


def _basic(user: str) -> Sign:
    """Return what adds the user and password of a URL to a request."""
    secret = base64.b64encode(unquote(user if ":" in user else f"{user}:").encode()).decode()
    return lambda method, url, headers, body: headers | {"Authorization": f"Basic {secret}"}
