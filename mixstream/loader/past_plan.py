"""Past runs (`past_run`) from what is left of them: a log, a state, or both.

Rules. The plan is made of what the log or the state says of it, not of a dataset's options. What does not follow from
them is refused: settings that changed in mid-run, logs of earlier versions, weights that only the run's mixer knew.

Shape suffixes: K domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from mixstream.data.bad_samples import Quarantine
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError, StateError
from mixstream.feedback.log import Begin
from mixstream.feedback.logged_plan import LoggedPlan
from mixstream.feedback.replay import LoggedRun
from mixstream.loader.past_run import PastRun
from mixstream.plan.fixed_sample import sampled
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.state import RunState, load_state
from mixstream.plan.state_carry import with_shares
from mixstream.plan.weights import WEIGHT_UNIT, apportion, quantise
from mixstream.types import Cursor, Int64
from mixstream.world import World

_FIXED = ("static", "in order")
"""The mixing methods of a state whose weights do not change."""


def recompute(
    domains: Domains, *, logged: LoggedRun | None, state: RunState | None, where: str, step: int | None = None
) -> PastRun:
    """Return the run of a log, a state or both.

    Args:
        domains: in the plan's order.
        logged: the log.
        state: a state of the same run.
        where: the state, for errors.
        step: the step that is asked for; all that are known if not given.

    Raises:
        StateError: what is given does not decide rows, or not of one run.
        ConfigError: the domains are not those of the run.
    """
    if state is None:
        assert logged is not None, "there is a log or a state"
        return _of_log(logged, domains, step)
    found = _of_state(state, domains, where)
    if logged is None:
        return found
    after = _with_log(found, logged, state.step)
    if step is not None and step >= after.first:
        return after
    try:
        whole = _of_log(logged, domains, step if step is not None else state.step)
    except StateError:
        if step is not None:
            raise
        return after
    return replace(
        after if step is None else whole,
        origins=whole.origins if step is not None else {**whole.origins, **after.origins},
        skips=whole.skips | after.skips,
        quarantine=found.quarantine,
    )


# --- from a log -----------------------------------------------------------------------------------------------------


def _of_log(logged: LoggedRun, domains: Domains, step: int | None) -> PastRun:
    """Return the run of a log, for steps up to `step`, or all that it has."""
    headers = [header for header in logged.headers if step is None or header.step <= step] or [logged.headers[0]]
    header = headers[0]
    if header.step:
        raise StateError(
            f"{logged.path}: the log begins at step {header.step}, and rows depend on all steps before: give a state "
            "of the run too, with --state"
        )
    _check_headers(logged.path, headers)
    assert header.plan is not None
    run_plan = _plan_of_log(logged.path, header, header.plan, domains)
    weights = None if header.plan.fixed else _logged_weights(logged, domains)
    plan, begun_by = run_plan.plan, header.plan.begun_by
    if weights is None:
        start = plan.start()
    elif begun_by:
        start = plan.start(np.array([begun_by[name] for name in plan.names], dtype=np.int64))
    elif 0 in weights:
        start = plan.start(weights[0])
    else:
        raise StateError(f"{logged.path}: the log lacks step 0, and rows depend on its weights: give a state, --state")
    return PastRun(
        run_plan=run_plan,
        domains=domains,
        where=logged.path,
        weights=weights,
        known=int(logged.step_T[-1]) + 1 if len(logged.step_T) else 0,
        origins={0: start},
        skips=logged.skips,
        quarantine=None,
    )


def _logged_weights(logged: LoggedRun, domains: Domains) -> dict[int, Int64]:
    order = [logged.names.index(domain.name) for domain in domains]
    return dict(zip(logged.step_T.tolist(), logged.given_TK[:, order]))


def _check_headers(path: str, headers: Sequence[Begin]) -> None:
    """Check that the steps below `headers` are those of one run, and that the first describes it.

    Raises:
        StateError: they are not.
    """
    first = headers[0]
    for header in headers:
        if header.plan is None:
            raise StateError(
                f"{path}: the log does not say all that decides rows at step {header.step}, since an earlier version "
                'wrote it or the order is "mosaic": give a state of the run too, with --state'
            )
        why = ""
        if header.plan.carried:
            why = "the run went on from a state of another run (strict=False)"
        elif (header.domains, header.selections, header.samples) != (first.domains, first.selections, first.samples):
            why = "the domains or selections changed"
        elif (header.plan, header.global_batch_size) != (first.plan, first.global_batch_size):
            why = "settings changed"
        if why:
            raise StateError(
                f"{path}: at step {header.step} {why}, so later rows do not follow from the log: give a state from "
                "after that step, with --state, or a step before it"
            )


def _plan_of_log(path: str, header: Begin, plan: LoggedPlan, domains: Domains) -> RunPlan:
    names = [domain.name for domain in domains]
    table = plan.choose or plan.shares or header.samples  # the last for weights by step, where it decides nothing
    listed_K = np.array([table[name] for name in names], dtype=np.int64)
    run_plan = _run_plan(
        domains,
        plan.views,
        choose_K=apportion(plan.epoch_size, listed_K) if plan.shares else listed_K,
        share_K=listed_K if plan.shares else None,
        epoch_size=plan.epoch_size,
        max_epochs_K=tuple(plan.max_epochs.get(name) for name in names),
        by_step=not plan.fixed,
        in_order=plan.in_order,
        shuffle=plan.shuffle,
        shuffle_seed=plan.shuffle_seed,
        block_size=plan.shuffle_block_size,
        drop_last=plan.drop_last,
        mixer=header.mixer,
        lag=header.lag,
        batch_size=header.global_batch_size,
        lanes=plan.lanes,
        stretch=plan.stretch or None,
    )
    for name, view, domain in zip(names, run_plan.selections, domains):
        if (was := plan.views.get(name)) != view:
            option = "--packing" if "packing " in f"{was} {view}" else "--selection"
            raise ConfigError(
                f"{path}: the run read the domain {name!r} {_how(was)}, and here it is read {_how(view)}: give the "
                f"{option} of the run"
            )
        if None not in (header.row_tokens, domains.row_tokens) and header.row_tokens != domains.row_tokens:
            raise ConfigError(
                f"{path}: rows of the run had {header.row_tokens} tokens, and here they have {domains.row_tokens}: "
                "give the --seq-len and --overlap of the run"
            )
        fixed = view is not None and view.startswith("fixed ")  # of which the log counts the chosen samples
        if not fixed and header.samples[name] != domain.samples:
            raise ConfigError(
                f"{path}: the domain {name!r} had {header.samples[name]:,} samples, and here it has "
                f"{domain.samples:,}: give the shards that the run read"
            )
    return run_plan


def _how(view: str | None) -> str:
    if view is None:
        return "whole"
    words = {"fixed": "as a ", "packing": "by the "}.get(view.partition(" ")[0], "by the selection ")
    return f"{words}{view}"


def _run_plan(domains: Domains, views: Mapping[str, str], **settings: Any) -> RunPlan:
    """Return the plan of one rank that has all rows; `views` are the ids by which domains are read."""
    planned: tuple[Any, ...] = tuple(
        sampled(domain, samples=int(view.split()[1]), seed=settings["shuffle_seed"])
        if (view := views.get(domain.name, "")).startswith("fixed ")
        else domain
        for domain in domains
    )
    return RunPlan(
        domains=planned,
        world=World(),
        source_K=domains.source_K,
        family_K=tuple(domain.whole.name if domain.whole is not None else None for domain in domains),
        **settings,
    )


# --- from a state ---------------------------------------------------------------------------------------------------


def _of_state(state: RunState, domains: Domains, where: str) -> PastRun:
    """Return the run of a state: with fixed weights all steps, else those whose weights are in it."""
    settings, saved = state.settings, {domain.name: domain for domain in state.domains}
    listed, fixed = [saved[domain.name] for domain in domains], settings.mixer in _FIXED
    shares = [domain.share for domain in listed if isinstance(domain.share, int)]
    run_plan = _run_plan(
        domains,
        {domain.name: domain.selection for domain in listed if isinstance(domain.selection, str)},
        choose_K=np.array([domain.choose for domain in listed], dtype=np.int64),
        share_K=np.array(shares, dtype=np.int64) if fixed and len(shares) == len(listed) else None,
        epoch_size=settings.epoch_size,
        max_epochs_K=tuple(domain.max_epochs for domain in listed),
        by_step=not fixed,
        in_order=settings.mixer == "in order",
        shuffle=settings.shuffle,
        shuffle_seed=settings.shuffle_seed,
        block_size=settings.shuffle_block_size,
        drop_last=settings.drop_last,
        mixer=settings.mixer,
        lag=settings.lag,
        batch_size=settings.global_batch_size,
        lanes=state.num_canonical_nodes,
        stretch=settings.stretch if isinstance(settings.stretch, int) else None,
    )
    run_plan = with_shares(run_plan, state)
    some_K = None if fixed else quantise(np.ones(len(listed)))
    cursor, _ = load_state(state, run_plan, fresh=run_plan.plan.start(some_K), strict=True)
    found = PastRun(
        run_plan=run_plan,
        domains=domains,
        where=where,
        weights=None if fixed else _weights_to_come(state),
        known=None,
        origins={cursor.step: cursor},
        skips=state.skips,
        quarantine=Quarantine.restored(domains, state, load=0),
    )
    return _with_steps_before(found, cursor) if fixed else _until_known(found, state)


def _weights_to_come(state: RunState) -> dict[int, Int64]:
    """Return the weights of the steps that a mixer had decided on, by step; none of a schedule or a replay."""
    try:
        logged = [] if state.mixing is None else state.mixing["log"]
        found = {int(step): np.asarray(parts, dtype=np.int64) for step, parts in logged}
        if any(parts_K.shape != (len(state.domains),) or parts_K.sum() != WEIGHT_UNIT for parts_K in found.values()):
            raise ValueError("they do not sum to 1")
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"the weights in the state cannot be read ({error!r}); use an older checkpoint") from error
    return found


def _with_steps_before(run: PastRun, cursor: Cursor) -> PastRun:
    """Return `run`, whose weights are fixed, with the steps before the state's if they lead to it from step 0."""
    plan = run.run_plan.plan
    start, here = plan.start(), plan.settle(cursor)
    try:
        reached = plan.settle(replace(run, origins={0: start}).walk_to(cursor.step).cursor)
    except StateError:
        reached = start
    tables = ("drawn_LK", "base_LK", "credit_LK", "total_L")
    if reached.step == here.step and all(np.array_equal(getattr(reached, t), getattr(here, t)) for t in tables):
        return replace(run, origins={0: start, **run.origins})
    return replace(
        run,
        unreached=f"the state is of step {cursor.step}, which does not follow from step 0 by its weights, since the "
        "run went on from another one (strict=False): give an earlier state of this run",
    )


