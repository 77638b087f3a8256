"""Selection: scores of the rows of a domain, and files that say which rows count. Other packages import from here only.

A row is a stored row of one domain; an artefact describes one domain, and a directory of artefacts has one
sub-directory per domain. Artefacts are bound to shards by what these are (`ShardTable`), say how they were made
(`provenance`), appear whole or not at all, and are mapped when they are read.

What a user needs: `Selection`, `Scores` and `ScoresWriter` with `Column`, `write_selection`, `write_buckets`, `split`,
`keep`, `random_rows`, `combine`, `difference`, `DomainRows`, `ShardTable`, `provenance`. The other names are what the
commands are made of. Methods have faces of their own: `selection.embedders`, `.prototypes`, `.datamodels`. In the order
of the flow:

    shard_table       the shards that an artefact describes, and matching them with those of a dataset
    scores_writer     columns of scores (or embeddings, features), by any number of workers     column
    merge             the parts that workers wrote become one                                   parts, scores_columns
    scores            columns as a reader sees them
    selection_writer  a mask, ordinals or buckets become a selection
    selection         kept rows as a reader sees them, and as the view of a stream              fit
    splitting         the values or quantiles of a column become buckets
    rules             scores and a budget -> rows that are kept
    expression        conditions on columns, as text
    combining         selections as sets: and, or, minus
    keys              what identifies a row where shard and position do not
    joining           lines of a table -> the rows that they are about                          meetings
    rebasing          where the rows of old shards are in new ones
    overlap           what candidates share with a target set
    manifest          what every artefact says of itself
    artefact_files    a directory, or the cache of a URL
    staging, npy      how files appear, and what is in them
    rows              the stored rows of a domain, as texts or tokens
    embedders/        texts become unit vectors, one kind a file
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.selection.column import FAILED, SCORED, TOO_SHORT, Column
    from mixstream.selection.combining import Difference, Operation, combine, difference, kept_mask, same_shards
    from mixstream.selection.conditions_on_records import record_condition
    from mixstream.selection.expression import Categories, Condition
    from mixstream.selection.joining import (
        ColumnKey,
        ContentKey,
        KeyIndex,
        Lines,
        Locator,
        OrdinalKey,
        RowKey,
        ShardRowKey,
        begins_of,
        index_keys,
    )
    from mixstream.selection.keys import Keys, read_keys, value_keys
    from mixstream.selection.manifest import find_artefacts, provenance
    from mixstream.selection.meetings import Meetings
    from mixstream.selection.merge import merge_scores, scores_done
    from mixstream.selection.overlap import DEFAULT_NGRAM, Hit, Targets, Words, tokens_as_units
    from mixstream.selection.rebasing import match_keys, match_shards, moved_buckets
    from mixstream.selection.rows import DomainRows, RowBlock, TextColumn, Wanted, choose_column
    from mixstream.selection.rules import below_cut, ceil_share, keep, other_side, random_rows
    from mixstream.selection.scores import Scores
    from mixstream.selection.scores_columns import add_columns
    from mixstream.selection.scores_writer import ScoresWriter
    from mixstream.selection.selection import Selection
    from mixstream.selection.selection_writer import write_buckets, write_selection
    from mixstream.selection.shard_table import Match, ShardIdentity, ShardTable, fingerprint
    from mixstream.selection.splitting import divide, split
    from mixstream.selection.staging import discard

__getattr__, __dir__ = lazily(
    __name__,
    {
        "column": ["Column", "FAILED", "SCORED", "TOO_SHORT"],
        "combining": ["Difference", "Operation", "combine", "difference", "kept_mask", "same_shards"],
        "expression": ["Categories", "Condition"],
        "conditions_on_records": ["record_condition"],
        "joining": [
            "ColumnKey",
            "ContentKey",
            "KeyIndex",
            "Lines",
            "Locator",
            "OrdinalKey",
            "RowKey",
            "ShardRowKey",
            "begins_of",
            "index_keys",
        ],
        "keys": ["Keys", "read_keys", "value_keys"],
        "manifest": ["find_artefacts", "provenance"],
        "meetings": ["Meetings"],
        "merge": ["merge_scores", "scores_done"],
        "overlap": ["DEFAULT_NGRAM", "Hit", "Targets", "Words", "tokens_as_units"],
        "rebasing": ["match_keys", "match_shards", "moved_buckets"],
        "rows": ["DomainRows", "RowBlock", "TextColumn", "Wanted", "choose_column"],
        "rules": ["below_cut", "ceil_share", "keep", "other_side", "random_rows"],
        "scores": ["Scores"],
        "scores_columns": ["add_columns"],
        "scores_writer": ["ScoresWriter"],
        "selection": ["Selection"],
        "selection_writer": ["write_buckets", "write_selection"],
        "shard_table": ["Match", "ShardIdentity", "ShardTable", "fingerprint"],
        "splitting": ["divide", "split"],
        "staging": ["discard"],
    },
)

__all__ = [
    "DEFAULT_NGRAM",
    "FAILED",
    "SCORED",
    "TOO_SHORT",
    "Categories",
    "Column",
    "ColumnKey",
    "Condition",
    "ContentKey",
    "Difference",
    "DomainRows",
    "Hit",
    "KeyIndex",
    "Keys",
    "Lines",
    "Locator",
    "Match",
    "Meetings",
    "Operation",
    "OrdinalKey",
    "RowBlock",
    "RowKey",
    "Scores",
    "ScoresWriter",
    "Selection",
    "ShardIdentity",
    "ShardRowKey",
    "ShardTable",
    "Targets",
    "TextColumn",
    "Wanted",
    "Words",
    "add_columns",
    "begins_of",
    "below_cut",
    "ceil_share",
    "choose_column",
    "combine",
    "difference",
    "discard",
    "divide",
    "find_artefacts",
    "fingerprint",
    "index_keys",
    "keep",
    "kept_mask",
    "match_keys",
    "match_shards",
    "merge_scores",
    "moved_buckets",
    "other_side",
    "provenance",
    "random_rows",
    "read_keys",
    "record_condition",
    "same_shards",
    "scores_done",
    "split",
    "tokens_as_units",
    "value_keys",
    "write_buckets",
    "write_selection",
]
