"""Which kind of store a URL of mosaicml-streaming is for, and the client of boto3 where that package has one.

Rules. Only S3, and Google Cloud Storage with HMAC keys, have a client of boto3, whose errors programs catch. All other
URLs go through `mixstream.storage`, which reads them for `StreamingDataset` too.
"""

import os
from typing import Any
from urllib.parse import urlparse

GCS_ENDPOINT = "https://storage.googleapis.com"


def scheme_of(place: str | None) -> str:
    """Return the scheme of a URL, "" for a path, "dbfs-uc" for a volume of Databricks.

    >>> scheme_of("s3://bucket/a"), scheme_of("/data/a"), scheme_of("dbfs:/Volumes/a")
    ('s3', '', 'dbfs-uc')
    """
    scheme = urlparse(place or "").scheme
    return "dbfs-uc" if scheme == "dbfs" and str(place).startswith("dbfs:/Volumes/") else scheme


def bucket_and_key(url: str) -> tuple[str, str]:
    """Return the bucket of a URL and what comes after it."""
    parts = urlparse(url)
    return parts.netloc, parts.path.lstrip("/")


def has_hmac_keys() -> bool:
    """Return whether GCS_KEY and GCS_SECRET are set."""
    return "GCS_KEY" in os.environ and "GCS_SECRET" in os.environ


def boto3_client(scheme: str, *, timeout: float | None = None) -> Any:
    """Return boto3's client for "s3", or for "gs" with HMAC keys; None for all others."""
    if scheme not in ("s3", "gs") or (scheme == "gs" and not has_hmac_keys()):
        return None
    import boto3
    from botocore.config import Config

    config = Config(retries={"mode": "adaptive"}, **({} if timeout is None else {"read_timeout": timeout}))
    if scheme == "s3":
        return boto3.Session().client("s3", config=config, endpoint_url=os.environ.get("S3_ENDPOINT_URL"))
    return boto3.Session().client(
        "s3",
        config=config,
        region_name="auto",
        endpoint_url=GCS_ENDPOINT,
        aws_access_key_id=os.environ["GCS_KEY"],
        aws_secret_access_key=os.environ["GCS_SECRET"],
    )
