"""What cannot be read: raised, fetched anew, or set aside with others in its place, the same in every replay."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import WIDTH, make_dataset, row_ids
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.data.collate import collate_samples
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError, ExhaustedError, ShardCorruptError, ShardNotFoundError, StateError

ROWS = {"web": range(1000, 1120), "code": range(2000, 2060)}


def write(root: Path, **kw: Any) -> Path:
    """Write two domains whose samples say their own shape, so that a single one can be bad."""
    for name, ids in ROWS.items():
        with ms.MDSWriter(columns={"tokens": "ndarray:uint16"}, out=str(root / name), size_limit=600, **kw) as writer:
            for number in ids:
                writer.write({"tokens": np.full(WIDTH, number, np.uint16)})
    return root


def spoil_sample(shard: Path, row: int) -> int:
    """Make one sample of a shard undecodable, as a disk does: its times stay. Return its identity."""
    data, found = bytearray(shard.read_bytes()), shard.stat()
    begin, end = np.frombuffer(data, np.uint32, 2, 4 + 4 * row).tolist()
    identity = int(np.frombuffer(bytes(data[end - 2 : end]), np.uint16)[0])
    data[begin + 4] = 0xFF  # the head of the array: no such number of dimensions
    shard.write_bytes(data)
    os.utime(shard, ns=(found.st_atime_ns, found.st_mtime_ns))
    return identity


def dataset(root: Path, **kw: Any) -> ms.StreamingDataset:
    streams = [ms.Stream(remote=str(root / name)) for name in ROWS]
    return ms.StreamingDataset(**{"streams": streams, "batch_size": 6, "shuffle": True, **kw})


@contextmanager
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*set aside.*")
        yield


def rows(source: Any) -> list[list[int]]:
    with quietly():
        return [row_ids(batch) for batch in source]


def domain_of(number: int) -> int:
    return number // 1000


@pytest.fixture
def spoiled(tmp_path: Path) -> tuple[Path, set[int]]:
    """A library with two bad samples in one domain, and their identities."""
    write(tmp_path)
    shards = sorted((tmp_path / "web").glob("*.mds"))
    return tmp_path, {spoil_sample(shards[1], 2), spoil_sample(shards[3], 0)}


def test_by_default_a_bad_sample_stops_the_run_by_name(spoiled):
    root, _ = spoiled
    with ms.Loader(dataset(root)) as loader, pytest.raises(ShardCorruptError) as caught:
        rows(loader)
    assert any("domain 'web', shard shard.0000" in note and "sample" in note for note in caught.value.__notes__)


def test_a_word_that_is_no_policy_is_refused(library):
    with pytest.raises(
        ConfigError, match="on_bad_sample='skip' is not known; choose one of raise, refetch, quarantine"
    ):
        ms.StreamingDataset(remote=str(library / "web"), on_bad_sample="skip")


def test_only_the_bad_rows_change_and_others_of_their_domain_stand_in(tmp_path, spoiled):
    root, bad = spoiled
    whole = rows(ms.Loader(dataset(write(tmp_path / "whole"))))
    with pytest.warns(UserWarning, match=r"sample \d of shard shard\.\d+\.mds of domain 'web' cannot be read"):
        mended = [row_ids(batch) for batch in ms.Loader(dataset(root, on_bad_sample="quarantine"))]
    for before, after in zip(whole, mended, strict=True):
        for was, now in zip(before, after, strict=True):
            assert now not in bad
            assert now == was or was in bad
            assert domain_of(now) == domain_of(was)


def test_every_face_and_any_number_of_workers_sets_the_same_aside(spoiled):
    root, _ = spoiled
    min((root / "code").glob("*.mds")).unlink()  # many rows, anywhere in batches
    expected = rows(ms.Loader(dataset(root, on_bad_sample="quarantine")))
    for workers in (0, 2):
        same = dataset(root, on_bad_sample="quarantine")
        with quietly():
            assert [row_ids(b) for b in ms.StreamingDataLoader(same, batch_size=6, num_workers=workers)] == expected
        plain = DataLoader(dataset(root, on_bad_sample="quarantine"), batch_size=6, num_workers=workers)
        assert [row_ids(b) for b in _int64(plain)] == expected


def _int64(loader: Any) -> Iterator[Any]:
    with quietly():
        for batch in loader:
            yield {"tokens": batch["tokens"].long()}


def test_a_row_that_could_not_be_read_is_not_counted(spoiled):
    root, _ = spoiled
    data, handed = dataset(root, shuffle=False), []
    with pytest.raises(ShardCorruptError):
        handed.extend(data)
    state = data.state_dict()
    assert len(handed) > 0
    assert state["sample_in_epoch"] + state.get("iterator", {"rows": 0})["rows"] == len(handed)


def test_ranks_draw_what_one_process_draws(spoiled):
    root, _ = spoiled
    whole = rows(ms.Loader(dataset(root, on_bad_sample="quarantine")))
    parts = [
        rows(ms.Loader(dataset(root, batch_size=3, rank=rank, world_size=2, on_bad_sample="quarantine")))
        for rank in range(2)
    ]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_a_state_carries_what_is_set_aside_even_when_the_data_is_mended(spoiled, workers):
    root, bad = spoiled

    def loader_of(data: ms.StreamingDataset) -> Any:
        return ms.Loader(data) if workers is None else ms.StreamingDataLoader(data, batch_size=6, num_workers=workers)

    loader = loader_of(dataset(root, on_bad_sample="quarantine"))
    rows(loader)
    state = json.loads(json.dumps(loader.state_dict()))
    second = rows(loader)
    assert len(state["quarantined"]) == 2 == len(bad)
    assert {(e["domain"], e["row"]) for e in state["quarantined"]} == {("web", 2), ("web", 0)}

    write(root, exist_ok=True)  # somebody mends the shards: the replay does as the run did all the same
    again = loader_of(dataset(root, on_bad_sample="quarantine"))
    again.load_state_dict(state)
    assert rows(again) == second
    assert not bad & {number for batch in second for number in batch}
    assert again.state_dict()["quarantined"] == state["quarantined"]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_a_whole_shard_is_set_aside_and_its_rows_do_not_become_one(tmp_path, damage, shuffle):
    write(tmp_path)
    shard = sorted((tmp_path / "web").glob("*.mds"))[1]
    sizes = ms.StreamingDataset(remote=str(tmp_path / "web")).samples_per_shard
    lost = set(ROWS["web"][sizes[0] : sizes[0] + sizes[1]])
    if damage == "deleted":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(ShardNotFoundError if damage == "deleted" else ShardCorruptError):
        rows(ms.Loader(dataset(tmp_path, shuffle=shuffle)))
    loader = ms.Loader(dataset(tmp_path, shuffle=shuffle, on_bad_sample="quarantine"))
    found = [number for batch in rows(loader) for number in batch if domain_of(number) == 1]
    assert loader.state_dict()["quarantined"] == [{"domain": "web", "shard": 1, "row": None}]
    assert "aside    cannot be read, others take their place: web 1 shard(s)" in loader.describe()
    assert len(found) == len(ROWS["web"])
    assert set(found) == set(ROWS["web"]) - lost
    assert max(found.count(number) for number in set(found)) <= 5


def test_a_domain_of_which_nothing_is_left_ends_the_run(tmp_path):
    write(tmp_path)
    for shard in (tmp_path / "code").glob("*.mds"):
        shard.unlink()
    with pytest.raises(ExhaustedError, match="domain 'code' has no sample left that can be read"):
        rows(ms.Loader(dataset(tmp_path, on_bad_sample="quarantine")))


def test_a_damaged_copy_is_fetched_anew(tmp_path):
    write(tmp_path / "origin", compression="zstd")
    streams = [ms.Stream(remote=str(tmp_path / "origin" / n), local=str(tmp_path / "copy" / n)) for n in ROWS]
    expected = rows(ms.Loader(ms.StreamingDataset(streams=streams, batch_size=6)))
    spoil_sample(sorted((tmp_path / "copy" / "web").glob("*.mds"))[2], 1)
    with pytest.raises(ShardCorruptError):
        rows(ms.Loader(ms.StreamingDataset(streams=streams, batch_size=6)))
    assert rows(ms.Loader(ms.StreamingDataset(streams=streams, batch_size=6, on_bad_sample="refetch"))) == expected


@pytest.mark.parametrize("policy", ["refetch", "quarantine"])
def test_an_original_that_is_damaged_is_fetched_anew_once(tmp_path, policy, monkeypatch):
    write(tmp_path / "origin")
    bad = {spoil_sample(sorted((tmp_path / "origin" / "web").glob("*.mds"))[2], row) for row in (1, 3)}
    renewed, renew = [], Domains.renew

    def counted(domains: Domains, shard: int) -> bool:
        renewed.append(shard)
        assert len(renewed) < 9
        return renew(domains, shard)

    monkeypatch.setattr(Domains, "renew", counted)
    streams = [ms.Stream(remote=str(tmp_path / "origin" / n), local=str(tmp_path / "copy" / n)) for n in ROWS]
    loader = ms.Loader(ms.StreamingDataset(streams=streams, batch_size=120, on_bad_sample=policy, drop_last=True))
    if policy == "refetch":
        with pytest.raises(ShardCorruptError):
            rows(loader)
    else:
        assert not bad & {number for batch in rows(loader) for number in batch}
        assert len(loader.state_dict()["quarantined"]) == 2
    assert len(renewed) == len(set(renewed)) == 1  # both rows are of one batch


@pytest.mark.parametrize("policy", ["refetch", "quarantine"])
def test_a_damaged_copy_is_fetched_anew_for_a_collate_fn_too(tmp_path, policy):
    """Else batches would depend on what a cache contains."""
    write(tmp_path / "origin", compression="zstd")
    streams = [ms.Stream(remote=str(tmp_path / "origin" / n), local=str(tmp_path / "copy" / n)) for n in ROWS]
    expected = rows(ms.Loader(ms.StreamingDataset(streams=streams, batch_size=6)))
    spoil_sample(sorted((tmp_path / "copy" / "web").glob("*.mds"))[2], 1)
    dataset = ms.StreamingDataset(streams=streams, batch_size=6, on_bad_sample=policy)
    with ms.Loader(dataset, collate_fn=collate_samples) as loader:
        assert rows(loader) == expected
        assert loader.state_dict()["quarantined"] == []


class Pairs(ms.StreamingDataset):
    """Every sample with the one behind it."""

    def __getitem__(self, at: Any) -> Any:
        return {"tokens": self.get_item(at)["tokens"], "next": self.get_item((at + 1) % self.size)["tokens"]}


@pytest.mark.parametrize("workers", [None, 0])
def test_a_bad_sample_that_is_read_for_another_row_is_raised(spoiled, workers):
    """No stand-in could help, since the row itself is well: it must not be tried for ever."""
    root, _ = spoiled
    streams = [ms.Stream(remote=str(root / name)) for name in ROWS]
    dataset = Pairs(streams=streams, batch_size=6, on_bad_sample="quarantine")
    loader = ms.Loader(dataset) if workers is None else ms.StreamingDataLoader(dataset, batch_size=6)
    with pytest.raises(ShardCorruptError) as caught:
        rows(loader)
    assert any(
        "an overridden `__getitem__` or `get_item` reads it for another row" in n for n in caught.value.__notes__
    )


JOB = """
import json, sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch.distributed as dist
from pathlib import Path
import mixstream as ms

