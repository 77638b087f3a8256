"""Prototype pruning: how typical is a row, which rows are near-duplicates, and which to keep.

    fixed_point      unit vectors as integers: sums and cosines that are equal on every machine
    kmeans           prototypes of a domain, and the distance of each row to the nearest one
    prototype_files  prototypes on disk
    clusters         the rows of a domain by cluster, and blocks of their vectors
    dedup            SemDeDup: near-duplicates inside a cluster, and which of them to keep
    d4               D4: near-duplicates go first, then k-means again, then the most typical rows

But for `prototype_files`, these are pure functions on arrays, which may be mapped from files.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.selection.prototypes.clusters import Clusters
    from mixstream.selection.prototypes.d4 import D4, KMeans, assign_rows, fit_rows, prune_d4
    from mixstream.selection.prototypes.dedup import bisect_threshold, duplicate_of, nearest_earlier, threshold_for
    from mixstream.selection.prototypes.kmeans import Fit, Step, Sums, assign, default_k, fit, lloyd_part
    from mixstream.selection.prototypes.prototype_files import Prototypes, write_prototypes

__getattr__, __dir__ = lazily(
    __name__,
    {
        "clusters": ["Clusters"],
        "d4": ["D4", "KMeans", "assign_rows", "fit_rows", "prune_d4"],
        "dedup": ["bisect_threshold", "duplicate_of", "nearest_earlier", "threshold_for"],
        "kmeans": ["Fit", "Step", "Sums", "assign", "default_k", "fit", "lloyd_part"],
        "prototype_files": ["Prototypes", "write_prototypes"],
    },
)

__all__ = [
    "D4",
    "Clusters",
    "Fit",
    "KMeans",
    "Prototypes",
    "Step",
    "Sums",
    "assign",
    "assign_rows",
    "bisect_threshold",
    "default_k",
    "duplicate_of",
    "fit",
    "fit_rows",
    "lloyd_part",
    "nearest_earlier",
    "prune_d4",
    "threshold_for",
    "write_prototypes",
]
