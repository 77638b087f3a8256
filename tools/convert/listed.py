"""The sources of a command: listed as its recipe asks, told to the user, and cut into parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..shared.console import Console, show_bytes
from .files.choice import Choice
from .files.source_files import SourceFile
from .ledger.identity import identify
from .ledger.run_file import Run
from .parts import Part, plan_parts
from .recipe import Recipe
from .sources.config import Source
from .sources.listing import describe_skipped
from .sources.sniff import fields_not_seen
from .sources.sources import BY_KEY, Sources, find_sources

_FIELDS_SHOWN = 4


def list_sources(
    sources: Sequence[str | Source],
    recipe: Recipe,
    *,
    out: Path,
    url: str | None,
    stdin: SourceFile | None,
    choice: Choice | None,
    console: Console,
    may_be_none: bool,
) -> Sources:
    """List the files of the sources, and show how many there are."""
    if not sources and may_be_none:
        return Sources(groups=(), skipped=Counter())
    by_key = recipe.fields.names_domains
    listed = find_sources(
        sources,
        out=out,
        choice=choice or Choice(),
        by_key=by_key,
        fields=recipe.fields,
        skip=recipe.on_bad_document == "skip",
        url=url,
        stdin=stdin,
        progress=console.progress,
    )
    _show_sources(listed, console)
    _warn_of_fields(listed, recipe, console)
    return listed


def _warn_of_fields(sources: Sources, recipe: Recipe, console: Console) -> None:
    """Say which fields of `--keep` may be spelled wrongly: they would be null, and nothing would say so later."""
    firsts = [group.files[0] for group in sources.groups]
    missing = [(file, name) for file in firsts for name in fields_not_seen(file, file.fields or recipe.fields)]
    for file, name in missing[:_FIELDS_SHOWN]:
        console.note(
            f"warning: --keep {name}: the first documents of {file.path} do not have this field; it is null where a "
            "document has none. Dots reach into objects, as in metadata.url"
        )


def _show_sources(sources: Sources, console: Console) -> None:
    for group in sources.groups:
        label = "domains by key" if group.name == BY_KEY else f"domain {group.name}"
        formats = Counter(file.format for file in group.files)
        kinds = ", ".join(f"{count:,} {name}" for name, count in formats.most_common())
        mixed = f" ({kinds})" if len(formats) > 1 else ""
        count = f"{len(group.files):,} file{'' if len(group.files) == 1 else 's'}"
        console.note(f"{label}: {count}{mixed}, {show_bytes(group.bytes)}")
        for one, other, more in _compressed_twins(group.files):
            console.note(
                f"warning: {one} and {other} are both read{more}; if they are one file, compressed, all its documents "
                "come twice. Leave one out with --exclude"
            )
    for warning in sources.warnings:
        console.note(f"warning: {warning}")
    if sources.skipped:
        console.note(f"skipped: {describe_skipped(sources.skipped)}")


def _compressed_twins(files: Iterable[SourceFile]) -> Iterator[tuple[str, str, str]]:
    """Yield the first two files whose names differ by a compression alone, and how many more there are."""
    twins: dict[str, list[str]] = {}
    for file in files:
        packed = f".{file.name.rpartition('.')[2]}" if file.compression else ""
        twins.setdefault(file.path.removesuffix(packed), []).append(file.name)
    pairs = [names for names in twins.values() if len(names) > 1]
    if pairs:
        one, other, *_ = pairs[0]
        yield one, other, "" if len(pairs) == 1 else f", and {len(pairs) - 1:,} more such pairs"


def plan_groups(listed: Sources, recipe: Recipe, runs: Iterable[Run | None]) -> dict[str, list[Part]]:
    """Return the parts of each group.

    Earlier versions did not cut text files at separators. A group that one of them began keeps its parts, so that what
    is finished stays finished; `runs` are the run.json files that are there.
    """
    before = [group for run in runs if run is not None for group in run.groups.values()]
    planned: dict[str, list[Part]] = {}
    for group in listed.groups:
        planned[group.name] = plan_parts(group, recipe.part_bytes, recipe.fields)
        uncut = plan_parts(group, recipe.part_bytes)
        if uncut != planned[group.name] and before:
            identity = identify(recipe, (file.whole for file in group.files))
            if any(old["identity"] == identity and not old.get("cut") for old in before):
                planned[group.name] = uncut
    return planned
