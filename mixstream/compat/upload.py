"""`streaming.base.storage.upload`: single files from a local directory to a store, by a class for each kind of store.

The writers of mixstream do not use these: they write through `mixstream.storage`, which locks the output, retries, and
leaves no index behind an error. Programs use them to copy files of their own, and to list what a store has.
"""

import enum
import os
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from mixstream.compat.storage_scheme import boto3_client, bucket_and_key, has_hmac_keys, scheme_of
from mixstream.compat.util import retry as retried
from mixstream.errors import ConfigError, OutputExistsError
from mixstream.storage import open_store

Out = str | tuple[str, str]

_NO_GCS = (
    "Either set the environment variables `GCS_KEY` and `GCS_SECRET` or use any of the methods in "
    "https://cloud.google.com/docs/authentication/external/set-up-adc to set up Application Default Credentials. See "
    "also https://docs.mosaicml.com/projects/mcli/en/latest/resources/secrets/gcp.html."
)


class GCSAuthentication(enum.Enum):
    """How Google Cloud Storage is asked."""

    HMAC = 1
    SERVICE_ACCOUNT = 2


class CloudUploader:
    """Copies files of a local directory to a store; `get` returns the one for a place.

    Args:
        out: a directory; a URL, with a temporary directory beside it; or a pair (directory, URL or directory).
        keep_local: whether a file stays in the directory when it was copied.
        progress_bar: accepted.
        retry: attempts per file.
        exist_ok: whether the directory may hold files.

    Raises:
        ConfigError: `out` is no such place, or of another kind of store.
        OutputExistsError: the directory is not empty.
    """

    scheme: ClassVar[str] = ""

    @classmethod
    def get(
        cls, out: Out, keep_local: bool = False, progress_bar: bool = False, retry: int = 2, exist_ok: bool = False
    ) -> "CloudUploader":
        """Return the uploader for a place; see the class."""
        kind = UPLOADERS[_checked_scheme(out)]
        return kind(out, keep_local, progress_bar, retry, exist_ok)

    def __init__(
        self, out: Out, keep_local: bool = False, progress_bar: bool = False, retry: int = 2, exist_ok: bool = False
    ) -> None:
        scheme = _checked_scheme(out)
        self.keep_local, self.progress_bar, self.retry = keep_local, progress_bar, retry
        self.local, self.remote = (out, None) if isinstance(out, str) else (str(out[0]), str(out[1]))
        if self.remote is None and scheme:
            self.local, self.remote = tempfile.mkdtemp(), str(out)
        directory = Path(self.local)
        if not exist_ok and directory.is_dir() and any(directory.iterdir()):
            raise OutputExistsError(
                f"Directory is not empty: {self.local}: name another one, or pass exist_ok=True to add to it"
            )
        directory.mkdir(parents=True, exist_ok=True)
        self._open()
        if scheme:
            self.check_bucket_exists(str(self.remote))

    def _open(self) -> None:
        """Make the client, where there is one."""

    def check_bucket_exists(self, remote: str) -> None:
        """Raise an error if the bucket of a URL cannot be listed."""
        open_store(remote).names(limit=1)

    def upload_file(self, filename: str) -> None:
        """Copy a file, and remove it from the directory unless `keep_local`; without a remote, do nothing."""
        if self.remote is not None:
            retried(num_attempts=self.retry, initial_backoff=0.1)(self._send)(Path(self.local) / filename, filename)
            self.clear_local(str(Path(self.local) / filename))

    def _send(self, path: Path, name: str) -> None:
        open_store(str(self.remote)).write(name, path)

    def list_objects(self, prefix: str | None = None) -> list[str]:
        """Return the keys, within the bucket, of all objects below the remote that begin with `prefix`, sorted."""
        _, directory = bucket_and_key(str(self.remote))
        begin = f"{directory.rstrip('/')}/" if directory else ""
        return [begin + name for name in open_store(str(self.remote)).names() if name.startswith(prefix or "")]

    def clear_local(self, local: str) -> None:
        """Remove a file of the directory, unless `keep_local`."""
        if not self.keep_local and Path(local).is_file():
            Path(local).unlink()


class LocalUploader(CloudUploader):
    """Copies files to another directory of this machine."""

    def _open(self) -> None:
        if self.remote is not None:
            Path(self.remote).mkdir(parents=True, exist_ok=True)

    def _send(self, path: Path, name: str) -> None:
        shutil.copy(path, Path(str(self.remote)) / name)

    def list_objects(self, prefix: str | None = None) -> list[str]:
        """Return the paths of all files below the local directory that begin with `prefix`, sorted."""
        begin = os.path.join(self.local, prefix or "")  # noqa: PTH118 - a prefix of text, not of directories
        return sorted(
            str(path) for path in Path(self.local).rglob("*") if path.is_file() and str(path).startswith(begin)
        )


