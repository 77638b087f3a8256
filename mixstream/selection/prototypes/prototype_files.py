"""Prototypes on disk: a manifest and `centroids.npy`, in a directory for each domain (format `mixstream.prototypes/1`).

Rules. They appear whole or not at all. The manifest says which embeddings they were fitted on and which embedder made
these, so that vectors of another embedder are refused. A reader checks the file's hash and the vectors' norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from hashlib import blake2b
from os import PathLike
from typing import Any

import msgspec
import numpy as np

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.artefact_files import check_files, open_files
from mixstream.selection.manifest import (
    PROTOTYPES,
    FileRecord,
    check_made,
    decode_manifest,
    directory_of,
    encode_manifest,
)
from mixstream.selection.npy import ArrayWriter, hash_file, refuse
from mixstream.selection.staging import MANIFEST, StagedFiles

from .fixed_point import Vectors
from .kmeans import Float32

CENTROIDS = "centroids.npy"
_F4 = np.dtype("<f4")


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    domain: str
    k: int
    dimensions: int
    embedder: Any
    made: dict[str, Any]
    files: dict[str, FileRecord]
    id: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Prototypes:
    """The prototypes of one domain.

    Attributes:
        path: the directory that they were read from.
        domain: whose rows they were fitted on.
        centroids_KD: float32 [K, D], unit vectors, mapped.
        embedder: what made the embeddings, as these say; None if they do not say.
        made: how they were made (`provenance`).
        id: hexadecimal of 128 bits, over the vectors and the embedder.
    """

    path: str
    domain: str
    centroids_KD: Float32 = field(repr=False)
    embedder: Any
    made: Mapping[str, Any]
    id: str

    @classmethod
    def open(cls, path: str | PathLike[str], *, domain: str | None = None) -> Prototypes:
        """Open prototypes, and check them.

        Args:
            path: of the artefact, or of a directory that has it as `domain`.
            domain: name of the sub-directory, where `path` itself is no artefact.

        Raises:
            SelectionError: there are none, or they are damaged.
        """
        files, data = open_files(path, domain=domain, kind="prototypes")
        where = f"{files.place}/{MANIFEST}"
        if data is None:
            refuse(where, "it is missing")
        record = decode_manifest(data, _Record, (PROTOTYPES,), where=where)
        check_files(record.files, (CENTROIDS,), where=where)
        if not 1 <= record.k < 1 << 31 or not 1 <= record.dimensions < 1 << 31:
            refuse(where, f"it says {record.k} prototypes of {record.dimensions} dimensions")
        files.verify(record.files)
        shape = record.k, record.dimensions
        centroids_KD = files.array(CENTROIDS, record.files[CENTROIDS], dtype=_F4, shape=shape)
        if record.id != (found := _id(record.files[CENTROIDS], record.embedder)):
            refuse(where, f"its id is {record.id[:40]!r}, its content has {found}")
        try:
            Vectors.of(centroids_KD)
        except ConfigError as error:
            refuse(f"{files.place}/{CENTROIDS}", str(error))
        return cls(
            path=files.place, domain=record.domain, centroids_KD=centroids_KD, embedder=record.embedder,
            made=record.made, id=record.id,
        )  # fmt: skip


def write_prototypes(
    path: str | PathLike[str],
    *,
    domain: str,
    centroids_KD: Float32,
    embedder: Any,
    made: Mapping[str, Any],
    overwrite: bool = False,
) -> Prototypes:
    """Write the prototypes of a domain, and return them as a reader sees them.

    >>> from tempfile import TemporaryDirectory
    >>> from mixstream.selection import provenance
    >>> centroids_KD = np.eye(2, 3, dtype=np.float32)
    >>> with TemporaryDirectory() as place:
    ...     write_prototypes(
    ...         place, domain="web", centroids_KD=centroids_KD, embedder="model", made=provenance({})
    ...     ).centroids_KD.shape
    (2, 3)

    Args:
        path: directory of the artefact.
        domain: whose rows they were fitted on.
        centroids_KD: float32 [K, D], unit vectors.
        embedder: what made the embeddings; any JSON value.
        made: how (`provenance`).
        overwrite: replace what is there.

    Raises:
        ConfigError: a vector whose norm is not 1.
        OutputExistsError: an artefact is there, and not `overwrite`.
    """
    Vectors.of(centroids_KD)
    with StagedFiles(directory_of(path), overwrite=overwrite) as staged:
        writer = ArrayWriter(staged.directory / CENTROIDS, _F4, centroids_KD.shape[1:])
        try:
            writer.write(np.asarray(centroids_KD, dtype=_F4))
            writer.close()
        finally:
            writer.abort()
        file = staged.directory / CENTROIDS
        record = FileRecord(bytes=file.stat().st_size, xxh3_128=hash_file(file))
        content = {
            "format": PROTOTYPES,
            "domain": domain,
            "k": len(centroids_KD),
            "dimensions": centroids_KD.shape[1],
            "embedder": embedder,
            "made": check_made(made),
            "files": {CENTROIDS: msgspec.to_builtins(record)},
            "id": _id(record, embedder),
        }
        staged.publish([CENTROIDS], manifest=encode_manifest(content))
    return Prototypes.open(path)


def _id(file: FileRecord, embedder: Any) -> str:
    return blake2b(msgspec.json.encode([file.xxh3_128, embedder], order="sorted"), digest_size=16).hexdigest()
