"""What another run may keep of a state (`strict=False`), and what it may not.

Rule 1: a domain's position is kept where every draw means the same sample in both runs, and nowhere else. For that, its
name, shards and selection, the seed, the window of the shuffle and each lane's part of its samples must be the same.
Rule 2: what cannot be kept is named. Rule 3: what would read samples again that were read is refused, where a setting
is all that differs.

The lanes' parts of a domain depend on the other domains (`weights.deal`), so the parts of the kept domains are taken
from the state (`with_shares`), and the samples of new domains are dealt beside them.

Shape suffixes: K domains, L lanes.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from msgspec import UNSET

from mixstream.errors import StateError
from mixstream.plan.state_differences import other_samples, other_splits, stream_of
from mixstream.plan.weights import deal, deal_beside
from mixstream.types import Cursor, Int64, Origin

if TYPE_CHECKING:
    from mixstream.plan.run_plan import RunPlan
    from mixstream.plan.state_record import DomainState, RunState


def shares_of(state: RunState) -> dict[str, Int64]:
    """Return the samples that each lane owned in the run that saved `state`, int64 [L] by domain."""
    samples_K = [domain.samples for domain in state.domains]
    dealt_LK = deal(samples_K, state.num_canonical_nodes)
    return {
        domain.name: dealt_LK[:, k] if domain.owned is UNSET else np.array(domain.owned, dtype=np.int64)
        for k, domain in enumerate(state.domains)
    }


def with_shares(run_plan: RunPlan, state: RunState) -> RunPlan:
    """Return `run_plan` with the lanes' parts of those domains that it has in common with `state`."""
    if run_plan.lanes != state.num_canonical_nodes:
        return run_plan
    samples_K, shares = run_plan.plan.samples_K, shares_of(state)
    kept_K = np.array([domain is not None for domain in _same_domains(state, run_plan)])
    dealt_LK = deal(samples_K, run_plan.lanes)
    for k in np.flatnonzero(kept_K).tolist():
        dealt_LK[:, k] = shares[run_plan.names[k]]
    fixed_LK = deal_beside(samples_K, dealt_LK, fixed_K=kept_K)
    if (fixed_LK == deal(samples_K, run_plan.lanes)).all():
        return run_plan
    return replace(run_plan, fixed_LK=fixed_LK)


def carry_over(state: RunState, run_plan: RunPlan, fresh: Cursor) -> Cursor:
    """Return the cursor of a new epoch in which the domains of `state` that are still the same keep their draws.

    Warns of domains that cannot keep them. `fresh` supplies the draws of other domains and all credits.

    Raises:
        StateError: samples that were read would be read again (`refusal`).
    """
    if why := refusal(state, run_plan):
        raise StateError(why)
    drawn_LK = fresh.drawn_LK.copy()
    for k, domain in enumerate(_same_domains(state, run_plan)):
        if domain is not None and any(domain.drawn):
            drawn_LK[:, k] = domain.drawn
    if lines := _begun_anew(state, run_plan):
        warnings.warn(
            "the state is of another run (strict=False), and these domains begin anew, so that samples of them that "
            "were read may be read again:\n  - " + "\n  - ".join(lines),
            stacklevel=6,
        )
    begun = {"step": state.step, "epoch": state.epoch, "repeats": state.repeats}
    origin = Origin(step=state.step, epoch=state.epoch, drawn_LK=drawn_LK)
    return replace(fresh, **begun, step_in_epoch=0, drawn_LK=drawn_LK, base_LK=drawn_LK, origin=origin)


def refusal(state: RunState, run_plan: RunPlan) -> str:
    """Return why `carry_over` would read samples again, and what to write instead; empty if it would not."""
    names = [domain.name for domain in _same_domains(state, run_plan) if domain is not None and any(domain.drawn)]
    if names and (found := _other_settings(state, run_plan)):
        return (
            f"the positions of the domains {names} cannot be kept, because they mean other samples in this run:\n  - "
            + "\n  - ".join(line for line, _ in found)
            + f"\nSamples that were read would be read again: pass {', '.join(remedy for _, remedy in found)}, or "
            "start without the state"
        )
    return _other_name(state, run_plan)


