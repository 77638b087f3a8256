"""Ranks that read another run are found without a collective call; ranks that read more than others are not accused."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from children import Child
from harness import FIRST, Asking, Tilt, make_dataset, write_tokens
from selections import keep
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import RanksDisagreeError

BATCHES = 12
HOST = "127.0.0.1"
Job = Callable[[Path, Path, int], Any]
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")


def as_rank(rank: int, port: int, library: Path, here: Path, jobs: Sequence[Job]) -> list[str]:
    """Run each of `jobs` as one of two ranks; return the errors of ranks that disagree, or "" for none."""
    told = []
    for job in jobs:
        meet(port, job.__name__, rank)
        told.append("")
        try:
            job(library, here, rank)
            dist.barrier()
        except RanksDisagreeError as error:
            told[-1] = str(error)
        except RuntimeError as error:  # the other rank has raised
            if "by peer" not in str(error):
                raise
        gc.collect()  # workers end, which have inherited the connections
        dist.destroy_process_group()
    return told


def meet(port: int, name: str, rank: int) -> None:
    """Begin a job of two ranks, with nothing in its store."""
    store = dist.PrefixStore(name, dist.TCPStore(HOST, port, is_master=False))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)


def ranks_say(library: Path, tmp_path: Path, *jobs: Job) -> list[str]:
    """Return what the ranks of each job say of each other, of both ranks together."""
    server = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    ranks = [Child(as_rank, rank, server.port, library, tmp_path, jobs) for rank in range(2)]
    return ["".join(told) for told in zip(*(child.result() for child in ranks))]


def read(loader: Any, batches: int = BATCHES, *, together: bool = True) -> None:
    """Take batches, as in training: no rank goes on before the others have their batch."""
    for number, _ in enumerate(loader):
        if together:
            dist.barrier()
        if number + 1 == batches:
            break


def plain(library: Path, **kw: Any) -> ms.Loader:
    return ms.Loader(make_dataset(library, batch_size=2, **kw))


def in_loader(library: Path, here: Path, rank: int) -> None:
    with plain(library, shuffle_seed=rank) as loader:
        read(loader)


def in_dataloader_workers(library: Path, here: Path, rank: int) -> None:
    read(DataLoader(make_dataset(library, batch_size=2, shuffle_seed=rank), batch_size=2, num_workers=1), 24)


def in_dataloader(library: Path, here: Path, rank: int) -> None:
    read(DataLoader(make_dataset(library, batch_size=2, shuffle_seed=rank), batch_size=2))


def in_mosaic_order(library: Path, here: Path, rank: int) -> None:
    dataset = make_dataset(library, batch_size=2, shuffle_seed=rank, order="mosaic")
    read(DataLoader(dataset, batch_size=2))


def in_mosaic_order_and_workers(library: Path, here: Path, rank: int) -> None:
    dataset = make_dataset(library, batch_size=2, epoch_size=100 + rank, order="mosaic")
    read(DataLoader(dataset, batch_size=2, num_workers=1), 24)


def other_replicas_in_mosaic_order(library: Path, here: Path, rank: int) -> None:
    with plain(library, replication=1 + rank, order="mosaic") as loader:
        read(loader)


def in_streaming_dataloader(library: Path, here: Path, rank: int) -> None:
    read(ms.StreamingDataLoader(make_dataset(library, batch_size=2, shuffle_seed=rank), num_workers=1))


def other_batch_size(library: Path, here: Path, rank: int) -> None:
    with ms.Loader(make_dataset(library, batch_size=2 + rank)) as loader:
        read(loader)


def other_epoch_size(library: Path, here: Path, rank: int) -> None:
    with plain(library, epoch_size=100 + rank) as loader:
        read(loader)


def other_replicas(library: Path, here: Path, rank: int) -> None:
    with plain(library, replication=1 + rank) as loader:
        read(loader)


def other_selection(library: Path, here: Path, rank: int) -> None:
    law = ms.Stream(remote=str(library / "law"), selection=str(here / f"kept{rank}"))
    with plain(library, streams=[law]) as loader:
        while loader.step < BATCHES:
            read(loader, 1)


def other_version(library: Path, here: Path, rank: int) -> None:
    """One path holds other shards on each rank, as on two machines of which one has an old copy."""
    for turn in range(2):
        if turn == rank:
            (here / "copy").unlink(missing_ok=True)
            (here / "copy").symlink_to(here / f"copy{rank}")
            with plain(library, streams=[ms.Stream(remote=str(here / "copy"))]) as loader:
                read(loader, together=False)
        dist.barrier()


def only_one_resumes(library: Path, here: Path, rank: int) -> None:
    with plain(library) as before:
        read(before, 3)
        state = before.state_dict()
    store = dist.distributed_c10d._get_default_store()
    dist.destroy_process_group()
    dist.init_process_group("gloo", store=dist.PrefixStore("resumed", store), rank=rank, world_size=2)
    with plain(library) as loader:
        if rank:
            loader.load_state_dict(state)
        read(loader)


@pytest.mark.parametrize(
    "facts",
    [
        {in_loader: "shuffle_seed", in_dataloader: "shuffle_seed", other_batch_size: "global_batch_size"},
        {in_dataloader_workers: "shuffle_seed", in_streaming_dataloader: "shuffle_seed"},
        {other_epoch_size: "epoch_size", other_replicas: "ranks of the same rows", only_one_resumes: "step: "},
        {other_selection: "selections of 'law'", other_version: "domains of 'copy'"},
        {
            in_mosaic_order: "shuffle_seed",
            in_mosaic_order_and_workers: "mixstream_epoch_size",
            other_replicas_in_mosaic_order: "ranks of the same rows",
        },
    ],
)
def test_a_rank_that_reads_another_run_is_found(library, tmp_path, facts):
    for rank in range(2):
        keep(tmp_path / f"kept{rank}", library / "law", [3, 7 + rank, 9, 11], domain="law")
        write_tokens(tmp_path / f"copy{rank}", range(FIRST["web"] + rank, FIRST["web"] + 40))
    for fact, told in zip(facts.values(), ranks_say(library, tmp_path, *facts), strict=True):
        assert f"\n  - {fact}" in told
        assert "on ranks [0]" in told
        assert "on ranks [1]" in told


def one_leaves_steps_out(library: Path, here: Path, rank: int) -> None:
    with plain(library) as loader:
        read(loader, 5)
        loader.skip(3 + rank)
        for _ in range(3):
            read(loader, 20)


def one_leaves_steps_out_and_saves(library: Path, here: Path, rank: int) -> None:
    with plain(library) as loader:
        read(loader, 4)
        if rank:
            loader.skip(range(6, 8))
        read(loader, 6)
        loader.state_dict()
        dist.barrier()


def one_leaves_steps_out_while_learning(library: Path, here: Path, rank: int) -> None:
    with plain(library, mixer=Tilt(), lag=4) as loader:
        for batch in loader:
            loader.report(batch, batch["tokens"][:, 0] / 64)
            if rank and batch.step == 3:
                loader.skip(2)
            if batch.step == 12:
                break


def test_a_rank_that_leaves_out_other_steps_is_found(library, tmp_path):
    said = {
        one_leaves_steps_out: "rank 1 leaves out the steps 5 to 8, and rank 0 has handed out",
        one_leaves_steps_out_and_saves: "rank 1 leaves out the steps 6 to 7, and rank 0 has handed out",
        one_leaves_steps_out_while_learning: "skipped: False on ranks [0]; True on ranks [1]",
    }
    for expected, told in zip(said.values(), ranks_say(library, tmp_path, *said), strict=True):
        assert expected in told


def the_same(library: Path, here: Path, rank: int) -> None:
    for _ in range(2):
        with plain(library) as loader:
            read(loader)
            state = loader.state_dict()
        with plain(library) as loader:
            loader.load_state_dict(state)
            read(loader)
            loader.skip(3)
            for _ in range(3):
                read(loader, 20)
            loader.state_dict()


def both_leave_out_evaluations(library: Path, here: Path, rank: int) -> None:
    with plain(library, mixer=Asking(), lag=4) as loader:
        for batch in loader:
            if loader.wants_validation:
                loader.report_validation([batch.step / 8, 1.0, 0.5])
            loader.report(batch, batch["tokens"][:, 0] / 64)
            if batch.step == 3:
                loader.skip(9)
            if batch.step == 24:
                break
        (here / f"state{rank}").write_text(json.dumps(loader.state_dict()))
        dist.barrier()
    states = [json.loads((here / f"state{rank}").read_text()) for rank in range(2)]
    assert states[0] == states[1]
    assert states[0]["mixing"]["reported"] == 25


def the_same_in_mosaic_order(library: Path, here: Path, rank: int) -> None:
    dataset = make_dataset(library, batch_size=2, order="mosaic")
    read(DataLoader(dataset, batch_size=2))
    dataset.load_state_dict(dataset.state_dict(2 * 2 * BATCHES))
    read(DataLoader(dataset, batch_size=2))


def one_evaluates(library: Path, here: Path, rank: int) -> None:
    """Before and after training, rank 0 alone reads other sets, of which one has the same streams."""
    others = [{"shuffle_seed": 5}, {"names": ("web",)}, {"shuffle": False}]
    for options in others if rank == 0 else []:
        with plain(library, **options) as loader:
            read(loader, together=False)
    with plain(library) as loader:
        read(loader)
    for options in [{"shuffle_seed": 6}, *others] if rank == 0 else []:
        with plain(library, **options) as loader:
            read(loader, together=False)


def in_another_order(library: Path, here: Path, rank: int) -> None:
    """Two sets, of which each rank begins another; it takes a few batches before it turns to the other."""
    with plain(library, shuffle_seed=rank) as one, plain(library, shuffle_seed=1 - rank) as other:
        read(one, 4)
        read(other, 4)
        read(one)


def runs_of_their_own(library: Path, here: Path, rank: int) -> None:
    with plain(library, shuffle_seed=rank, rank=0, world_size=1) as loader:
        read(loader)


def unlike_sets(library: Path, here: Path, rank: int) -> None:
    with plain(library, names=("web", "law") if rank else ("web", "code")) as loader:
        read(loader)


def one_reads(library: Path, here: Path, rank: int) -> None:
    if rank == 0:
        with plain(library) as loader:
            read(loader, together=False)


def validation(library: Path, here: Path, rank: int) -> None:
    dataset = make_dataset(library, batch_size=2)
    with ms.Loader(dataset) as loader:
        read(loader, 2)
        for _ in range(1 + 2 * rank):
            streams = [ms.Stream(name=name, remote=str(library / name)) for name in dataset.domain_names]
            list(loader.validation(streams=streams, rows=4))
        read(loader)


def learning(library: Path, here: Path, rank: int) -> None:
    with ms.Loader(make_dataset(library, batch_size=2, mixer=Tilt(), lag=32)) as loader:
        read(loader)


@pytest.mark.parametrize(
    "jobs",
    [
        (the_same, the_same_in_mosaic_order, one_evaluates, in_another_order),
        (runs_of_their_own, unlike_sets, one_reads, validation, learning, both_leave_out_evaluations),
    ],
)
def test_ranks_that_may_read_what_they_read_are_not_accused(library, tmp_path, jobs):
    assert ranks_say(library, tmp_path, *jobs) == [""] * len(jobs)
