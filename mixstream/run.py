"""The parts of one run, put together once: corpus, plan, addresses, mixing, state.

`Run` is what the faces (`StreamingDataset`, `Loader`, `StreamingDataLoader`) share. It holds no position: walks do. It
owns no thread and no file but those of its corpus.

Shape suffixes: B rows of the global batch, K domains.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from mixstream.corpus import Addressing, Corpus
from mixstream.distributed import World
from mixstream.errors import ConfigError
from mixstream.feedback import FeedbackLoop, OpenLoopWeights, Weights
from mixstream.mixers import Mixer, OpenLoop, Static
from mixstream.order import Order
from mixstream.plan import Plan
from mixstream.quarantine import Quarantine, Reader
from mixstream.state import Settings, load_state, parse_state, save_state
from mixstream.types import Cursor, Float64, Int64
from mixstream.walk import Walk
from mixstream.weights import normalise, quantise


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked for, resolved: one entry per domain in the order of `streams`."""

    choose_K: Int64
    epoch_size: int
    max_epochs_K: tuple[float | None, ...]
    weighted: bool
    mixer: Mixer | OpenLoop | Static | None
    lag: int
    shuffle: bool
    shuffle_seed: int
    shuffle_block_size: int | None
    drop_last: bool
    on_bad_sample: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A corpus, a plan over it, and what of each global batch is this rank's.

    Args:
        corpus: the domains, as the user listed them.
        request: what to draw from them.
        world: ranks after replication.
        batch_size: rows per rank and step.
        lanes: independent paths through the shards.
        quarantine: what of the corpus is set aside.
    """

    corpus: Corpus
    request: Request
    world: World
    batch_size: int
    lanes: int
    quarantine: Quarantine

    @cached_property
    def domain_K(self) -> Int64:
        """The plan's domains, as indices into the user's list; int64 [K]."""
        names = [domain.name for domain in self.corpus.domains]
        if self._in_order:
            return np.arange(len(names), dtype=np.int64)
        return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)

    @property
    def _in_order(self) -> bool:
        ask = self.request
        return not ask.shuffle and not ask.weighted and ask.mixer is None

    @cached_property
    def plan(self) -> Plan:
        """What the run draws, step by step."""
        ask, canonical = self.request, self.domain_K.tolist()
        by_step = ask.mixer is not None and not isinstance(ask.mixer, Static)
        samples = [int(self.corpus.domains[k].samples_S.sum()) for k in canonical]
        return Plan(
            names=tuple(self.corpus.domains[k].name for k in canonical),
            samples_K=np.array(samples, dtype=np.int64),
            choose_K=None if by_step else ask.choose_K[self.domain_K],
            epoch_size=ask.epoch_size,
            global_batch_size=self.batch_size * self.world.size,
            lanes=self.lanes,
            drop_last=ask.drop_last,
            in_order=self._in_order,
            max_epochs_K=tuple(ask.max_epochs_K[k] for k in canonical) if any(ask.max_epochs_K) else None,
        )

    @cached_property
    def block_size(self) -> int:
        """Samples within which a lane's order is mixed; the default is mosaicml-streaming's."""
        return self.request.shuffle_block_size or max(4_000_000 // self.lanes, 1 << 18)

    @cached_property
    def addressing(self) -> Addressing:
        """draw -> address."""
        orders = tuple(
            Order(
                name=self.corpus.domains[k].name,
                seed=self.request.shuffle_seed,
                samples_S=self.corpus.domains[k].samples_S,
                owned_L=self.plan.owned_LK[:, at],
                shuffle=self.request.shuffle,
                block_size=self.block_size,
            )
            for at, k in enumerate(self.domain_K.tolist())
        )
        return Addressing(orders=orders, domain_K=self.domain_K, lanes=self.lanes)

    def reader(self, corpus: Corpus) -> Reader:
        """Return what reads rows out of `corpus`, and knows what to do about bad ones."""
        return Reader(
            policy=self.request.on_bad_sample,
            corpus=corpus,
            addressing=self.addressing,
            part=self.part,
            quarantine=self.quarantine,
            seed=self.request.shuffle_seed,
        )

    @property
    def part(self) -> slice:
        """This rank's rows of a global batch."""
        return slice(self.world.rank * self.batch_size, (self.world.rank + 1) * self.batch_size)

    @cached_property
    def prior_K(self) -> Float64:
        """Weights before any feedback, float64 [K] in the plan's order: the streams' own."""
        return normalise(self.request.choose_K[self.domain_K])

    def loop(self) -> FeedbackLoop | None:
        """Return the feedback loop of a learning mixer, at its beginning; None for other mixing."""
        mixer = self.request.mixer
        if not isinstance(mixer, Mixer):
            return None
        return FeedbackLoop(mixer=mixer, prior_K=self.prior_K, lag=self.request.lag)

    def weights(self, loop: FeedbackLoop | None) -> Weights | None:
        """Return step -> weights; None for static mixing."""
        if loop is not None:
            return loop.weights
        if isinstance(self.request.mixer, OpenLoop):
            return OpenLoopWeights(mixer=self.request.mixer, names=self.plan.names).weights
        return None

    def facts(self, cursor: Cursor, loop: FeedbackLoop | None) -> dict[str, Any]:
        """Return what all ranks of the run have to have in common at `cursor`, by name."""
        facts = msgspec.to_builtins(self._settings)
        drawn = f"{cursor.step} {cursor.drawn_LK.tolist()} {cursor.credit_LK.tolist()}"
        learned = "" if loop is None else json.dumps(loop.document(loop.reported), sort_keys=True)
        return {
            **facts,
            "domains": dict(zip(self.plan.names, (f[:12] for f in self._fingerprints))),
            "step": cursor.step,
            "position": blake2b(drawn.encode(), digest_size=6).hexdigest(),
            "state of the mixer": blake2b(learned.encode(), digest_size=6).hexdigest(),
        }

    def start(self) -> Cursor:
        """Return the cursor of step 0."""
        weights = self.weights(self.loop())
        first_K = weights(0) if weights else None  # unknown where lag is 0 and an evaluation comes first
        return self.plan.start(quantise(self.prior_K) if weights and first_K is None else first_K)

    def fixed(self, step: int) -> Int64:
        """Return the weights of static mixing in whole parts, int64 [K], which are those of every step."""
        del step
        return quantise(self.prior_K)

    @property
    def told(self) -> dict[str, Any]:
        """What the header of a log says of the run."""
        ask, mixer = self.request, self.request.mixer
        return {
            "mixer": type(mixer).__name__ if mixer is not None else "none",
            "lag": ask.lag if isinstance(mixer, Mixer) else None,
            "global_batch_size": self.plan.global_batch_size,
            "samples_K": self.plan.samples_K,
            "row_tokens": self.corpus.row_tokens,
        }

    def walk(self, cursor: Cursor, weights: Weights | None) -> Walk:
        """Return a walk from `cursor`."""
        return Walk(plan=self.plan, cursor=cursor, weights=weights)

    def walk_to_epoch(self, cursor: Cursor, epoch: int) -> Cursor:
        """Return the cursor at the start of `epoch`, as if every step before it had been drawn.

        Under a learning mixer, whose weights nobody knows beforehand, draws just go on from where they are.
        """
        exact = self.plan.choose_K is not None and self.plan.max_epochs_K is None
        if exact or isinstance(self.request.mixer, Mixer):
            return self.plan.at_epoch(cursor, epoch)
        if epoch < cursor.epoch:
            cursor = self.start()
        walk = self.walk(cursor, self.weights(None))
        while walk.cursor.epoch < epoch and walk.advance() is not None:
            pass
        return walk.cursor

    @cached_property
    def _settings(self) -> Settings:
        ask, mixer = self.request, self.request.mixer
        static = mixer is None or isinstance(mixer, Static)
        return Settings(
            shuffle_seed=ask.shuffle_seed,
            num_canonical_nodes=self.lanes,
            global_batch_size=self.plan.global_batch_size,
            shuffle=ask.shuffle,
            shuffle_block_size=self.block_size,
            epoch_size=ask.epoch_size,
            drop_last=ask.drop_last,
            mixer=("in order" if self._in_order else "static") if static else _digest(mixer),
            lag=ask.lag if isinstance(mixer, Mixer) else None,
        )

    @cached_property
    def _fingerprints(self) -> list[str]:
        return [self.corpus.domains[k].fingerprint for k in self.domain_K.tolist()]

    def document(self, cursor: Cursor, loop: FeedbackLoop | None) -> dict[str, Any]:
        """Return the state at `cursor`: a small JSON-able dict, the same on every rank."""
        cursor = self.plan.settle(cursor)
        return save_state(
            plan=self.plan,
            cursor=cursor,
            settings=self._settings,
            fingerprints=self._fingerprints,
            choose_K=self.request.choose_K[self.domain_K],
            mixing=loop.document(cursor.step) if loop is not None else None,
            quarantined=self.quarantine.document(),
        )

    def restore(self, document: Mapping[str, Any], *, strict: bool) -> tuple[Cursor, FeedbackLoop | None]:
        """Return the position that `document` describes, and the feedback loop as it was there.

        Raises:
            StateError: it is not a state, or (with `strict`) not one of this run.
        """
        state = parse_state(document)
        fresh, loop = self.start(), self.loop()
        cursor, exact = load_state(
            state,
            plan=self.plan,
            settings=self._settings,
            fingerprints=self._fingerprints,
            choose_K=self.request.choose_K[self.domain_K],
            fresh=fresh,
            strict=strict,
        )
        same = {name for name, print_ in zip(self.plan.names, self._fingerprints) if (name, print_) in state.known}
        self.quarantine.restore(entry for entry in state.quarantined if entry.domain in same)
        if loop is not None:
            if exact:
                loop.restore(state.mixing or {}, cursor.step)
            else:
                names = [domain.name for domain in state.domains]
                if not loop.carry_over(state.mixing, names=names, into=self.plan.names, step=cursor.step):
                    warnings.warn(
                        "the state is of another run (strict=False): what its mixer has learned is dropped, and "
                        "weights begin at the prior again",
                        stacklevel=3,
                    )
        return cursor, loop


def _digest(mixer: Any) -> str:
    """Return a mixer's name and, where it can be told, a digest of its hyper-parameters."""
    name = type(mixer).__name__
    if not dataclasses.is_dataclass(mixer):
        return name
    return f"{name} {blake2b(repr(mixer).encode(), digest_size=6).hexdigest()}"


def lanes_of(document: Mapping[str, Any] | None, wanted: int | None, nodes: int) -> int:
    """Return the number of lanes: as asked, else as in the state to be resumed, else one per node."""
    if wanted is not None:
        return wanted
    if document is not None:
        return parse_state(document).num_canonical_nodes
    return nodes


def check_batch_size(batch_size: Any) -> int:
    """Return `batch_size` if a run can have it.

    Raises:
        ConfigError: it was not given, or is not a positive whole number.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(
            f"Please pass `batch_size` to StreamingDataset (rows per rank and step, a whole number >= 1; got "
            f"{batch_size!r}): the plan is made of global batches"
        )
    return batch_size
