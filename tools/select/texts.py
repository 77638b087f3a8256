"""Rows of a dataset as texts: to show some of them, or to compare them with a target set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mixstream.errors import ConfigError
from mixstream.selection import DomainRows, RowBlock
from mixstream.types import Int64

from ..shared.domains import NamedDataset
from ..shared.options import Reading
from ..shared.token_texts import TokenizerFile, tokenizer_of

ToText = Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class TextRows:
    """The rows of one domain, and the column that is their text.

    Attributes:
        rows: the shards.
        column: its name.
        is_tokens: whether it holds token ids.
        to_text: turns a value into text; None for tokens whose tokenizer is not known.
    """

    rows: DomainRows
    column: str
    is_tokens: bool
    to_text: ToText | None

    @classmethod
    def open(
        cls,
        dataset: NamedDataset,
        *,
        reading: Reading,
        column: str | None,
        tokenizer: str | None,
        required: bool = True,
    ) -> TextRows:
        """Open the dataset.

        Args:
            dataset: the domain.
            reading: how its shards are read.
            column: whose values are the texts; None for the one that is clearly it.
            tokenizer: value of `--tokenizer`; None for the one that the dataset names.
            required: whether tokens without a tokenizer are an error.

        Raises:
            ConfigError: no such column, or the tokenizer of its tokens is not known.
        """
        rows = reading.open(dataset.url, name=dataset.name)
        found = rows.text_column(column)
        if found.kind == "text":
            return cls(rows=rows, column=found.name, is_tokens=False, to_text=str)
        given = TokenizerFile.find(tokenizer) if tokenizer is not None else None
        try:
            to_text: ToText | None = tokenizer_of(dataset.about, given, domain=dataset.name).load(end="⏎", special=True)
        except ConfigError:
            if required or tokenizer is not None:
                raise
            to_text = None
        return cls(rows=rows, column=found.name, is_tokens=True, to_text=to_text)

    def blocks(self, wanted: Callable[[int], Any] | None = None) -> Iterator[RowBlock]:
        """Yield the values of the column, block by block."""
        return self.rows.blocks(column=self.column, wanted=wanted)

    def values_of(self, ordinals: Int64) -> dict[int, Any]:
        """Return the values of some rows by ordinal; each shard that has one is read once."""
        shard_B, row_B = self.rows.table.home(ordinals)
        by_shard: dict[int, Any] = {
            shard: sorted({int(row) for row in row_B[shard_B == shard]}) for shard in set(shard_B.tolist())
        }
        nothing: Sequence[int] = ()
        found = {}
        for block in self.blocks(lambda shard: by_shard.get(shard, nothing)):  # type: ignore[arg-type,return-value]
            found.update(zip(block.ordinal_N.tolist(), block.values))
        return found


def datasets_by_name(url: str, domains: Sequence[str], *, reading: Reading) -> dict[str, NamedDataset]:
    """Return the datasets at a URL for some domains; a single one belongs to a single domain, whatever its name.

    Raises:
        ConfigError: a domain has none.
    """
    found = {each.name: each for each in reading.find([url])}
    if len(found) == len(domains) == 1:
        return {domains[0]: next(iter(found.values()))}
    if lacking := [name for name in domains if name not in found]:
        raise ConfigError(f"{url} has no domain {', '.join(lacking)}; it has {', '.join(found)}")
    return found
