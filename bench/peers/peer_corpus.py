"""The corpus that all contenders read, and the check of what they delivered.

Each domain is a flat file of rows of `SEQ` random uint16 tokens. A row is known by a 64-bit sum of its tokens times
fixed odd numbers, so that what a contender delivers can be compared with what was stored without keeping it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

DOMAINS, SEQ, VOCABULARY = 8, 2048, 50_000


@dataclass(frozen=True)
class Corpus:
    """`DOMAINS` flat files of `rows` rows each, in `directory`."""

    directory: Path
    rows: int

    @property
    def weights(self) -> list[float]:
        """The share of each domain in the mixture: 8, 7, … 1 of 36."""
        return [(DOMAINS - d) / sum(range(1, DOMAINS + 1)) for d in range(DOMAINS)]

    @property
    def paths(self) -> list[Path]:
        """The flat file of each domain."""
        return [self.directory / f"domain{d}.bin" for d in range(DOMAINS)]

    def tokens(self, domain: int) -> np.ndarray:
        """Return the rows of a domain, uint16 [rows, SEQ], mapped."""
        return np.memmap(self.paths[domain], dtype=np.uint16, mode="r").reshape(self.rows, SEQ)

    def write(self) -> None:
        """Write the files that are not there yet."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for d, path in enumerate(self.paths):
            if not path.exists():
                rows = np.random.default_rng(d).integers(0, VOCABULARY, (self.rows, SEQ), dtype=np.uint16)
                part = path.with_suffix(".part")
                rows.tofile(part)
                part.rename(path)

    def draws(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the domains and the rows of one batch after another, int64 [batch_size], for peers that leave it to us.

        Domains are drawn by their weights, the rows of each from one permutation after another.
        """
        rng = np.random.default_rng(0)
        orders, drawn = [rng.permutation(self.rows) for _ in range(DOMAINS)], [0] * DOMAINS
        while True:
            domain = rng.choice(DOMAINS, batch_size, p=self.weights)
            row = np.empty(batch_size, np.int64)
            for d in range(DOMAINS):
                at = np.flatnonzero(domain == d)
                if drawn[d] + len(at) > self.rows:
                    orders[d], drawn[d] = rng.permutation(self.rows), 0
                row[at] = orders[d][drawn[d] : drawn[d] + len(at)]
                drawn[d] += len(at)
            yield domain, row

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """The sums of all rows in ascending order, uint64, and the place of each, domain * rows + row, int64."""
        sums = np.concatenate([row_sums(self.tokens(d)) for d in range(DOMAINS)])
        order = np.argsort(sums)
        if len(np.unique(sums)) != len(sums):
            raise SystemExit(f"two rows of {self.directory} have the same sum: choose another number of rows")
        return sums[order], order

    def verdict(self, sums: np.ndarray) -> dict[str, float | int]:
        """Compare the sums of delivered rows, uint64 in the order of delivery, with what is stored.

        Returns:
            `foreign`: rows that are not in the corpus. `repeated`: the share of the rows that came although another
            row of their domain had not come as often yet, beyond the first pass; 0 where each pass is complete.
            `off_weights`: the largest difference between a domain's share and its weight. `reach`: of 64 equal parts of
            each domain, the share from which the first rows came, against what as many uniform draws reach.
        """
        known, places = self.places
        at = np.minimum(np.searchsorted(known, sums), len(known) - 1)
        found = known[at] == sums
        domain, row = np.divmod(places[at[found]], self.rows)
        shares = np.bincount(domain, minlength=DOMAINS) / max(len(domain), 1)
        repeated, reach = 0, []
        for d in range(DOMAINS):
            rows = row[domain == d]
            first = rows[: self.rows]
            repeated += len(first) - len(np.unique(first))
            few = first[:128]
            expected = 1 - (1 - 1 / 64) ** len(few)
            if len(few):
                reach.append(len(np.unique(few * 64 // self.rows)) / 64 / expected)
        return {
            "rows": len(sums),
            "foreign": int((~found).sum()),
            "repeated": repeated / max(len(sums), 1),
            "off_weights": float(np.abs(shares - self.weights).max()),
            "reach": float(np.mean(reach)) if reach else 0.0,
        }


def row_sums(tokens: np.ndarray) -> np.ndarray:
    """Return a sum, uint64 [B], of each row of integers [B, SEQ]."""
    odd = np.random.default_rng(0).integers(0, 2**63, tokens.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    blocks = [tokens[at : at + 256].astype(np.uint64) @ odd for at in range(0, len(tokens), 256)]
    return np.concatenate(blocks) if blocks else np.empty(0, np.uint64)


def corpus_at(directory: Path) -> Corpus:
    """Return the corpus that `describe` was written for."""
    return Corpus(directory=directory, rows=json.loads((directory / "corpus.json").read_text())["rows"])


def make_corpus(directory: Path, rows: int) -> Corpus:
    """Write a corpus, or find it written."""
    corpus = Corpus(directory=directory, rows=rows)
    corpus.write()
    (directory / "corpus.json").write_text(json.dumps({"rows": rows, "domains": DOMAINS, "seq": SEQ}))
    return corpus