class S3Uploader(CloudUploader):
    """Copies files to S3, with boto3."""

    scheme = "s3"

    def _open(self) -> None:
        self.s3 = boto3_client("s3")

    @property
    def _client(self) -> Any:
        return self.s3

    def check_bucket_exists(self, remote: str) -> None:
        """Raise `botocore.exceptions.ClientError` if there is no such bucket."""
        self._client.head_bucket(Bucket=bucket_and_key(remote)[0])

    def _send(self, path: Path, name: str) -> None:
        bucket, key = bucket_and_key(f"{str(self.remote).rstrip('/')}/{name}")
        acl = os.environ.get("S3_CANNED_ACL") if self.scheme == "s3" else None
        extra = {} if acl is None else {"ACL": acl}
        self._client.upload_file(str(path), bucket, key, ExtraArgs=extra, Callback=lambda _: None)

    def list_objects(self, prefix: str | None = None) -> list[str]:
        """Return the keys of all objects below the remote that begin with `prefix`, sorted."""
        bucket, directory = bucket_and_key(str(self.remote))
        begin = f"{directory.rstrip('/')}/{prefix or ''}" if directory else prefix or ""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=begin)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]


class GCSUploader(S3Uploader):
    """Copies files to Google Cloud Storage, with HMAC keys by boto3 and otherwise by mixstream's own client."""

    scheme = "gs"

    def _open(self) -> None:
        self.authentication = GCSAuthentication.HMAC if has_hmac_keys() else GCSAuthentication.SERVICE_ACCOUNT
        self.gcs_client = boto3_client("gs")
        if self.gcs_client is None:
            try:
                google = import_module("google.auth")
            except ImportError:
                return  # obstore finds credentials by itself
            try:
                google.default()
            except import_module("google.auth.exceptions").DefaultCredentialsError:
                raise ConfigError(_NO_GCS) from None

    @property
    def _client(self) -> Any:
        return self.gcs_client

    def check_bucket_exists(self, remote: str) -> None:
        """Raise an error if there is no such bucket."""
        check = CloudUploader if self._client is None else S3Uploader
        check.check_bucket_exists(self, remote)

    def _send(self, path: Path, name: str) -> None:
        send = CloudUploader if self._client is None else S3Uploader
        send._send(self, path, name)

    def list_objects(self, prefix: str | None = None) -> list[str]:
        """Return the keys of all objects below the remote that begin with `prefix`, sorted."""
        listed = CloudUploader if self._client is None else S3Uploader
        return listed.list_objects(self, prefix)


class OCIUploader(CloudUploader):
    """Copies files to Oracle Cloud Infrastructure."""

    scheme = "oci"


class AzureUploader(CloudUploader):
    """Copies files to Azure Blob Storage."""

    scheme = "azure"


class AzureDataLakeUploader(CloudUploader):
    """Copies files to Azure Data Lake."""

    scheme = "azure-dl"

    def check_bucket_exists(self, remote: str) -> None:
        """Raise an error if there is no such container."""
        self.check_container_exists(remote)

    def check_container_exists(self, remote: str) -> None:
        """Raise an error if there is no such container."""
        super().check_bucket_exists(remote)


class HFUploader(CloudUploader):
    """Copies files to a repository of Hugging Face."""

    scheme = "hf"

    def check_bucket_exists(self, remote: str) -> None:
        """Raise an error if there is no such repository."""
        del remote
        self.check_dataset_exists()

    def check_dataset_exists(self) -> None:
        """Raise an error if there is no such repository."""
        super().check_bucket_exists(str(self.remote))


class DatabricksUploader(CloudUploader):
    """Refuses: files of Databricks are written where Databricks mounts them."""

    def _open(self) -> None:
        self._create_workspace_client()

    def _create_workspace_client(self) -> None:
        if self.remote is not None:
            raise ConfigError(
                f"{self.remote}: mixstream has no client for files of Databricks: give the path where Databricks "
                f"mounts them, as /dbfs/... or /Volumes/..."
            )

    def check_bucket_exists(self, remote: str) -> None:
        """Do nothing: no client was made."""


class DBFSUploader(DatabricksUploader):
    """Refuses, for the file system of Databricks."""

    scheme = "dbfs"


class DatabricksUnityCatalogUploader(DatabricksUploader):
    """Refuses, for volumes of Databricks."""

    scheme = "dbfs-uc"


class AlipanUploader(CloudUploader):
    """Refuses: there is no client for Alipan."""

    scheme = "alipan"

    def check_bucket_exists(self, remote: str) -> None:
        """Refuse."""
        del remote
        self.check_token()

    def check_token(self) -> None:
        """Refuse."""
        raise ConfigError(f"{self.remote}: mixstream has no client for Alipan: write to a disk or an object store")


UPLOADERS: dict[str, type[CloudUploader]] = {
    kind.scheme: kind
    for kind in (
        LocalUploader,
        S3Uploader,
        GCSUploader,
        OCIUploader,
        AzureUploader,
        AzureDataLakeUploader,
        HFUploader,
        DBFSUploader,
        DatabricksUnityCatalogUploader,
        AlipanUploader,
    )
}


def _checked_scheme(out: Any) -> str:
    """Return the scheme of the place that `out` names."""
    if not isinstance(out, str) and len(out) != 2:
        raise ConfigError(
            f"Invalid `out` argument: {out!r}. It is either a string of local/remote directory or a list of two "
            "strings with [local, remote]."
        )
    place = out if isinstance(out, str) else out[1]
    scheme = scheme_of(place) if isinstance(place, str) else place
    if scheme not in UPLOADERS:
        raise ConfigError(
            f"Invalid Cloud provider prefix: {scheme!r}; choose one of {', '.join(filter(None, UPLOADERS))}"
        )
    return scheme
