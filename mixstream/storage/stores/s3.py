"""Amazon S3 and stores with its protocol, configured as boto3 would configure them.

What lives here: credentials, region and endpoint of one bucket, taken from a `boto3.Session`; no requests. Rules:
botocore resolves and refreshes profiles, SSO, assumed roles, `credential_process` and instance metadata, so a run can
read what `aws s3 ls` can read; the endpoint is the one that a boto3 client gets, but S3_ENDPOINT_URL takes precedence,
as in mosaicml-streaming.
Without any credentials, requests are not signed, as there. Imported for `s3://` only.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
"""

import os
import threading
from dataclasses import field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mixstream.errors import ConfigError, StoreAccessError
from mixstream.records import dataclass
from mixstream.storage.url import redact

ACCESS = (
    "credentials are given as for boto3 (`aws configure`, `aws sso login`, AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY)"
)

# Requests take time, and clocks differ.
_MARGIN = timedelta(seconds=60)
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn")
_ENDPOINTS = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # the first that is set is used
_INVALID = "Invalid endpoint: "  # botocore's words before an endpoint that is no URL


@dataclass
class Credentials:
    """Credentials as of now; also called by obstore, whenever those that it has have expired.

    Args:
        source: credentials of botocore, which refreshes them by itself.
        failure: the error of the last refresh, since obstore does not pass exceptions on.
    """

    source: Any = field(repr=False)
    failure: StoreAccessError | None = None
    _given: tuple[Any, datetime | None] | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __call__(self) -> dict[str, Any]:
        """Return credentials, and the time after which obstore has to call again (None: never)."""
        frozen, until = self._current()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": until,
        }

    def frozen(self) -> Any:
        """Return credentials of botocore that have not expired.

        Raises:
            StoreAccessError: they cannot be refreshed.
        """
        return self._current()[0]

    def _current(self) -> tuple[Any, datetime | None]:
        with self._lock:
            given = self._given
            if given is None or (given[1] is not None and datetime.now(UTC) >= given[1]):
                try:
                    frozen = self.source.get_frozen_credentials()
                except (BotoCoreError, ClientError) as error:
                    self.failure = unreadable(error)
                    raise self.failure from None
                expiry: datetime | None = getattr(self.source, "_expiry_time", None)  # there is no public attribute
                until = expiry.astimezone(UTC) - _MARGIN if expiry is not None else None
                given, self.failure = (frozen, until), None
                self._given = given
            return given


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One bucket, with the settings that boto3 would use.

    Args:
        name: of the bucket.
        region: to sign for.
        endpoint: URL of the service, without the bucket.
        virtual: whether the bucket is part of the host name (else of the path).
        credentials: None to send requests unsigned.
        authorities: certificates to trust besides the system's, PEM.
        pays: whether the requester pays.
    """

    name: str
    region: str
    endpoint: str
    virtual: bool
    credentials: Credentials | None
    authorities: bytes | None
    pays: bool

    @property
    def base(self) -> str:
        """URL of the bucket, without user and password."""
        parts = urlsplit(self.endpoint)
        host = parts.netloc.rpartition("@")[2]
        if self.virtual:
            return parts._replace(netloc=f"{self.name}.{host}").geturl()
        return f"{parts._replace(netloc=host).geturl()}/{quote(self.name)}"

    @property
    def is_amazon(self) -> bool:
        """Whether the endpoint is one of Amazon's."""
        return (urlsplit(self.endpoint).hostname or "").endswith(_AMAZON)

    def unreadable(self) -> StoreAccessError | None:
        """Return why configured credentials could not be refreshed; None if they could."""
        failure = self.credentials.failure if self.credentials is not None else None
        return StoreAccessError(str(failure)) if failure is not None else None

    def config(self) -> dict[str, Any]:
        """Return the arguments of `obstore.store.S3Store`; all of them, since it takes others from the environment."""
        endpoint = self.base if self.virtual else self.endpoint
        config: dict[str, Any] = {
            "region": self.region,
            "endpoint": endpoint,
            "virtual_hosted_style_request": self.virtual,
            "request_payer": self.pays,
            "disable_bulk_delete": True,  # not every server supports it
            "skip_signature": self.credentials is None,
        }
        if "AWS_ENDPOINT_URL_S3" in os.environ:  # obstore prefers the variable to `endpoint`
            config["aws_endpoint_url_s3"] = endpoint
        if self.credentials is not None:
            config["credential_provider"] = self.credentials
        return config