def _other_settings(state: RunState, run_plan: RunPlan) -> list[tuple[str, str]]:
    """Return the settings that differ and decide which sample a draw is: a line, and what to write instead."""
    from mixstream.plan.shuffle import setting_of_window  # here, so that reading a state does not compile the kernels

    saved, lanes, found = state.settings, state.num_canonical_nodes, []
    if lanes != run_plan.lanes:
        found.append(("lanes (num_canonical_nodes)", lanes, run_plan.lanes, f"num_canonical_nodes={lanes}"))
    if saved.shuffle != run_plan.shuffle:
        found.append(("shuffle", saved.shuffle, run_plan.shuffle, f"shuffle={saved.shuffle}"))
    elif saved.shuffle:  # without, samples are read as they are stored
        was, window = saved.shuffle_seed, saved.shuffle_block_size
        if was != run_plan.shuffle_seed:
            found.append(("shuffle_seed", was, run_plan.shuffle_seed, f"shuffle_seed={was}"))
        if window != run_plan.block_size:
            found.append(("shuffle_block_size", window, run_plan.block_size, setting_of_window(window)))
    return [(f"{name}: saved {was!r}, now {now!r}", remedy) for name, was, now, remedy in found]


def _other_name(state: RunState, run_plan: RunPlan) -> str:
    """Return a refusal of a domain of the state that has another name here: it would begin anew, in another order."""
    known, here = {domain.name for domain in state.domains}, set(run_plan.names)
    gone = {
        (domain.fingerprint, domain.selection): domain.name
        for domain in state.domains
        if domain.name not in here and any(domain.drawn)
    }
    for domain, selection, family in zip(run_plan.domains, run_plan.selections, _families(run_plan)):
        was = gone.get((domain.fingerprint, selection or UNSET))
        if was is None or domain.name in known or (family is not None and stream_of(was) == family):
            continue
        name = was if family is None else stream_of(was) or was
        return (
            f"domain {domain.name!r} is not in the state, and has the samples of {was!r}, which is not in this run: "
            "under another name it would begin anew, and samples that were read would be read again. Pass "
            f"Stream(name={name!r}) to go on with it, or start without the state"
        )
    return ""


def _begun_anew(state: RunState, run_plan: RunPlan) -> list[str]:
    """Return a sentence for each domain or split stream that both runs have and that cannot go on."""
    saved = {domain.name: domain for domain in state.domains if any(domain.drawn)}
    kept = {domain.name for domain in _same_domains(state, run_plan) if domain is not None}
    buckets = [name for name, family in zip(run_plan.names, _families(run_plan)) if family or not stream_of(name)]
    splits = [split for split in other_splits(list(saved), buckets) if split.domains & {*buckets} - kept]
    lines, apart = [split.sentence for split in splits], {name for split in splits for name in split.domains}
    for domain, selection in zip(run_plan.domains, run_plan.selections):
        was = saved.get(domain.name)
        if was is None or domain.name in kept or domain.name in apart:
            continue
        _, line = other_samples(domain, was, selection)
        lines.append(f"domain {domain.name!r}{line or ' is mixed within another window, since its stream has changed'}")
    return lines


def _same_domains(state: RunState, run_plan: RunPlan) -> list[DomainState | None]:
    """Return the state of each domain of this run; None of one whose samples or window are others."""
    saved = {domain.name: domain for domain in state.domains}
    families, samples = _families(run_plan), run_plan.plan.samples_K.tolist()
    was_of, now_of = Counter[str | None](), Counter[str | None]()  # samples of each split stream
    for domain in state.domains:
        was_of[stream_of(domain.name)] += domain.samples
    for family, count in zip(families, samples):
        now_of[family] += count
    found: list[DomainState | None] = []
    for domain, selection, family, count in zip(run_plan.domains, run_plan.selections, families, samples):
        was = saved.get(domain.name)
        if was is None or other_samples(domain, was, selection)[0] or was.samples != count:
            found.append(None)
            continue
        found.append(was if family is None or was_of[family] == now_of[family] else None)
    return found


def _families(run_plan: RunPlan) -> Sequence[str | None]:
    return run_plan.family_K or (None,) * len(run_plan.domains)
