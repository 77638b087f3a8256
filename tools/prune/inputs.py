"""Embeddings, scores, prototypes and selections as the commands read them, by domain; and what does not fit together.

Rule: a mismatch is refused by the names of both files, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, SelectionError
from mixstream.selection import Scores, same_shards

from ..shared.artefacts import find_domains_of, is_kind

if TYPE_CHECKING:  # they import torch, which `keep` does not need
    from mixstream.selection.prototypes import KMeans, Prototypes

EMBEDDING, CLUSTER, DISTANCE, NEAREST, TOKENS = "embedding", "cluster", "proto_dist", "nn_sim", "n_tokens"


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The embeddings of one domain.

    Attributes:
        scores: the artefact.
        column: the name of their column.
    """

    scores: Scores
    column: str

    @classmethod
    def open(cls, path: Path, column: str | None = None) -> Embeddings:
        """Open embeddings; their column is `column`, or "embedding", or the only one that holds vectors."""
        scores = Scores.open(path)
        vectors = [name for name, each in scores.columns.items() if len(each.shape) == 1 and each.type.kind == "f"]
        if column is None:
            column = EMBEDDING if EMBEDDING in vectors else vectors[0] if len(vectors) == 1 else None
        if column is None:
            found = f"several columns of vectors, {vectors}" if vectors else f"no vectors, only {list(scores.columns)}"
            raise ConfigError(f"{path} has {found}: give embeddings (`mixstream embed` makes them), or name --column")
        if column not in vectors:
            raise ConfigError(f"{path} has no column of vectors {column!r}; it has {vectors or list(scores.columns)}")
        if not scores.merged:
            raise ConfigError(f"{path} is not complete yet, only parts of it exist: run `mixstream embed` to its end")
        return cls(scores=scores, column=column)

    @property
    def vectors_ND(self) -> NDArray[Any]:
        """The vectors, [rows, d], mapped."""
        return self.scores.column(self.column)

    @property
    def dimensions(self) -> int:
        """How long a vector is."""
        return self.scores.columns[self.column].shape[0]

    @property
    def embedder(self) -> Any:
        """What made them, as they say; None if they do not say."""
        return self.scores.made["inputs"].get("embedder")


def find_embeddings(path: str, names: Sequence[str] = ()) -> dict[str, Path]:
    """Return the directories of the embeddings at a path, by domain; those of `names`, if any.

    Raises:
        SelectionError: there are none.
        ConfigError: a name without embeddings.
    """
    if not is_kind(path, "scores"):
        raise SelectionError(
            f"no embeddings in {path} or in a directory below it: check the path, or make them (`mixstream embed "
            f"SHARDS --out {path}`)"
        )
    return find_domains_of(path, "scores", names)


def require_fitting(embeddings: Embeddings, prototypes: Prototypes) -> None:
    """Refuse prototypes that vectors of another embedder made.

    Raises:
        SelectionError: another dimension, or another embedder.
    """
    place, other = embeddings.scores.path, prototypes.path
    k, dimensions = prototypes.centroids_KD.shape
    if dimensions != embeddings.dimensions:
        raise SelectionError(
            f"{other} has {k:,} prototypes of {dimensions} dimensions, the embeddings in {place} have "
            f"{embeddings.dimensions}: fit prototypes on them (`mixstream prune fit --emb {place}`)"
        )
    if prototypes.embedder != embeddings.embedder:
        raise SelectionError(
            f"{other} was fitted on embeddings of {_short(prototypes.embedder)}, {place} has embeddings of "
            f"{_short(embeddings.embedder)}: cosines between them mean nothing; fit prototypes on these embeddings"
        )


def require_assigned(scores: Scores, embeddings: Embeddings) -> None:
    """Refuse scores that were not assigned from these embeddings.

    Raises:
        SelectionError: they describe other rows, or other vectors.
    """
    same_shards(str(scores.path), scores.table, str(embeddings.scores.path), embeddings.scores.table)
    source = scores.made["inputs"].get("embeddings")
    if source != embeddings.scores.id:
        raise SelectionError(
            f"the clusters in {scores.path} were assigned from embeddings {source}, {embeddings.scores.path} has "
            f"{embeddings.scores.id}: run `mixstream prune assign` on these embeddings"
        )


def column_of(scores: Scores, name: str, *, made_by: str) -> NDArray[Any]:
    """Return a column of numbers, [rows], mapped.

    Raises:
        ConfigError: there is none; `made_by` says which command makes it.
    """
    if name not in scores.columns:
        raise ConfigError(f"{scores.path} has no column {name!r}, only {list(scores.columns)}: {made_by}")
    if scores.columns[name].shape:
        raise ConfigError(f"the column {name!r} of {scores.path} holds vectors; a number for each row is needed")
    return scores.column(name)


def tokens_of(scores: Scores, row_tokens: int | None = None) -> NDArray[Any] | None:
    """Return the tokens of each row, [rows]: `row_tokens` of every row, or a mapped column; None if not counted."""
    if row_tokens is not None:
        return np.broadcast_to(np.uint32(row_tokens), (scores.rows,))
    return scores.column(TOKENS) if TOKENS in scores.columns else None


def settings_of(kmeans: KMeans) -> dict[str, Any]:
    """Return what decides the result of k-means, for `made["inputs"]`; the device does not."""
    settings = {
        "k": "sqrt" if kmeans.k is None else kmeans.k,
        "sample_per_prototype": kmeans.sample,
        "iterations": kmeans.iterations,
        "seed": kmeans.seed,
        "engine": kmeans.engine,
    }
    if kmeans.engine == "faiss":
        with suppress(ImportError):  # `fit` says which package is missing
            import faiss

            settings["faiss"] = faiss.__version__
    return settings


def parse_k(text: str) -> int | None:
    """Return the number of prototypes of `--k`; None for `sqrt`.

    Raises:
        ConfigError: neither `sqrt` nor a number.
    """
    if text == "sqrt":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--k {text}: give `sqrt` (the root of the number of rows) or a number such as 1000")
    return int(text)


def _short(value: Any) -> str:
    if value is None:
        return "an unknown embedder"
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
