"""One run: what is drawn, the domains, the mixer, and what is set aside.

`StreamingDataset`, `Loader` and `StreamingDataLoader` share it. It has no position (`Walk` has), owns no thread, and
opens no file except those of its domains.

Shape suffixes: K domains.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import is_dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mixstream.data.bad_samples import Quarantine, RowReader
from mixstream.data.domains import Domains
from mixstream.errors import StateError
from mixstream.feedback.logged_plan import LoggedPlan
from mixstream.lazy import later
from mixstream.mixers import Mixer, OpenLoop, Static
from mixstream.plan.forecast import Forecast
from mixstream.plan.plan import Plan
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.skips import Skips
from mixstream.plan.walk import Walk
from mixstream.plan.weights import quantise
from mixstream.records import dataclass
from mixstream.types import Cursor, Int64, Origin, Weights

if TYPE_CHECKING:
    from mixstream.feedback.loop import FeedbackLoop
    from mixstream.feedback.replay import Replay
    from mixstream.mixers.settings import former_versions, settings_text
    from mixstream.mixers.whole_parts import open_loop_weights
    from mixstream.plan.state import load_state, save_state, settings_of
    from mixstream.plan.state_record import RunState
else:
    (FeedbackLoop,) = later("mixstream.feedback.loop", "FeedbackLoop")
    (Replay,) = later("mixstream.feedback.replay", "Replay")
    former_versions, settings_text = later("mixstream.mixers.settings", "former_versions", "settings_text")
    (open_loop_weights,) = later("mixstream.mixers.whole_parts", "open_loop_weights")
    load_state, save_state, settings_of = later("mixstream.plan.state", "load_state", "save_state", "settings_of")
    (RunState,) = later("mixstream.plan.state_record", "RunState")


_NO_SKIPS = Skips()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A plan, the domains that it draws from, and the mixer that weighs them.

    Args:
        run_plan: what is drawn, and which rows of it are this rank's.
        domains: in the plan's order.
        mixer: the policy for the weights; None for those of the streams.
        on_bad_sample: what to do about samples that cannot be read.
        quarantine: what is set aside.
    """

    run_plan: RunPlan
    domains: Domains
    mixer: Mixer | OpenLoop | Static | None
    on_bad_sample: str
    quarantine: Quarantine

    can_skip = True

    @property
    def plan(self) -> Plan:
        """What the run draws, step by step."""
        return self.run_plan.plan

    def reader(self, domains: Domains) -> RowReader:
        """Return a reader of rows of `domains` that handles bad samples."""
        return RowReader(policy=self.on_bad_sample, domains=domains, run_plan=self.run_plan, quarantine=self.quarantine)

    def forecast(self) -> Forecast:
        """Return a forecast of what this rank reads."""
        return Forecast(self.run_plan)

    def loop(self) -> FeedbackLoop | None:
        """Return a new feedback loop; None if the mixer does not learn."""
        if not isinstance(self.mixer, Mixer):
            return None
        assert self.run_plan.lag is not None
        return FeedbackLoop(mixer=self.mixer, prior_K=self.run_plan.prior_K, lag=self.run_plan.lag)

    def weights(self, loop: FeedbackLoop | None) -> Weights | None:
        """Return step -> weights; None for static mixing."""
        if loop is not None:
            return loop.weights
        if isinstance(self.mixer, OpenLoop):
            return open_loop_weights(self.mixer, self.plan.names)
        return None

    def facts(self, cursor: Cursor, loop: FeedbackLoop | None, skips: Skips = _NO_SKIPS) -> dict[str, Any]:
        """Return what must be the same on all ranks of the run at `cursor`, by name; `skips` are left out."""
        drawn = f"{cursor.step} {cursor.drawn_LK.tolist()} {cursor.credit_LK.tolist()}"
        learned = "" if loop is None else json.dumps(loop.document(loop.concluded.step), sort_keys=True)
        return {
            **msgspec.to_builtins(settings_of(self.run_plan)),
            **self.run_plan.rank_facts,
            "ranks of the same rows (replication)": self.run_plan.world.groups,
            "loss_parts": self.run_plan.world.parts,
            "domains": dict(zip(self.plan.names, (f[:12] for f in self.run_plan.fingerprints))),
            "selections": dict(zip(self.plan.names, self.run_plan.selections)),
            "step": cursor.step,
            "position": blake2b(drawn.encode(), digest_size=6).hexdigest(),
            "state of the mixer": blake2b(learned.encode(), digest_size=6).hexdigest(),
            **({"steps left out": str(skips)} if skips else {}),
        }

    def start(self) -> Cursor:
        """Return the cursor of step 0."""
        weights = self.weights(self.loop())
        if weights is None:
            return self.plan.start()
        return self.plan.start(weights(0) if (begun_by_K := self._begun_by_K) is None else begun_by_K)

    @property
    def _begun_by_K(self) -> Int64 | None:
        """Weights in place of those of step 0, which are not known if lag is 0 and an evaluation comes first."""
        if isinstance(self.mixer, Replay):
            logged = self.mixer.plan.begun_by if self.mixer.plan is not None else {}
            return np.array([logged[name] for name in self.plan.names], dtype=np.int64) if logged else None
        return self.fixed(0) if (loop := self.loop()) is not None and loop.weights(0) is None else None

    def fixed(self, step: int) -> Int64:
        """Return the weights of static mixing in whole parts, int64 [K]; the same for every step."""
        del step
        return quantise(self.run_plan.prior_K)

    def log_header(self, *, carried: bool) -> dict[str, Any]:
        """Return the facts of the run in the header of a log; `carried` if it goes on from a state of another run."""
        return {
            "mixer": type(self.mixer).__name__ if self.mixer is not None else "none",
            "lag": self.run_plan.lag,
            "global_batch_size": self.plan.global_batch_size,
            "samples_K": self.plan.samples_K,
            "row_tokens": self.domains.row_tokens,
            "selections": {domain.name: domain.view_id for domain in self.domains if domain.view_id is not None},
            "plan": LoggedPlan.of(self.run_plan, begun_by_K=self._begun_by_K, carried=carried),
        }

    def walk(self, cursor: Cursor, weights: Weights | None) -> Walk:
        """Return a walk from `cursor`."""
        return Walk(plan=self.plan, cursor=cursor, weights=weights)

    def walk_to_epoch(self, cursor: Cursor, epoch: int) -> Cursor:
        """Return the cursor at the start of `epoch`, as if every step before it had been drawn.

        The weights of a learning mixer are not known in advance; there, draws go on from `cursor`.
        """
        exact = self.plan.part_LK is not None and self.plan.max_epochs_K is None
        if exact or isinstance(self.mixer, Mixer):
            return self.plan.at_epoch(cursor, epoch)
        if (epoch, 0) < (cursor.epoch, cursor.step_in_epoch):
            cursor = self.start()
        walk = self.walk(cursor, self.weights(None))
        walk.pass_steps((epoch - walk.cursor.epoch) * self.plan.steps_per_epoch - walk.cursor.step_in_epoch)
        return walk.cursor

    def document(self, cursor: Cursor, loop: FeedbackLoop | None, skips: Skips = _NO_SKIPS) -> dict[str, Any]:
        """Return the state at `cursor`: a small JSON-able dict, the same on every rank; `skips` are left out."""
        cursor = self.plan.settle(cursor)
        mixing = loop.document(cursor.step) if loop is not None else None
        return save_state(self.run_plan, cursor, mixing=mixing, quarantined=self.quarantine.document(), skips=skips)

    def restore(self, state: RunState, *, strict: bool) -> tuple[Cursor, FeedbackLoop | None, bool]:
        """Return the cursor that `state` describes, the feedback loop as it was there, and whether all of it is kept.

        Raises:
            StateError: with `strict`, it belongs to another run.
        """
        names, loop = self.plan.names, self.loop()
        try:
            cursor, exact = load_state(state, self.run_plan, fresh=self.start(), strict=strict)
        except StateError as error:
            if hint := former_settings(self.mixer, state.settings.mixer):
                raise StateError(f"{error}{hint}") from None
            raise
        theirs, mixing, why = [domain.name for domain in state.domains], state.mixing, "is of another run"
        if loop is not None and exact:
            try:
                loop.restore(mixing or {}, cursor.step, rows=self.plan.global_batch_size)
            except StateError as error:
                if strict:
                    raise
                loop, mixing, why = self.loop(), None, f"has a mixer that cannot go on ({error})"
                assert loop is not None
                origin = Origin(step=cursor.step, epoch=cursor.epoch, drawn_LK=cursor.drawn_LK)
                cursor, exact = replace(cursor, base_LK=cursor.drawn_LK, origin=origin), False
        if loop is not None and not exact and not loop.carry_over(mixing, names=theirs, into=names, step=cursor.step):
            warnings.warn(
                f"the state {why} (strict=False): what its mixer has learned is dropped, and weights start at the "
                "prior again",
                stacklevel=4,
            )
        return cursor, loop, exact


def mixing_method(mixer: Any, *, in_order: bool, saved: str | None = None) -> str:
    """Return the name of the mixing in a state: the mixer's and, if it is a dataclass, a digest of its settings.

    The order in which a mapping of the settings lists domains does not count, nor whether a float is given as 1 or 1.0.
    Both did once: if `saved`, the name in a state, is of the settings as they are typed, it is returned.
    """
    if mixer is None or isinstance(mixer, Static):
        return "in order" if in_order else "static"
    name = type(mixer).__name__
    if not is_dataclass(mixer):
        return name
    texts = (settings_text(mixer, as_typed=as_typed) for as_typed in (False, True))
    found, typed = (f"{name} {blake2b(text.encode(), digest_size=6).hexdigest()}" for text in texts)
    return typed if saved == typed else found


def former_settings(mixer: Any, saved: str) -> str:
    """Return how to go on from a state whose mixing method is `saved`, if it is `mixer` with its former defaults."""
    for former, words in former_versions(mixer):
        if mixing_method(former, in_order=False, saved=saved) == saved:
            return f"\nDefaults of mixers have changed since it was saved. To go on exactly, give {words}"
    return ""
