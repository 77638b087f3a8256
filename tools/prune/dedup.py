"""`mixstream prune dedup`: one row of each group of near-duplicates, as a selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection import Scores, add_columns, ceil_share, discard, provenance, random_rows, write_selection
from mixstream.selection.prototypes import (
    Clusters,
    bisect_threshold,
    duplicate_of,
    nearest_earlier,
    threshold_for,
)
from mixstream.types import Int64

from ..shared.artefacts import find_domains_of, lineage, partner
from ..shared.console import Console, table
from ..shared.numbers import MaybeShare, Seed, real
from ..shared.options import Json, device_of
from ..shared.outputs import Output
from ..shared.parts import PartOptions
from .comparison import Comparison
from .inputs import CLUSTER, DISTANCE, NEAREST, Embeddings, column_of, find_embeddings, require_assigned, tokens_of
from .options import Device, Names, Variant

_SAMPLE = 1 << 16  # rows that the threshold of --keep-frac is searched on
_MADE_BY = "make it with `mixstream prune assign`"
_WORK = "comparison"  # directory of the parts, below that of the selection


def dedup(
    *,
    scores: str,
    emb: str,
    eps: Annotated[float | None, real(above=0, below=2, optional=True)] = None,
    keep_frac: MaybeShare = None,
    variant: Variant = "greedy",
    column: str | None = None,
    device: Device = "auto",
    seed: Seed = 0,
    domain: Names = (),
    output: Output,
    parts: PartOptions | None = None,
    as_json: Json = False,
) -> None:
    """Keep one row of each group of near-duplicates (SemDeDup), as a selection.

    mixstream prune dedup --scores scores/ --emb emb/ --eps 0.05 --out sel/dd
    mixstream prune dedup --scores scores/ --emb emb/ --keep-frac 0.75 \\
        --variant official --out sel/dd75

    Two rows of one cluster whose cosine is above 1 - eps count as duplicates;
    the harder one stays (the one farther from the prototype). A smaller eps is
    stricter and removes less. No eps is right for every embedder: look at what
    is removed, or give --keep-frac and let eps follow.

    VARIANTS differ in chains, where a is near b and b near c, but a not near c:
      greedy      what is removed has a kept neighbour above 1 - eps
      official    near any earlier row, as in the published code; removes more
      components  one row of each connected group; removes most
    `official` stores the largest cosine of each row to an earlier one in the
    column `nn_sim` of the scores, so that another eps costs nothing.

    COST grows with the square of a cluster: more clusters make it faster. A
    million rows in 1,000 clusters, 384 dimensions: under a minute on one core.
    Memory: 50 bytes a row, and the vectors of 65,536 rows (or of the largest
    cluster) for each worker.

    PARTS have whole clusters, and their results lie in OUT/DOMAIN/comparison
    until the selection is written. A run that was killed goes on where it was:
    give the same command again. The result is the same for any number of parts.
    With --keep-frac (but not for `official`), each part looks for eps itself
    first, on the same 65,536 rows: under a minute on one core.

    Args:
        scores: as `mixstream prune assign` writes them.
        emb: the embeddings that they were made from.
        eps: duplicates have a cosine above 1 - eps.
        keep_frac: instead of --eps: the share of rows to keep, met as nearly as possible.
        variant: `greedy`, `official` or `components`.
        column: the column of the embeddings, if there are several.
        device: where to compute; `auto` takes a GPU if there is one.
        seed: of the clusters on which --keep-frac looks for eps, for the variants other than `official`.
        domain: domains to look at; default: all in SCORES.
        as_json: print one JSON document, not a table.
    """
    if (eps is None) == (keep_frac is None):
        raise ConfigError("give either --eps, such as 0.05, or --keep-frac, such as 0.75")
    if eps is not None and not 0 < eps < 2:
        raise ConfigError(f"--eps {eps:g}: give a number above 0 and below 2, such as 0.05")
    if keep_frac is not None and not 0 < keep_frac <= 1:
        raise ConfigError(f"--keep-frac {keep_frac:g}: give a share above 0 and at most 1")
    console, options = Console(as_json=as_json), parts or PartOptions()
    places, sources = find_domains_of(scores, "scores", domain), find_embeddings(emb)
    jobs = []
    for name, place in places.items():
        found, source = Scores.open(place), partner(scores, name, sources, emb)
        embeddings = Embeddings.open(source, column)
        require_assigned(found, embeddings)
        jobs.append(
            _Job(
                scores=found,
                source=source,
                embeddings=embeddings,
                eps=eps,
                keep_frac=keep_frac,
                variant=variant,
                seed=seed,
                device=device_of(device),
                options=options,
                console=console,
                output=output,
            )
        )
    records = [job.run() for job in jobs]
    if options.single is not None and options.single[1] > 1 and not output.dry_run:
        console.note(options.hint())
    console.result({"status": output.status, "selections": records}, dedup_table(records))


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The duplicates of one domain."""

    scores: Scores
    source: Path
    embeddings: Embeddings
    eps: float | None
    keep_frac: float | None
    variant: Variant
    seed: int
    device: str
    options: PartOptions
    console: Console
    output: Output

    def run(self) -> dict[str, Any]:
        place, output = self.output.place(self.scores.domain), self.output
        rule = {"method": "SemDeDup", "eps": self.eps, "keep_frac": self.keep_frac, "variant": self.variant}
        if self.keep_frac is not None and self.variant != "official":
            rule["seed"] = self.seed
        # the content of the scores, and not their id: this command adds a column to them
        source = {"assigned": self.scores.made["inputs"], "embeddings": self.embeddings.scores.id}
        made = provenance({**source, "rule": rule}, **lineage(self.scores))
        rows_E = np.flatnonzero(self.scores.scored)
        clusters = self._clusters(rows_E)
        sizes = np.diff(clusters.begin_K)
        record: dict[str, Any] = {
            "domain": self.scores.domain, "variant": self.variant, "clusters": int(np.count_nonzero(sizes)),
            "largest_cluster": int(sizes.max(initial=0)), "unscored": self.scores.rows - len(rows_E),
            "path": str(place),
        }  # fmt: skip
        done = output.is_done(place, "selection", made)
        if done and not output.dry_run:
            discard(place / _WORK)  # of a run that was killed before it could
        if output.dry_run or done:
            return {**record, "state": "was there" if done else "to do"}
        threshold = self._threshold(clusters)
        compared = self._compared(source, clusters, threshold)
        if compared is None:
            return {**record, "state": f"part {self.options.part}"}
        threshold, kept_N = compared
        written = write_selection(
            place, domain=self.scores.domain, table=self.scores.table, kept=kept_N,
            rule={**rule, "eps": 1 - threshold}, parents={"embeddings": self.embeddings.scores.id},
            made=made, tokens=tokens_of(self.scores), overwrite=output.overwrite,
        )  # fmt: skip
        discard(place / _WORK)
        counts = {"rows": {"before": len(rows_E), "after": written.kept}, "eps": 1 - threshold, "id": written.id}
        if written.tokens is not None:
            counts["tokens"] = {"before": written.tokens.before, "after": written.tokens.after}
        return {**record, **counts, "state": "done"}

    def _clusters(self, rows_E: Int64) -> Clusters:
        cluster_N = column_of(self.scores, CLUSTER, made_by=_MADE_BY)
        distance_N = column_of(self.scores, DISTANCE, made_by=_MADE_BY)
        count = int(cluster_N.max(initial=-1)) + 1
        return Clusters.of(cluster_N, distance_N, count=count, rows_E=rows_E)

    def _threshold(self, clusters: Clusters) -> float | None:
        """Return the threshold; None if it follows from what `official` finds for all rows."""
        if self.eps is not None:
            return 1 - self.eps
        assert self.keep_frac is not None
        if self.variant == "official":
            return None
        sample = self._sample(clusters)
        nearest = [nearest_earlier(vectors, device=self.device) for vectors in sample]
        keep = ceil_share(self.keep_frac, sum(map(len, sample)))

        def kept(threshold: float) -> int:
            found = (
                duplicate_of(each, threshold=threshold, variant=self.variant, device=self.device) for each in sample
            )
            return sum(int(np.count_nonzero(each < 0)) for each in found)

        return bisect_threshold(kept, keep=keep, near=threshold_for(np.concatenate(nearest), keep))

    def _sample(self, clusters: Clusters) -> list[NDArray[Any]]:
        """Return the vectors of random clusters with 65,536 rows together, or of all."""
        sizes = np.diff(clusters.begin_K)
        chosen = random_rows(len(sizes), seed=self.seed, tokens=min(_SAMPLE, int(sizes.sum())), tokens_N=sizes)
        vectors_ND = self.embeddings.vectors_ND
        return [
            vectors for at in chosen.tolist() for _, vectors in clusters.vectors(vectors_ND, at, at + 1)
        ]  # fmt: skip

    def _compared(
        self, source: Mapping[str, Any], clusters: Clusters, threshold: float | None
    ) -> tuple[float, NDArray[np.bool_]] | None:
        """Return the threshold, and which rows are kept, bool [rows]; None if only a part was to be compared."""
        official, kept_N = self.variant == "official", np.zeros(self.scores.rows, dtype=bool)
        comparison = Comparison(
            place=self.output.place(self.scores.domain) / _WORK, source=self.source, embeddings=self.embeddings,
            clusters=clusters,
            threshold=None if official else threshold, variant=self.variant, device=self.device,
            made=provenance({**source, "variant": self.variant, "threshold": None if official else threshold}),
            options=self.options, output=self.output,
        )  # fmt: skip
        known = official and NEAREST in self.scores.columns
        if not known and not comparison.run(self.console):
            return None
        if not official:
            assert threshold is not None
            for rows, duplicate in comparison.found():
                kept_N[rows] = duplicate == 0
            return threshold, kept_N
        nearest_N = self.scores.column(NEAREST) if known else self._stored(comparison)
        nearest_E = nearest_N[clusters.row_N]
        if threshold is None:
            assert self.keep_frac is not None
            threshold = threshold_for(nearest_E, ceil_share(self.keep_frac, len(nearest_E)))
        kept_N[clusters.row_N] = nearest_E <= np.float32(threshold)
        return threshold, kept_N

    def _stored(self, comparison: Comparison) -> NDArray[np.float32]:
        """Return `nn_sim`, float32 [rows]; it is kept with the scores."""
        nearest_N = np.zeros(self.scores.rows, dtype=np.float32)
        for rows, cosine in comparison.found():
            nearest_N[rows] = cosine
        add_columns(self.scores.path, {NEAREST: nearest_N}, provenance({"embeddings": self.embeddings.scores.id}))
        return nearest_N


def dedup_table(records: Sequence[dict[str, Any]]) -> Any:
    """Return the table of selections for people."""
    rows = [
        (
            each["domain"],
            each["variant"],
            f"{each['eps']:.4g}" if "eps" in each else "-",
            each["rows"]["before"] if "rows" in each else "-",
            each["rows"]["after"] if "rows" in each else "-",
            each["clusters"],
            each["largest_cluster"],
            each["unscored"],
            each["state"],
            each["path"],
        )
        for each in records
    ]
    heads = ("domain", "variant", "eps", "rows before", "rows after", "clusters", "largest", "without score", "state")
    return table((*heads, "written to"), rows)
