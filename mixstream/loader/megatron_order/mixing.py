"""Streams as domains in Megatron's order, and the blend of them in place of our mixing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np

from mixstream.data.domain import Domain
from mixstream.data.domains import Domains
from mixstream.data.packed import TOKENS, Packed
from mixstream.data.sample_file import SampleFile
from mixstream.errors import ConfigError
from mixstream.formats import TokenFiles, whole_file
from mixstream.loader.epoch_counts import EpochCounts
from mixstream.loader.megatron_order.options import MegatronOrder
from mixstream.loader.run_setup import Mixing
from mixstream.loader.stream import Stream
from mixstream.plan.megatron import Blend, MegatronRunPlan, samples_needed
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.weights import apportion
from mixstream.records import dataclass


@dataclass(frozen=True, kw_only=True)
class MegatronMixing(Mixing):
    """The blend of a dataset's domains.

    Attributes:
        blend: of which domain each sample is.
        samples: that are read.
        order: the options of the order.
        names: of the domains, in the order of `streams`, which decides between domains that are equally far behind.
    """

    blend: Blend
    samples: int
    order: MegatronOrder
    names: tuple[str, ...]

    def counts(self, streams: Sequence[Stream], domains: Domains, *, epoch_size: int | None, seed: int) -> EpochCounts:
        """Return about what is taken of each domain."""
        del epoch_size, seed
        choose_K = apportion(self.samples, self.blend.weight_K)
        for stream, domain, chosen in zip(streams, domains.listed, choose_K.tolist()):
            stream.show(choose=chosen, proportion=chosen / self.samples, repeat=chosen / domain.samples)
        return EpochCounts(rows=self.samples, choose_K=choose_K, share_K=None)

    def planned(self, run_plan: RunPlan) -> RunPlan:
        """Return what the blend draws, for the ranks of `run_plan`."""
        facts = (self.names, self.blend.weight_K.tolist(), self.blend.most_K.tolist())
        digest, split = blake2b(repr(facts).encode(), digest_size=6).hexdigest(), self.order.split
        part = "all" if split is None else f"{self.order.part} of {split}"
        mixer = f"megatron, {part}, blend {digest}"
        plain = replace(run_plan, in_order=False, shuffle=False, drop_last=True, mixer=mixer)
        return MegatronRunPlan.of(plain, blend=self.blend, micro_batch_size=self.order.micro_batch_size)


def in_megatron_order(
    dataset: Any, order: MegatronOrder, found: Sequence[Domain], *, epoch_size: int | None
) -> tuple[list[Domain], MegatronMixing]:
    """Return the domains of a dataset as rows in Megatron's order, and their blend.

    Args:
        dataset: its streams and seed.
        order: its options.
        found: its domains, as rows in stored order.
        epoch_size: samples that are read; None for one epoch of each domain.

    Raises:
        ConfigError: a stream is no single pair of Megatron's files, or the samples do not suffice.
    """
    for stream, domain in zip(dataset.streams, found):
        _check_pair(stream, domain)
    weights = [stream.proportion for stream in dataset.streams]
    given = [float(weight) for weight in weights if weight is not None]
    needed: list[int | None] = [None] * len(found)
    if given and not (len(found) == 1 and order.split is None):  # one prefix of --train-data-path is no blend
        assert epoch_size is not None, "switch.check_fits"
        blend = Blend.of(weights=given)
        needed = list(samples_needed(epoch_size, given))
    else:
        blend = None
        needed = [epoch_size] if len(found) == 1 else needed
    domains = [_ordered(domain, dataset, order, n) for domain, n in zip(found, needed)]
    there = [domain.samples for domain in domains]
    if blend is None:
        blend = Blend.by_size(samples=there, exhaustive=epoch_size is None)
    samples = sum(there) if epoch_size is None else epoch_size
    names = tuple(domain.name for domain in domains)
    if not given and len(found) > 1 and samples > sum(there):
        raise ConfigError(
            f"epoch_size={samples} is more than the {sum(there)} samples that the streams have in one epoch, and "
            f"without weights Megatron reads no more: give the streams `proportion`, or epoch_size={sum(there)}"
        )
    blend.check_enough(samples, there, names)
    mixing = MegatronMixing(
        policy=None, logged=None, in_order=True, blend=blend, samples=samples,
        order=order, names=names,
    )  # fmt: skip
    return domains, mixing


def _ordered(domain: Domain, dataset: Any, order: MegatronOrder, num_samples: int | None) -> Domain:
    """Return a domain of one pair as rows in Megatron's order."""
    stored = domain.container
    assert isinstance(stored, TokenFiles)
    index = stored.index
    assert index.seq_len is not None
    samples = SampleFile(
        files=domain.files, index=index, split=order.split, part=order.part, num_samples=num_samples,
        seed=dataset.shuffle_seed,
    )  # fmt: skip
    try:
        rows = samples.rows
        return domain.packing(
            Packed(
                inner=whole_file(stored), id=samples.id, seq_len=index.seq_len + index.overlap, columns=(TOKENS,),
                rows_S=np.array([rows.rows], dtype=np.int64), rows_of=samples, where="Megatron's order",
            )
        )  # fmt: skip
    except Exception as error:
        error.add_note(f"domain {domain.name!r}")
        raise


def _check_pair(stream: Stream, domain: Domain) -> None:
    stored = domain.container
    if not isinstance(stored, TokenFiles) or stored.index.kind != "megatron":
        kind = stored.index.kind if isinstance(stored, TokenFiles) else "MDS or others"
        raise ConfigError(
            f'stream {stream.name!r} ({stream.location}) has files of the kind {kind}, and order="megatron" reads '
            "pairs of .bin and .idx: give the path of an .idx, or leave out order="
        )
    if len(files := stored.index.files) != 1:
        raise ConfigError(
            f"stream {stream.name!r} ({stream.location}) has {len(files)} pairs, {files[0].name} and others, and "
            "Megatron orders and weighs each by itself: give a stream for each, with the path of its .idx"
        )
