"""What distinguishes the run that saved a state from the run that loads it: a sentence for each difference.

Rule: the buckets of one stream (`STREAM/COLUMN=BUCKET`, by `split_by`) are told together, since there may be hundreds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET

from mixstream.plan.state_record import PACKING

if TYPE_CHECKING:
    from mixstream.plan.run_plan import RunPlan
    from mixstream.plan.state_record import DomainState, RunState, Settings

_PER_RANK = ("global_batch_size",)
_LABELS = {
    "num_canonical_nodes": "lanes (num_canonical_nodes)",
    "mixer": "mixing method",
    "stretch": "rows of a global batch that have one domain (batching_method)",
}
_FIXED = re.compile(r"fixed (\d+)")
"""The id of a fixed sample (`fixed_sample.FixedSample`)."""
_PACKED = re.compile(rf"\b{PACKING} [0-9a-f]+")
"""The id of the view of packed rows, which may be that of a fixed sample of them (`addressing.WholeShards`)."""
_BUCKET = re.compile(r"(.+)/[^/]*=[^/]*", re.DOTALL)


def differences(state: RunState, run_plan: RunPlan, *, settings: Settings) -> list[str]:
    """Return the differences between the run that saved `state` and this one, whose settings are `settings`."""
    found, names = _other_settings(state.settings, settings), list(run_plan.names)
    saved = {domain.name: domain for domain in state.domains}
    splits = other_splits(list(saved), names)
    apart = {name for split in splits for name in split.domains}
    found += [split.sentence for split in splits]
    if gone := sorted(set(saved) - set(names) - apart):
        found.append(f"domains in the state and not in this run: {gone}")
    if new := [name for name in names if name not in saved and name not in apart]:
        which = f"domain {new[0]!r} is" if len(new) == 1 else f"domains {new} are"
        found.append(f"{which} not in the state; it has {sorted(saved)}")
    if run_plan.in_order and list(saved) != names and set(saved) == set(names):
        found.append(f"domains are read in order, and the order was {list(saved)}, now {names}")
    facts = zip(run_plan.domains, _weights(state, run_plan), run_plan.max_epochs_K, run_plan.selections)
    told: dict[tuple[str | None, str], list[tuple[str, str]]] = {}
    for domain, weight, limit, selection in facts:
        if domain.name in apart or domain.name not in saved:
            continue
        key, line = _difference(domain, saved[domain.name], weight, limit, selection)
        if line:
            told.setdefault((stream_of(domain.name), key), []).append((domain.name, line))
    for (stream, _), each in told.items():
        name, line = each[0]
        if stream is None or len(each) == 1:
            found += [f"domain {name!r}{line}" for name, line in each]
        else:
            found.append(f"domain {name!r}{line} (so it is with {len(each) - 1} more buckets of stream {stream!r})")
    return found


def _weights(state: RunState, run_plan: RunPlan) -> list[str]:
    """Return the rest of a sentence about how each domain's weight differs from the saved one; empty if it does not."""
    saved = {domain.name: domain for domain in state.domains}
    parts = sum(domain.share for domain in state.domains if domain.share is not UNSET)
    found = []
    for name, choose, share in zip(run_plan.names, run_plan.choose_K.tolist(), run_plan.prior_K.tolist()):
        theirs = saved.get(name)
        if theirs is None:
            found.append("")
        elif theirs.share is not UNSET and run_plan.plan.share_K is not None:
            was = theirs.share / max(parts, 1)
            found.append("" if abs(was - share) < 1e-12 else f": its share of the rows was {was:.6%}, now {share:.6%}")
        else:  # a state from before shares were exact: rounding up or down may have depended on the order of streams
            near = run_plan.share_K is not None and abs(theirs.choose - share * run_plan.epoch_size) < 1
            same = near or theirs.choose == choose
            found.append("" if same else f": an epoch took {theirs.choose} samples, now {choose}")
    return found


def _difference(
    domain: Any, theirs: DomainState, weight: str, limit: float | None, selection: str | None
) -> tuple[str, str]:
    """Return what differs of a domain, as a word and as the rest of a sentence about it; empty if nothing does."""
    if (found := other_samples(domain, theirs, selection))[0]:
        return found
    if weight:
        return "choose", weight
    if theirs.max_epochs != limit:
        return "max_epochs", f": max_epochs was {theirs.max_epochs}, now {limit}"
    return "", ""


