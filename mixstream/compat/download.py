"""`streaming.base.storage.download`: one file from a store to a path, by a class for each kind of store.

`StreamingDataset` does not use these: it reads through `mixstream.storage`, with its own retries and checks. A class
that a program adds to `DOWNLOADER_MAPPINGS` is used by `CloudDownloader` only. A file appears whole or not at all.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

from mixstream.compat.constants import DEFAULT_TIMEOUT
from mixstream.compat.storage_scheme import boto3_client, bucket_and_key, scheme_of
from mixstream.errors import ConfigError
from mixstream.storage import Retry, move_whole, open_store, read_object


class CloudDownloader:
    """Downloads single files; `get` returns the one for a URL.

    Attributes:
        scheme: of the URLs that it takes.
    """

    scheme: ClassVar[str] = ""

    @classmethod
    def get(cls, remote_dir: str | None = None) -> "CloudDownloader":
        """Return the downloader for a URL or path.

        Raises:
            ConfigError: there is none for it.
        """
        scheme = scheme_of(remote_dir)
        if scheme not in DOWNLOADER_MAPPINGS:
            known = ", ".join(f"{name}://" for name in DOWNLOADER_MAPPINGS if name)
            raise ConfigError(f"Unsupported remote path: {remote_dir}; its scheme is none of {known}")
        return DOWNLOADER_MAPPINGS[scheme]()

    @classmethod
    def direct_download(cls, remote: str | None, local: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Download one file, as `download` does."""
        downloader = cls.get(remote)
        downloader.download(remote, local, timeout)
        downloader.clean_up()

    def download(self, remote: str | None, local: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Download a file, unless `local` exists.

        Args:
            remote: URL or path of the file.
            local: where it is to be.
            timeout: seconds per request.

        Raises:
            ConfigError: `remote` is missing, or no URL for this class.
            StoreError: it cannot be read; of S3, `botocore.exceptions.ClientError`.
        """
        if Path(local).exists():
            return
        if not remote:
            raise ConfigError("In the absence of local dataset, path to remote dataset must be provided")
        self._check(remote)
        Path(local).parent.mkdir(parents=True, exist_ok=True)
        aside = Path(f"{local}.{os.getpid()}.tmp")
        try:
            self._fetch(remote, aside, timeout)
            move_whole(aside, Path(local))
        finally:
            aside.unlink(missing_ok=True)

    def clean_up(self) -> None:
        """Forget clients; they are made anew when they are needed."""

    def _check(self, remote: str) -> None:
        if scheme_of(remote) != self.scheme:
            raise ConfigError(f"Expected remote path to start with url scheme of `{self.scheme}`, got {remote}.")

    def _fetch(self, remote: str, path: Path, timeout: float) -> None:
        directory, _, name = remote.rpartition("/")
        retry = Retry(attempts=1, timeout=timeout, knobs=("", "timeout"))
        path.write_bytes(read_object(open_store(directory, timeout=timeout), name, size=None, retry=retry) or b"")


class LocalDownloader(CloudDownloader):
    """Copies files of this machine."""


class S3Downloader(CloudDownloader):
    """Downloads from S3, with boto3."""

    scheme = "s3"

    def __init__(self) -> None:
        self._client: Any = None

    def clean_up(self) -> None:
        """Forget the client."""
        self._client = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_client": None}

    def _fetch(self, remote: str, path: Path, timeout: float) -> None:
        self._client = self._client or boto3_client(self.scheme, timeout=timeout)
        if self._client is None:
            super()._fetch(remote, path, timeout)
            return
        bucket, key = bucket_and_key(remote)
        pays = bucket in os.environ.get("MOSAICML_STREAMING_AWS_REQUESTER_PAYS", "").replace(" ", "").split(",")
        self._client.download_file(bucket, key, str(path), ExtraArgs={"RequestPayer": "requester"} if pays else {})


class GCSDownloader(S3Downloader):
    """Downloads from Google Cloud Storage: with HMAC keys by boto3, otherwise as `StreamingDataset` does."""

    scheme = "gs"

    def _fetch(self, remote: str, path: Path, timeout: float) -> None:
        from botocore.exceptions import ClientError

        try:
            super()._fetch(remote, path, timeout)
        except ClientError as error:
            raise FileNotFoundError(f"Object {remote} not found: {error}; check its path and your rights") from error


class SFTPDownloader(CloudDownloader):
    """Downloads by SFTP."""

    scheme = "sftp"


class OCIDownloader(CloudDownloader):
    """Downloads from Oracle Cloud Infrastructure."""

    scheme = "oci"


class AzureDownloader(CloudDownloader):
    """Downloads from Azure Blob Storage."""

    scheme = "azure"


class AzureDataLakeDownloader(CloudDownloader):
    """Downloads from Azure Data Lake."""

    scheme = "azure-dl"


class HFDownloader(CloudDownloader):
    """Downloads from repositories of Hugging Face: `hf://datasets/OWNER/NAME/PATH`."""

    scheme = "hf"

    def _check(self, remote: str) -> None:
        super()._check(remote)
        kind, *_ = (parts := remote.removeprefix("hf://").split("/"))
        if kind not in ("datasets", "spaces") or len(parts) < 4:  # a kind, an owner, a name, and a path
            raise ConfigError(f"{remote} names no file of a repository: write hf://datasets/OWNER/NAME/PATH")


class DBFSDownloader(CloudDownloader):
    """Downloads from the file system of Databricks."""

    scheme = "dbfs"

    def _check(self, remote: str) -> None:
        if not remote.startswith("dbfs:/"):
            raise ConfigError(f"Expected remote path to start with `dbfs:/`, got {remote}.")


class DatabricksUnityCatalogDownloader(CloudDownloader):
    """Refuses: volumes of Databricks are read where Databricks mounts them."""

    scheme = "dbfs-uc"

    def _check(self, remote: str) -> None:
        if scheme_of(remote) != self.scheme:
            raise ConfigError(f"Expected path prefix to be `dbfs:/Volumes`, got {remote}.")
        raise ConfigError(
            f"{remote}: mixstream has no client for volumes of Databricks: give the path where Databricks mounts it, "
            f"{remote.removeprefix('dbfs:')}"
        )


class AlipanDownloader(CloudDownloader):
    """Refuses: there is no client for Alipan."""

    scheme = "alipan"

    def _fetch(self, remote: str, path: Path, timeout: float) -> None:
        raise ConfigError(
            f"{remote}: mixstream has no client for Alipan: copy the dataset to a disk or an object store"
        )


DOWNLOADER_MAPPINGS: dict[str, type[CloudDownloader]] = {
    kind.scheme: kind
    for kind in (
        LocalDownloader,
        S3Downloader,
        GCSDownloader,
        SFTPDownloader,
        OCIDownloader,
        AzureDownloader,
        AzureDataLakeDownloader,
        HFDownloader,
        DBFSDownloader,
        DatabricksUnityCatalogDownloader,
        AlipanDownloader,
    )
}
