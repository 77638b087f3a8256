"""A run's position as one small versioned JSON document, the same on every rank.

`RunState` is the document, `save_state` builds it from a cursor, and `load_state` returns the cursor. A state that does
not fit the run raises `StateError`; it is never reinterpreted. Keys that mosaicml-streaming's state has too keep their
names.

The size is O(domains x lanes): no sample numbers, no random generator, nothing of a single rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import UNSET

from mixstream.errors import StateError
from mixstream.plan.state_differences import differences
from mixstream.plan.state_record import DomainState, RunState, SetAside, Settings
from mixstream.types import Cursor

if TYPE_CHECKING:  # so that reading a state does not compile the kernels
    from mixstream.plan.run_plan import RunPlan

VERSION = 2


def settings_of(run_plan: RunPlan) -> Settings:
    """Return the settings that a state of this run holds."""
    return Settings(
        shuffle_seed=run_plan.shuffle_seed,
        num_canonical_nodes=run_plan.lanes,
        global_batch_size=run_plan.plan.global_batch_size,
        shuffle=run_plan.shuffle,
        shuffle_block_size=run_plan.block_size,
        epoch_size=run_plan.epoch_size,
        drop_last=run_plan.drop_last,
        mixer=run_plan.mixer,
        lag=run_plan.lag,
    )


def save_state(
    run_plan: RunPlan, cursor: Cursor, *, mixing: dict[str, Any] | None, quarantined: Sequence[SetAside] = ()
) -> dict[str, Any]:
    """Return the state at `cursor` as a plain dict.

    >>> from mixstream.plan.addressing import WholeShards
    >>> from types import SimpleNamespace as Record
    >>> from mixstream.plan.run_plan import RunPlan
    >>> from mixstream.world import World
    >>> sizes = {"code": 3, "web": 9}
    >>> run_plan = RunPlan(
    ...     domains=tuple(Record(name=name, fingerprint=name, view=WholeShards(samples_S=np.array([n])))
    ...                   for name, n in sizes.items()),
    ...     choose_K=np.array([3, 9]), epoch_size=12, max_epochs_K=(None, None), by_step=False, in_order=False,
    ...     shuffle=False, shuffle_seed=17, block_size=8, drop_last=False, mixer="static", lag=None,
    ...     world=World(), batch_size=4, lanes=1,
    ... )
    >>> cursor, rows = run_plan.plan.advance(run_plan.plan.start())
    >>> document = save_state(run_plan, cursor, mixing=None)
    >>> document["step"], document["sample_in_epoch"], [(d["name"], d["drawn"]) for d in document["domains"]]
    (1, 4, [('code', [1]), ('web', [3])])
    >>> loaded, same = load_state(parse_state(document), run_plan, fresh=run_plan.plan.start(), strict=True)
    >>> loaded.drawn_LK.tolist(), same
    ([[1, 3]], True)

    Args:
        run_plan: what the run draws.
        cursor: the position.
        mixing: the state of a learning mixer as JSON values; None for static mixing.
        quarantined: samples and shards that cannot be read and are replaced.
    """
    plan = run_plan.plan
    cursor = plan.settle(cursor)
    domains = [
        DomainState(
            name=domain.name,
            fingerprint=domain.fingerprint,
            samples=int(plan.samples_K[k]),
            choose=int(run_plan.choose_K[k]),
            max_epochs=run_plan.max_epochs_K[k],
            drawn=cursor.drawn_LK[:, k].tolist(),
            base=cursor.base_LK[:, k].tolist(),
            credit=cursor.credit_LK[:, k].tolist(),
            selection=selection or UNSET,
        )
        for k, (domain, selection) in enumerate(zip(run_plan.domains, run_plan.selections))
    ]
    state = RunState(
        mixstream=VERSION,
        epoch=cursor.epoch,
        sample_in_epoch=cursor.step_in_epoch * plan.global_batch_size,
        num_canonical_nodes=plan.lanes,
        shuffle_seed=run_plan.shuffle_seed,
        initial_physical_nodes=None,
        step=cursor.step,
        repeats=cursor.repeats,
        settings=settings_of(run_plan),
        domains=domains,
        total=cursor.total_L.tolist(),
        mixing=mixing,
        quarantined=list(quarantined),
    )
    return msgspec.to_builtins(state)


def parse_state(document: Mapping[str, Any]) -> RunState:
    """Check the form of `document` and return it as a `RunState`.

    Raises:
        StateError: it is not a state, has another version, or is damaged.
    """
    version = document.get("mixstream") if isinstance(document, Mapping) else None
    if version != VERSION:
        keys = sorted(document) if isinstance(document, Mapping) else type(document).__name__
        for key, value in document.items() if isinstance(document, Mapping) else ():
            if isinstance(value, Mapping) and value.get("mixstream") == VERSION:
                raise StateError(f"this is a checkpoint, and the state is in it: load checkpoint[{key!r}]")
        raise StateError(
            f"this is not a state of mixstream's version {VERSION} (its 'mixstream' entry is {version!r}; it has {keys}"
            "): a state of mosaicml-streaming or of another version cannot be resumed exactly; start without it"
        )
    try:
        state = msgspec.convert(dict(document), RunState)
    except msgspec.ValidationError as error:
        raise StateError(f"the state is damaged: {error}; load an older checkpoint") from error
    if wrong := _contradiction(state):
        raise StateError(f"the state is damaged: {wrong}; load an older checkpoint")
    return state


def _contradiction(state: RunState) -> str:
    """Return a description of how the parts of `state` contradict each other; empty if they are consistent."""
    lanes, names = state.num_canonical_nodes, [domain.name for domain in state.domains]
    if len(set(names)) < len(names):
        return f"it has domains twice: {names}"
    for domain in state.domains:
        if {len(domain.drawn), len(domain.base), len(domain.credit)} != {lanes}:
            return f"domain {domain.name!r} does not have one cursor for each of {lanes} lanes"
    if len(state.total) != lanes or any(map(sum, zip(*(domain.credit for domain in state.domains)))):
        return "the rounding carry does not add up"
    if state.sample_in_epoch % state.settings.global_batch_size or state.sample_in_epoch > state.settings.epoch_size:
        return f"{state.sample_in_epoch} is no number of samples between two steps of an epoch"
    return ""


def load_state(state: RunState, run_plan: RunPlan, *, fresh: Cursor, strict: bool) -> tuple[Cursor, bool]:
    """Return the cursor that `state` describes, in this run's plan, and whether this run saved the state.

    With `strict=False`, the state of another run is used in part: domains that both runs have (same name, fingerprint
    and selection) keep their draws, and a new epoch begins. The cursor `fresh` supplies the draws of other domains and
    all credits.

    Raises:
        StateError: with `strict`, the runs differ, and the message lists all differences; without it, they have a
            different number of lanes.
    """
    found = differences(state, run_plan, settings=settings_of(run_plan))
    if not found:
        plan, lanes = run_plan.plan, state.num_canonical_nodes
        by_name = {domain.name: domain for domain in state.domains}
        table = {
            key: np.array([getattr(by_name[name], key) for name in plan.names], dtype=np.int64).reshape(-1, lanes).T
            for key in ("drawn", "base", "credit")
        }
        cursor = Cursor(
            step=state.step,
            epoch=state.epoch,
            step_in_epoch=state.sample_in_epoch // plan.global_batch_size,
            drawn_LK=np.ascontiguousarray(table["drawn"]),
            base_LK=np.ascontiguousarray(table["base"]),
            credit_LK=np.ascontiguousarray(table["credit"]),
            total_L=np.array(state.total, dtype=np.int64),
            repeats=state.repeats,
        )
        return cursor, True
    if strict:
        raise StateError(
            "this state was saved by another run:\n  - " + "\n  - ".join(found) + "\n"
            "Make these equal to resume exactly, or call load_state_dict(state, strict=False) to keep the positions of "
            "the domains that still match and begin a new epoch with the settings of this run"
        )
    return _carry_over(state, run_plan, fresh), False


def _carry_over(state: RunState, run_plan: RunPlan, fresh: Cursor) -> Cursor:
    drawn_LK = fresh.drawn_LK.copy()
    saved = {(domain.name, domain.fingerprint, domain.selection): domain.drawn for domain in state.domains}
    for k, (domain, selection) in enumerate(zip(run_plan.domains, run_plan.selections)):
        if (drawn_L := saved.get((domain.name, domain.fingerprint, selection or UNSET))) is None:
            continue
        if len(drawn_L) != run_plan.lanes:
            raise StateError(
                f"the state has {len(drawn_L)} lanes and this run has {run_plan.lanes}, so its positions mean other "
                f"samples: pass num_canonical_nodes={len(drawn_L)}"
            )
        drawn_LK[:, k] = drawn_L
    begun = {"step": state.step, "epoch": state.epoch, "repeats": state.repeats}
    return replace(fresh, **begun, step_in_epoch=0, drawn_LK=drawn_LK, base_LK=drawn_LK)
