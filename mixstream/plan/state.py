"""A run's position as one small versioned JSON document, the same on every rank.

`RunState` is the document, `save_state` builds it from a cursor, and `load_state` returns the cursor. A state that does
not fit the run raises `StateError`; it is never reinterpreted. Keys that mosaicml-streaming's state has too keep their
names.

The size is O(domains x lanes): no sample numbers, no random generator, nothing of a single rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import UNSET

from mixstream.arguments import counted, shown
from mixstream.errors import StateError
from mixstream.plan.skips import Skips
from mixstream.plan.state_carry import carry_over, refusal
from mixstream.plan.state_contradictions import contradictions
from mixstream.plan.state_differences import differences
from mixstream.plan.state_record import Began, DomainState, IteratorState, RunState, SetAside, Settings
from mixstream.plan.state_text import check_plain, decoded, keys_of
from mixstream.plan.weights import deal
from mixstream.types import Cursor, Int64, Origin

if TYPE_CHECKING:  # so that reading a state does not compile the kernels
    from mixstream.plan.run_plan import RunPlan

VERSION = 2
_NO_SKIPS = Skips()
_MOSAIC = {"epoch", "sample_in_epoch", "num_canonical_nodes", "shuffle_seed"}
"""What every state of mosaicml-streaming has."""


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
        stretch=UNSET if run_plan.stretch is None else run_plan.stretch,
    )


def save_state(
    run_plan: RunPlan,
    cursor: Cursor,
    *,
    mixing: dict[str, Any] | None,
    quarantined: Sequence[SetAside] = (),
    skips: Skips = _NO_SKIPS,
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
        skips: steps that are left out.
    """
    plan = run_plan.plan
    cursor = plan.settle(cursor)
    even_K = (plan.owned_LK == deal(plan.samples_K, plan.lanes)).all(axis=0).tolist()
    drawn_K, base_K, credit_K = (a.T.tolist() for a in (cursor.drawn_LK, cursor.base_LK, cursor.credit_LK))
    began_K = None if cursor.origin is None else cursor.origin.drawn_LK.T.tolist()
    domains = [
        DomainState(
            name=domain.name,
            fingerprint=domain.fingerprint,
            samples=int(plan.samples_K[k]),
            choose=int(run_plan.choose_K[k]),
            max_epochs=run_plan.max_epochs_K[k],
            drawn=drawn_K[k],
            base=base_K[k],
            credit=credit_K[k],
            selection=selection or UNSET,
            share=UNSET if plan.share_K is None else int(plan.share_K[k]),
            owned=UNSET if even_K[k] else plan.owned_LK[:, k].tolist(),
            began=UNSET if began_K is None else began_K[k],
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
        skipped=skips.document() if skips else UNSET,
        began=UNSET if cursor.origin is None else Began(step=cursor.origin.step, epoch=cursor.origin.epoch),
    )
    return msgspec.to_builtins(state)


def parse_state(document: Mapping[str, Any]) -> RunState:
    """Check the form of `document` and return it as a `RunState`.

    Raises:
        StateError: it is not a state, has another version, or is damaged.
    """
    document = unpacked(document)
    if not isinstance(document, Mapping) or document.get("mixstream") != VERSION:
        raise StateError(_what_else(document))
    check_plain(document)
    try:
        state = msgspec.convert(dict(document), RunState)
    except (msgspec.ValidationError, RecursionError) as error:
        raise StateError(f"the state is damaged: {error}; load an older checkpoint") from error
    if wrong := next(contradictions(state), None):
        raise StateError(f"the state is damaged: {wrong}; load an older checkpoint")
    return state


def packed(document: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a state in one value, for savers that take lists and dicts apart; loading takes it.

    >>> packed({"mixstream": 2, "step": 7})
    {'state': b'{"mixstream":2,"step":7}'}
    """
    return {"state": msgspec.json.encode(document)}


def unpacked(document: Any) -> Any:
    """Return a state as it was before `packed`; any other document as it is.

    >>> unpacked({"state": b'{"mixstream":2,"step":7}'})
    {'mixstream': 2, 'step': 7}

    Raises:
        StateError: the state is damaged.
    """
    if not (isinstance(document, Mapping) and len(document) == 1 and isinstance(document.get("state"), bytes)):
        return document
    return decoded(document["state"])


def _what_else(document: Any) -> str:
    """Return what a document is that is no state, and what to do with it."""
    if not isinstance(document, Mapping) or not document:
        way_out = "; `json.loads` makes one of a text" if isinstance(document, (str, bytes)) else ""
        return (
            f"this is not a state of mixstream's version {VERSION}: a state is the dict that `state_dict()` returned, "
            f"got {shown(document)}{way_out}"
        )
    found = dict(_inner(document, depth=4))
    if ours := [path for path, inner in found.items() if inner.get("mixstream") == VERSION]:
        return f"this is a checkpoint, and the state is in it: load checkpoint{ours[0]}"
    version = document.get("mixstream")
    way_out = "a state of another version cannot be resumed exactly; start without it"
    theirs = [path for path, inner in found.items() if inner.keys() >= _MOSAIC]
    if version is None and theirs:
        way_out = (
            f'it is one of mosaicml-streaming: load checkpoint{theirs[0]} into a StreamingDataset(order="mosaic"), '
            "which goes on at the very next sample; or start the data anew, without this state (with Composer, "
            "Trainer(load_ignore_keys=['state/dataset_state']))"
        )
    return (
        f"this is not a state of mixstream's version {VERSION} (its 'mixstream' entry is {shown(version)}; it has "
        f"{keys_of(document)}): {way_out}"
    )


def _inner(value: Any, path: str = "", *, depth: int) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield `value` and the mappings in it, each with its path."""
    if not isinstance(value, Mapping):
        return
    yield path, value
    for key, item in value.items() if depth else ():
        yield from _inner(item, f"{path}[{shown(key)}]", depth=depth - 1)


def load_state(state: RunState, run_plan: RunPlan, *, fresh: Cursor, strict: bool) -> tuple[Cursor, bool]:
    """Return the cursor that `state` describes, in this run's plan, and whether this run saved the state.

    With `strict=False`, the state of another run is used in part (`state_carry.carry_over`). The lanes' parts of its
    domains are those of the state if `run_plan` has them from it (`state_carry.with_shares`).

    Raises:
        StateError: with `strict`, the runs differ, and the message lists all differences; without it, positions cannot
            be kept that can be kept with other settings. Or the state has a position that its run cannot have.
    """
    found = differences(state, run_plan, settings=settings_of(run_plan))
    if not found:
        return _cursor(state, run_plan, strict=strict), True
    if strict:
        if isinstance(state.iterator, IteratorState):
            way_out = (
                "; strict=False cannot help, since the state lies within a step, or a turn of DataLoader workers, "
                "which only its own run can go on with: save between two steps, or load an older checkpoint"
            )
        elif refusal(state, run_plan):
            way_out = "; strict=False cannot help, since the state's positions mean other samples in this run"
        else:
            way_out = (
                ", or call load_state_dict(state, strict=False) to keep the positions of the domains that still match "
                "and begin a new epoch with the settings of this run"
            )
        raise StateError(
            "this state was saved by another run:\n  - " + "\n  - ".join(found) + "\n"
            f"Make these equal to resume exactly{way_out}"
        )
    return carry_over(state, run_plan, fresh), False


def _cursor(state: RunState, run_plan: RunPlan, *, strict: bool) -> Cursor:
    """Return the place of a state of this run.

    Raises:
        StateError: its run cannot have been there.
    """
    from mixstream.plan.state_counts import resumed  # here, so that reading a state does not compile the kernels

    plan, lanes = run_plan.plan, state.num_canonical_nodes
    by_name = {domain.name: domain for domain in state.domains}

    def table(key: str) -> Int64:
        columns = [getattr(by_name[name], key) for name in plan.names]
        return np.ascontiguousarray(np.array(columns, dtype=np.int64).reshape(-1, lanes).T)

    wrong = next(
        (
            f"domain {n!r} has {by_name[n].samples} samples in it, and {size} here"
            for n, size in zip(plan.names, plan.samples_K.tolist())
            if by_name[n].samples != size
        ),
        "",
    )
    step = state.sample_in_epoch // plan.global_batch_size
    if not wrong and step > plan.steps_per_epoch:
        wrong = f"it is {counted(step, 'steps')} into an epoch of {plan.steps_per_epoch}"
    if not wrong:
        began = state.began
        cursor, wrong = resumed(
            plan,
            Cursor(
                step=state.step,
                epoch=state.epoch,
                step_in_epoch=step,
                drawn_LK=table("drawn"),
                base_LK=table("base"),
                credit_LK=table("credit"),
                total_L=np.array(state.total, dtype=np.int64),
                repeats=state.repeats,
                origin=None if began is UNSET else Origin(step=began.step, epoch=began.epoch, drawn_LK=table("began")),
            ),
            began=state.mixing_origin,
            strict=strict,
            shares=any(domain.share is not UNSET for domain in state.domains),
        )
        if not wrong:
            return cursor
    raise StateError(
        f"the state is damaged: {wrong}; load an older checkpoint. If its run went on from a state of another run "
        "under an earlier version of mixstream, load it with strict=False"
    )