def other_samples(domain: Any, theirs: DomainState, selection: str | None) -> tuple[str, str]:
    """Return by what a domain, read by `selection`, has other samples than in the state; as `_difference`."""
    was, now = (_packing(view or None) for view in (theirs.selection, selection))
    if was != now:
        before, after = (f"as the {view}" if view else "without packing" for view in (was, now))
        give = "give its stream the former one" if was else "leave `packing` out of its stream"
        return "packing", f" was read {before}, and is now read {after}, which has other rows: {give}"
    if theirs.fingerprint != domain.fingerprint:
        pairs = enumerate(zip(theirs.fingerprint, domain.fingerprint), 1)
        digits = max(8, next((at for at, (was, now) in pairs if was != now), 0))
        was, now = theirs.fingerprint[:digits], domain.fingerprint[:digits]
        return "shards", f" has other shards (fingerprint {was}, now {now})"
    if theirs.selection != (selection or UNSET):
        return "selection", _other_selection(theirs.selection or None, selection)
    return "", ""


def _other_settings(theirs: Settings, ours: Settings) -> list[str]:
    found = []
    for field in msgspec.structs.fields(type(ours)):
        was, now = getattr(theirs, field.name), getattr(ours, field.name)
        if was != now:
            hint = f" (batch_size is per rank: batch_size x ranks must be {was})" if field.name in _PER_RANK else ""
            was, now = ("any, mixed" if value is UNSET else repr(value) for value in (was, now))
            found.append(f"{_LABELS.get(field.name, field.name)}: saved {was}, now {now}{hint}")
    return found


def _packing(view: str | None) -> str | None:
    """Return the packing that the id of a view names; None if there is none."""
    found = _PACKED.search(view) if view else None
    return found[0] if found else None


def _other_selection(was: str | None, now: str | None) -> str:
    sizes = [_FIXED.match(view or "") for view in (was, now)]
    if any(sizes):
        before, after = (f"as a fixed sample of {size[1]}" if size else "without a fixed sample" for size in sizes)
        give = f'sampling_method="fixed" and choose={sizes[0][1]}' if sizes[0] else 'sampling_method="balanced"'
        within = "" if before != after else " of another selection"
        return f" was read {before}, and is now read {after}{within}: give {give}"
    if was is None:
        return f" was read whole, and is now read by the selection {now}: leave `selection` out of its stream"
    if now is None:
        return f" was read by the selection {was}, and is now read whole: give its stream that selection"
    return f" was read by the selection {was}, now by {now}, which keeps other rows: give its stream the former one"


# --- streams that are split otherwise -------------------------------------------------------------------------------


class Split(NamedTuple):
    """A stream that was split otherwise: its name, its domains in either run, and a sentence about it."""

    stream: str
    domains: frozenset[str]
    sentence: str


def other_splits(saved: Sequence[str], names: Sequence[str]) -> list[Split]:
    """Return the streams that were split otherwise when the domains were `saved`; now they are `names`."""
    was, now = _buckets(saved), _buckets(names)
    found = []
    for stream in sorted({*was, *now}):
        before, after = was.get(stream, []), now.get(stream, [])
        known = stream in saved or stream in was
        if before == after or not known or not (after or stream in names):
            continue  # the same, or a stream that one of the runs does not have
        sentence = (
            f"stream {stream!r} was {_how(before)}, and is now {_how(after)}: give it "
            f"{'the former split_by' if before else 'no split_by'}"
        )
        found.append(Split(stream, frozenset([stream, *before, *after]), sentence))
    return found


def _buckets(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the domains that are buckets of a stream, sorted, by stream."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if (stream := stream_of(name)) is not None:
            found.setdefault(stream, []).append(name)
    return found


def stream_of(name: str) -> str | None:
    """Return the stream of a bucket, by its name; None for another domain."""
    found = _BUCKET.fullmatch(name)
    return None if found is None else found[1]


def _how(buckets: Sequence[str]) -> str:
    if not buckets:
        return "read whole"
    labels = [name.rpartition("/")[2] for name in buckets]
    ends = labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
    return f"split into {len(labels)} buckets ({ends})"
