"""The groups of an output that are published: `.convert/published.json`, and `domains.json` made of it.

    {"web": {"identity": "…", "domains": {"web": {"train": {"documents": 3, "rows": 20, …}}}, "skipped": …}}

Rule: a group is in it from the moment on when its indexes are complete until the moment before one is removed. So what
is known of a domain outlives the commands that name others. If an older output lacks the file, its domains.json is
read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mixstream.storage import SUMMARY

from .run_file import Run, is_by_key

PUBLISHED = ".convert/published.json"
EXAMPLES = 5
"""Skipped documents that are shown."""

Group = dict[str, Any]
Groups = dict[str, Group]


def read_published(out: Path, run: Run) -> Groups:
    """The published groups of an output whose run.json is `run`; others than its own are left out."""
    found = parse_published(_read(out / PUBLISHED), run)
    return found if found is not None else of_summary(_read(out / SUMMARY), run)


def is_summed_up(out: Path, run: Run) -> bool:
    """Whether the domains.json of an output is there, and of this run."""
    return bool(of_summary(_read(out / SUMMARY), run)) or not run.groups


def parse_published(data: bytes | None, run: Run) -> Groups | None:
    """The content of published.json; None if it is not there, or not whole."""
    try:
        found = json.loads(data or b"")
        return {
            name: dict(group)
            for name, group in found.items()
            if name in run.groups and group["identity"] == run.groups[name]["identity"] and group["domains"] is not None
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def of_summary(data: bytes | None, run: Run) -> Groups:
    """The published groups by a domains.json, if it is of this run; for an output of before published.json."""
    try:
        summary = json.loads(data or b"")
        if summary["identity"] != run.identity:
            return {}
        domains = dict(summary["domains"])
        if "groups" in summary:
            return {
                name: {**group, "domains": {domain: domains[domain] for domain in group["domains"]}}
                for name, group in summary["groups"].items()
            }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    groups: Groups = {}
    for name in sorted(run.groups, key=is_by_key):  # what no named group has is of the keys
        own = list(domains) if is_by_key(name) else [name] if name in domains else []
        groups[name] = {
            "identity": run.groups[name]["identity"],
            "domains": {domain: domains.pop(domain) for domain in own},
            "skipped": {"documents": 0, "examples": []} if groups else summary.get("skipped"),
            "faults": [] if groups else summary.get("faults", []),
            "warnings": [] if groups else summary.get("warnings", []),
        }
    return groups


def dump_published(groups: Groups) -> bytes:
    """The bytes of published.json."""
    return json.dumps({name: groups[name] for name in sorted(groups)}, ensure_ascii=False, indent=1).encode()


def compose(run: Run, groups: Groups) -> dict[str, Any]:
    """The summary: what `domains.json` says of all published groups."""
    entries = [groups[name] for name in sorted(groups)]
    domains = {name: counts for entry in entries for name, counts in entry["domains"].items()}
    separators = {"separators": sum(entry.get("separators", 0) for entry in entries)}
    return {
        "version": 1,
        "identity": run.identity,
        "seq_len": run.recipe["seq-len"],
        "tokenizer": run.recipe["tokenizer"],
        "domains": {name: domains[name] for name in sorted(domains)},
        "groups": {name: {**groups[name], "domains": sorted(groups[name]["domains"])} for name in sorted(groups)},
        "skipped": {
            "documents": sum(entry["skipped"]["documents"] for entry in entries),
            "examples": [example for entry in entries for example in entry["skipped"]["examples"]][:EXAMPLES],
            **_rejects(entries),
        },
        "faults": [fault for entry in entries for fault in entry["faults"]],
        "warnings": [warning for entry in entries for warning in entry["warnings"]],
        **({"left_out": left_out} if (left_out := _total(entries, "left_out")) else {}),
        **(separators if any("separators" in entry for entry in entries) else {}),
    }


def _rejects(entries: Iterable[Group]) -> dict[str, Any]:
    skipped = [entry["skipped"] for entry in entries if "file" in entry["skipped"]]
    return {"reasons": _total(skipped, "reasons"), "files": [each["file"] for each in skipped]} if skipped else {}


def _total(entries: Iterable[Mapping[str, Any]], key: str) -> dict[str, int]:
    """The sums of what entries count under a key, by name."""
    return dict(sorted(sum((Counter(entry.get(key, {})) for entry in entries), Counter[str]()).items()))


def dump_summary(summary: Mapping[str, Any]) -> bytes:
    """The bytes of domains.json."""
    return json.dumps(summary, ensure_ascii=False, indent=1).encode()


def owners_of(groups: Groups) -> dict[str, str]:
    """Domain to group, of the published groups."""
    return {domain: name for name, group in groups.items() for domain in group["domains"]}


def taken_from(groups: Groups, domains: Iterable[str], *, by: str) -> Groups:
    """The groups without these domains, which the group `by` replaces; groups that have none left are gone."""
    gone = set(domains)
    left: Groups = {}
    for name, group in groups.items():
        kept = {domain: counts for domain, counts in group["domains"].items() if domain not in gone or name == by}
        if kept or name == by or not group["domains"]:
            left[name] = {**group, "domains": kept}
    return left


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