def find_bucket(name: str, *, timeout: float, region: str | None = None) -> Bucket:
    """Return the settings of a bucket, from the environment and the configuration files as they are now.

    Args:
        name: of the bucket.
        timeout: seconds per request of boto3.
        region: of the bucket, if it is known to differ from the configured one.

    Raises:
        StoreAccessError: a profile or a configuration file cannot be read.
        ConfigError: the endpoint is no URL.
    """
    try:
        session = boto3.Session()
        source = session.get_credentials()
        client = session.client(
            "s3",
            region_name=region,
            endpoint_url=os.environ.get("S3_ENDPOINT_URL", "").strip() or None,
            config=Config(
                connect_timeout=timeout,
                read_timeout=timeout,
                retries={"total_max_attempts": 1},
                signature_version=botocore.UNSIGNED if source is None else None,
            ),
        )
        settings = session._session.get_scoped_config().get("s3", {})  # boto3 has no public way to get it
        bundle = session._session.get_config_variable("ca_bundle")
    except BotoCoreError as error:
        raise unreadable(error) from None
    except ValueError as error:
        if str(error).startswith(_INVALID):
            raise _no_endpoint(str(error).removeprefix(_INVALID)) from None
        raise StoreAccessError(f"s3://{name}: {redact(str(error))}; check the AWS_ and S3_ variables") from None
    endpoint: str = client.meta.endpoint_url
    if not endpoint.lower().startswith(("http://", "https://")):
        raise _no_endpoint(endpoint)
    return Bucket(
        name=name,
        region=region or _region_of(client),
        endpoint=endpoint.rstrip("/"),
        virtual=_is_virtual(name, endpoint, settings.get("addressing_style") if isinstance(settings, dict) else None),
        credentials=None if source is None else Credentials(source),
        authorities=_read_authorities(bundle),
        pays=name in os.environ.get("MOSAICML_STREAMING_AWS_REQUESTER_PAYS", "").split(","),
    )


def unreadable(error: BotoCoreError | ClientError) -> StoreAccessError:
    """Return the error for credentials that are configured and cannot be read."""
    words = type(error).__name__
    if isinstance(error, BotoCoreError):
        words = " ".join(redact(str(error)).split())[:300]
    return StoreAccessError(f"AWS credentials could not be read: {words}; {ACCESS}")


def _no_endpoint(value: str) -> ConfigError:
    """Return the error for an endpoint that requests cannot be sent to."""
    name = next((name for name in _ENDPOINTS if os.environ.get(name, "").strip() == value.strip()), "endpoint_url")
    scheme, _, rest = value.strip().rpartition("://")
    redacted = rest.rpartition("@")[2].partition("?")[0]  # without a scheme, `redact` does not find the secret
    if scheme.lower() in ("http", "https"):
        return ConfigError(f"{name}={scheme}://{redacted} names no host; write {name}={scheme}://HOST:PORT")
    before = f"{scheme}://" if scheme else ""
    return ConfigError(f"{name}={before}{redacted} has no http:// or https://; write {name}=http://{redacted}")


def _region_of(client: Any) -> str:
    region = client.meta.region_name
    return "us-east-1" if region in (None, "aws-global") else region


def _is_virtual(bucket: str, endpoint: str, style: str | None) -> bool:
    """Return whether the bucket goes into the host name: as configured, else at Amazon only."""
    if style in ("path", "virtual"):
        return style == "virtual"
    host = urlsplit(endpoint).hostname or ""
    return host.endswith(_AMAZON) and "." not in bucket  # TLS names match one label


def _read_authorities(bundle: str | None) -> bytes | None:
    if not bundle:
        return None
    try:
        return Path(bundle).read_bytes()
    except OSError as error:
        raise StoreAccessError(
            f"{bundle}: could not read these TLS certificates: {error.strerror}; correct AWS_CA_BUNDLE, or `ca_bundle` "
            "in ~/.aws/config"
        ) from None
