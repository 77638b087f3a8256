"""`mixstream select sample`: texts that a selection keeps, and texts that it drops, around its threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray
from rich.table import Table

from mixstream.errors import ConfigError, SelectionError
from mixstream.selection import Scores, Selection, ShardTable, kept_mask, random_rows, same_shards
from mixstream.storage import is_local, local_path
from mixstream.types import Int64

from ..shared.artefacts import dataset_of, open_scores, open_selections, partner
from ..shared.console import Console, text_lines
from ..shared.numbers import Positive, Seed, whole
from ..shared.options import Flag, Json, Reading, Text
from ..shared.safe_text import shortened
from .texts import TextRows, datasets_by_name

CUT = "dropped as outliers"
_TOKENS = 4  # of a text of n characters, at most n tokens are decoded, and this many at least


def sample(
    selection: Annotated[str, Parameter(name="SEL")],
    count: Annotated[int, whole(least=1, name="N")] = 5,
    /,
    *,
    random: Flag = False,
    seed: Seed = 0,
    scores: Text = None,
    score_column: Text = None,
    dataset: Text = None,
    column: Text = None,
    tokenizer: Text = None,
    reading: Reading = Reading(),  # noqa: B008  # frozen
    characters: Positive = 200,
    as_json: Json = False,
) -> int:
    """Show texts that are kept and texts that are dropped.

    mixstream select sample sel/top20
    mixstream select sample sel/top20 20 --random --characters 400
    mixstream select sample sel/edu3 --scores scores/edu --score-column score

    Look at what a rule does before you train on it. If the selection was made
    by a score, the N kept and the N dropped texts are those nearest to its
    threshold, where the rule is least sure; what an outlier cut dropped beyond
    the other end of what is kept is shown too. --random shows others. Of other
    selections, texts are chosen at random.

    Scores and dataset are found where they were when the selection was made,
    or given by --scores and --dataset. Text is escaped before it reaches the
    terminal.

    Exit status: 0, 1 if something cannot be read, 2 wrong use.

    Args:
        selection: the selection, or a directory with one for each domain.
        count: texts of each kind.
        random: choose texts at random, not around the threshold.
        seed: of the random choice.
        scores: where the scores are.
        score_column: the score; default: the one that the selection was made by.
        dataset: where the dataset is.
        column: column with the text or the tokens.
        tokenizer: `bytes` or a tokenizer.json, for datasets of tokens.
        characters: of each text.
        as_json: print one JSON document.
    """
    if count < 1 or characters < 1:
        raise ConfigError(f"{count} texts of {characters} characters: give 1 or more")
    console, selections = Console(as_json=as_json), open_selections(selection)
    given = open_scores(scores) if scores is not None else {}
    documents = []
    for name, each in selections.items():
        url = dataset or dataset_of(each)
        if url is None:
            raise ConfigError(f"{each.path} does not say over which dataset it was made: give --dataset URL")
        named = datasets_by_name(url, list(selections) if dataset else [name], reading=reading)[name]
        same_shards(each.path, each.table, url, ShardTable.of(named.index.shards))
        some = partner(selection, name, given, str(scores)) if given else None
        by = None if random else _score_of(each, some, score_column)
        picks = _at_random(each, count, seed) if by is None else _around(each, *by, count=count)
        texts = TextRows.open(named, reading=reading, column=column, tokenizer=tokenizer)
        shown = _described(each, picks, texts, by, characters)
        documents.append({"domain": name, "by": by[1] if by is not None else None, **shown})
    console.result({"status": "ok", "domains": documents}, *_show(documents))
    return 0


def _described(
    selection: Selection,
    picks: Mapping[str, Int64],
    texts: TextRows,
    by: tuple[Scores, str] | None,
    characters: int,
) -> dict[str, Any]:
    """Return the chosen rows as JSON values."""
    values = texts.values_of(np.unique(np.concatenate(list(picks.values()))))
    score_N = by[0].column(by[1]) if by is not None else None
    to_text = texts.to_text
    assert to_text is not None, "required by default"
    return {
        kind: [
            {
                **_place(selection.table, ordinal),
                "score": None if score_N is None else float(score_N[ordinal]),
                "text": shortened(to_text(_cut(values[ordinal], characters)), characters),
            }
            for ordinal in ordinals.tolist()
        ]
        for kind, ordinals in picks.items()
    }


def _score_of(selection: Selection, given: Scores | None, column: str | None) -> tuple[Scores, str] | None:
    """Return the scores and the column by which a selection was made; None if it was made otherwise."""
    scores = given if given is not None else _scores_of(selection)
    if column is None and selection.rule.get("control") == "random":
        return None  # there is no threshold
    column = column or selection.rule.get("column")
    if scores is None or not isinstance(column, str):
        if given is not None:
            raise ConfigError(f"{selection.path} was not made by one score: name one of --scores with --score-column")
        return None
    same_shards(selection.path, selection.table, scores.path, scores.table)
    return scores, column


def _around(selection: Selection, scores: Scores, column: str, *, count: int) -> dict[str, Int64]:
    """Return the kept and the dropped rows that are nearest to the border, nearest last and first.

    What an outlier cut dropped lies beyond the other end of what is kept, so it is a kind of its own.
    """
    score_N = scores.column(column)
    if np.ndim(score_N) != 1:
        raise ConfigError("the score has several numbers a row; name a column of single ones with --score-column")
    kept_N, scored_N = kept_mask(selection), scores.scored
    kept, dropped = np.flatnonzero(kept_N & scored_N), np.flatnonzero(~kept_N & scored_N)
    sign = 1 if _keeps_high(selection, score_N, kept, dropped) else -1
    goodness_N = sign * score_N.astype(np.float64)
    worst = np.argsort(goodness_N[kept], kind="stable")[:count]
    picks = {"kept": kept[worst][::-1].astype(np.int64)}
    cut = dropped[:0]
    if len(kept) and selection.rule.get("outlier_cut") is not None:
        beyond = goodness_N[dropped] > goodness_N[kept].max()
        cut, dropped = dropped[beyond], dropped[~beyond]
    if len(kept) and "within" in selection.parents:  # whose other rows were dropped before, whatever their score
        behind = dropped[goodness_N[dropped] <= goodness_N[kept].min()]
        dropped = behind if len(behind) else dropped
    picks["dropped"] = dropped[np.argsort(-goodness_N[dropped], kind="stable")[:count]].astype(np.int64)
    if len(cut):
        picks[CUT] = cut[np.argsort(goodness_N[cut], kind="stable")[:count]].astype(np.int64)
    return picks


def _keeps_high(selection: Selection, score_N: NDArray[Any], kept: Int64, dropped: Int64) -> bool:
    """Return whether a selection keeps the high scores, as its rule says; else as what it keeps says."""
    rule = selection.rule
    side = {"high": True, "low": False, "hard": True, "easy": False}.get(str(rule.get("side")))
    if side is None:
        means = [score_N[rows].mean(dtype=np.float64) if len(rows) else 0.0 for rows in (kept, dropped)]
        return bool(means[0] >= means[1])
    return side ^ (rule.get("hard_is") == "low") ^ (rule.get("control") == "inverse")


def _at_random(selection: Selection, count: int, seed: int) -> dict[str, Int64]:
    kept_N = kept_mask(selection)
    return {
        kind: random_rows(len(mask), rows=min(count, int(np.count_nonzero(mask))), allowed_N=mask, seed=seed)
        for kind, mask in (("kept", kept_N), ("dropped", ~kept_N))
    }


def _scores_of(selection: Selection) -> Scores | None:
    """Return the scores that a selection was made of, if they are still where they were."""
    place = selection.made.get("scores")
    if not isinstance(place, str) or (is_local(place) and not local_path(place).exists()):
        return None
    scores = Scores.open(place)
    expected = selection.parents.get("scores")
    if expected is not None and scores.id != expected:
        raise SelectionError(
            f"{place} holds other scores now (id {scores.id}, {selection.path} was made of {expected}); give the right "
            "ones with --scores, or --random"
        )
    return scores


def _cut(value: Any, characters: int) -> Any:
    """Return the beginning of a text or of token ids, as long as is needed to show so many characters."""
    return value[: max(characters, _TOKENS) + 1]


def _place(shards: ShardTable, ordinal: int) -> dict[str, Any]:
    shard, row = (int(each[0]) for each in shards.home(np.array([ordinal])))
    return {"ordinal": ordinal, "shard": shards.shards[shard].name, "row": row}


def _show(documents: Sequence[Mapping[str, Any]]) -> Iterator[Table | str]:
    for document in documents:
        for kind in (kind for kind in ("kept", "dropped", CUT) if kind in document):
            near = "what is kept" if kind == CUT else f"the threshold of {document['by']}"
            by = f", nearest to {near}" if document["by"] else ", at random"
            yield f"{document['domain']}: {kind}{by}"
            lines = []
            for each in document[kind]:
                score = "" if each["score"] is None else f"{each['score']:.6g}  "
                lines += [f"  {score}{each['shard']}, row {each['row']:,}", f"    {each['text']}"]
            yield text_lines(lines or ["  none"])