dist.init_process_group("gloo")
rank = dist.get_rank()
streams = [ms.Stream(remote=f"{sys.argv[2]}/{name}") for name in ("web", "code")]
loader = ms.Loader(ms.StreamingDataset(streams=streams, batch_size=3, shuffle=True, on_bad_sample="quarantine"))
begin = loader.state_dict()
for batch in loader:
    dist.barrier()
state = loader.state_dict()
domains = loader.run.domains
own = [[domains.home(shard)[1], row] for shard, row in sorted(loader.run.quarantine.entries)]
dist.barrier()
loader.load_state_dict(begin)
again = loader.state_dict()["quarantined"]
dist.barrier()  # rank 0 keeps the store
Path(sys.argv[3], f"{rank}.json").write_text(json.dumps([state["quarantined"], own, again]))
dist.destroy_process_group()
"""


def test_any_rank_can_save_what_the_others_set_aside(spoiled, tmp_path, warm_programs):
    """Ranks read different rows, so each meets other bad samples; torch.distributed's own store tells them all."""
    root, _ = spoiled
    (tmp_path / "job.py").write_text(JOB)
    command = [warm_programs / "torchrun", "--standalone", "--nproc-per-node=2"]
    where = [str(tmp_path / "job.py"), str(Path(__file__).parents[1]), str(root), str(tmp_path)]
    done = subprocess.run([*command, *where], check=False, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    (first, met, again), (second, met_too, again_too) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert first == second
    assert len(first) == 2
    assert {*map(tuple, met), *map(tuple, met_too)} == {(e["shard"], e["row"]) for e in first}
    assert met != met_too
    assert again == again_too == []  # what other ranks had found after a state is not part of it


# --- states -----------------------------------------------------------------------------------------------------------


def face_of(name: str, data: ms.StreamingDataset) -> Any:
    """Return what hands out batches of `data` and loads states."""
    if name == "loader":
        return ms.Loader(data)
    return ms.StreamingDataLoader(data, batch_size=6, num_workers=2 if name == "workers" else 0)


FACES = ["loader", "dataloader", "workers"]


def set_aside(state: dict[str, Any], *entries: tuple[int, int | None]) -> dict[str, Any]:
    """Return a state that sets rows of the domain "web" aside: (shard, row)."""
    listed = [{"domain": "web", "shard": shard, "row": row} for shard, row in entries]
    return {**state, "quarantined": listed}


@pytest.mark.parametrize("face", FACES)
def test_after_an_earlier_state_a_process_reads_what_a_new_one_reads(spoiled, face):
    root, bad = spoiled
    begin = dataset(root, on_bad_sample="quarantine").state_dict()
    loader = face_of(face, dataset(root, on_bad_sample="quarantine"))
    first = rows(loader)
    assert len(loader.state_dict()["quarantined"]) == len(bad)
    for _ in range(2):
        loader.load_state_dict(begin)
        assert loader.state_dict()["quarantined"] == []
        assert rows(loader) == first
    kept = set_aside(begin, (0, None))
    loader.load_state_dict(kept)
    assert loader.state_dict() == kept
    with quietly():
        fresh = face_of(face, dataset(root, on_bad_sample="quarantine"))
    fresh.load_state_dict(kept)
    assert rows(loader) == rows(fresh) != first


@pytest.mark.parametrize("face", FACES)
def test_a_state_that_is_refused_sets_nothing_aside(library, face):
    def opened(**kw: Any) -> Any:
        return face_of(face, make_dataset(library, batch_size=6, on_bad_sample="quarantine", **kw))

    expected = rows(opened())
    loader = opened()
    start = loader.state_dict()
    begin, other = set_aside(start, (0, 1), (1, None)), set_aside(opened(shuffle_seed=1).state_dict(), (0, None))
    web = next(domain for domain in begin["domains"] if domain["name"] == "web")
    beyond = set_aside(start, (0, None), (99, 0))
    row = set_aside(start, (0, None), (0, 10**6))
    strange = {**begin, "quarantined": [*begin["quarantined"], {"domain": "elsewhere", "shard": 0, "row": 0}]}
    late = {**begin, "sample_in_epoch": 6 * 10**6}
    mixed = {
        **begin,
        "domains": [{**domain, "fingerprint": "x"} if domain is web else domain for domain in begin["domains"]],
    }
    for state in (other, beyond, row, strange, late, mixed):
        with pytest.raises(StateError):
            loader.load_state_dict(state)
        assert loader.state_dict()["quarantined"] == []
    assert rows(loader) == expected


@pytest.mark.parametrize("face", FACES)
def test_what_is_set_aside_of_shards_that_were_written_anew_is_forgotten(tmp_path, face):
    """Their numbers mean other samples now; those of the domains that are the same stay."""
    write(tmp_path)
    shards = {name: sorted((tmp_path / name).glob("*.mds")) for name in ROWS}
    spoil_sample(shards["web"][1], 2)
    spoil_sample(shards["code"][0], 1)
    loader = ms.Loader(dataset(tmp_path, on_bad_sample="quarantine"))
    rows(loader)
    state = loader.state_dict()
    assert [entry["domain"] for entry in state["quarantined"]] == ["code", "web"]
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16"}, out=str(tmp_path / "web"), exist_ok=True) as writer:
        for number in ROWS["web"][:90]:
            writer.write({"tokens": np.full(WIDTH, number, np.uint16)})
    again = face_of(face, dataset(tmp_path, on_bad_sample="quarantine"))
    with pytest.warns(UserWarning, match="domain 'web' has other shards"):
        again.dataset.load_state_dict(state, strict=False)
    assert again.state_dict()["quarantined"] == [{"domain": "code", "shard": 0, "row": 1}]
    read = {number for batch in rows(again) for number in batch}
    assert set(ROWS["web"][:90]) <= read


def test_what_the_run_before_still_finds_is_not_in_a_state_that_was_loaded(spoiled):
    """A worker of an abandoned iterator goes on reading, and finds bad samples of the run before."""
    root, _ = spoiled
    data = dataset(root, on_bad_sample="quarantine")
    before, begin = data.run.quarantine, data.state_dict()
    data.load_state_dict(begin)
    before.add([(0, 0)])
    assert data.state_dict() == begin