def _until_known(run: PastRun, state: RunState) -> PastRun:
    """Return `run`, whose weights change by step, with the end of what its state decides."""
    known, name = state.step, state.settings.mixer.partition(" ")[0]
    while run.weights is not None and known in run.weights:
        known += 1
    log = f"the state does not hold the other weights of {name}: give the log of the run, with --log"
    unreached = f"the state is of step {state.step}, and rows before it do not follow from it: give the log, with --log"
    return replace(run, known=known, unreached=unreached, beyond=log)


def _with_log(run: PastRun, logged: LoggedRun, step: int) -> PastRun:
    """Return the run of a state of `step` with the later steps of its log.

    Raises:
        StateError: the log is of another run, or its settings changed after the state.
    """
    names, where = run.run_plan.names, f"{logged.path} and {run.where}"
    if set(logged.header.domains) != set(names):
        raise StateError(
            f"{where}: the log has the domains {logged.header.domains}, and the state {list(names)}: give those of one "
            "run"
        )
    plan, size = LoggedPlan.of(run.run_plan), run.run_plan.plan.global_batch_size
    before = [header for header in logged.headers if header.step <= step]
    for header in [*before[-1:], *(header for header in logged.headers if header.step > step)]:
        if header.plan is None:
            continue  # of an earlier version; the state says all that decides rows
        carried = header.plan.carried and header.step > step
        theirs = msgspec.structs.replace(header.plan, begun_by={}, carried=False)
        if carried or (theirs, header.global_batch_size) != (plan, size):
            raise StateError(
                f"{where}: the settings in the log at step {header.step} are not those of the state of step {step}: "
                "give a log and a state of one run, the state from after its last change"
            )
    given, ours = _logged_weights(logged, run.domains), run.weights or {}
    if odd := [at for at in ours.keys() & given.keys() if not np.array_equal(ours[at], given[at])]:
        raise StateError(f"{where}: they are not of one run, since the weights of step {min(odd)} differ")
    first, last = (int(logged.step_T[0]), int(logged.step_T[-1]) + 1) if len(logged.step_T) else (0, 0)
    skips = run.skips.before(first) | logged.skips | run.skips.since(last)  # a run may go on from before the state
    found = replace(run, where=where, skips=skips)
    if run.weights is None or run.known is None:
        return found
    return replace(found, weights={**given, **ours}, known=max(last, run.known), beyond=PastRun.beyond)
