"""One scenario that reads: writes its files, lets them be read under faults and kills, and compares."""

from __future__ import annotations

import os
import random
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fault_proxy import FaultProxy  # pyright: ignore[reportMissingImports] - soak.py sets the path
from servers import S3, environment  # pyright: ignore[reportMissingImports]

import mixstream as ms
from soaking.compare import Life, Verdict, judge, read_life
from soaking.corpora import Corpus
from soaking.readers import losses_of
from soaking.rows import Row, rows_of
from soaking.scenario import Scenario, dataset_of, streams_of
from soaking.store import Mischief
from soaking.supervise import Ranks, StuckError
from soaking.watch import Watch
from soaking.zygote import Zygote

MODULES = {
    "trainer-hf": ["transformers.models.llama.modeling_llama", "transformers.trainer", "mixstream.integrations.hf"],
    "trainer-lightning": ["lightning.pytorch", "mixstream.integrations.lightning"],
    "face-stateful": ["torchdata.stateful_dataloader"],
}


class Undisturbed:
    """What a reader of the local files gets, by whether the streams have changed.

    Args:
        scenario: what is read.
        origin: the local files.
        made: what was made of them.
    """

    def __init__(self, scenario: Scenario, origin: Path, made: Path) -> None:
        self._scenario, self._origin, self._made = scenario, origin, made
        self.differences: list[str] = []

    def loader(self, *, changed: bool) -> ms.Loader:
        """Return a loader of whole global batches."""
        scenario = self._scenario
        streams = streams_of(scenario, root=str(self._origin), made=str(self._made), cache=None, changed=changed)
        dataset = dataset_of(scenario, streams, batch_size=scenario.batch, rank=0, world_size=1)
        options = {key: value for key, value in scenario.loader.items() if key in {"documents", "labels"}}
        loader = ms.Loader(dataset, **options)
        if scenario.skip:
            loader.skip(range(*scenario.skip))
        return loader

    def rows(self, last: dict[bool, int], *, changed_at: int | None) -> dict[bool, dict[int, list[Row]]]:
        """Return the rows of all steps up to `last` of each run; the changed one begins at step `changed_at`.

        The run before the change was handed out further than to the state from which the changed one went on.
        """
        loader, found = self.loader(changed=False), dict[bool, dict[int, list[Row]]]()
        if changed_at is not None:
            found[False] = self._read(loader, changed_at - 1)
            after = self.loader(changed=True)
            after.load_state_dict(loader.state_dict(), strict=False)
            found[True] = self._read(after, last.get(True, -1))
            after.close()
        found[False] = found.get(False, {}) | self._read(loader, last.get(False, -1))
        loader.close()
        return found

    def _read(self, loader: ms.Loader, last: int) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = {}
        while loader.step <= last:
            before, epoch, rows, repeats = loader.step, loader.epoch, set[str](), 0
            for batch in loader:
                found[batch.step] = rows_of(batch, self._scenario.columns)[0]
                rows.update(hash_ for _, hash_ in found[batch.step])
                repeats += batch.repeats
                if self._scenario.dataset.get("mixer") == "ado":
                    loader.report(batch, losses_of(batch))
                if loader.step > last:
                    break
            if loader.step == before:
                break
            if self._scenario.once and len(rows) + repeats != sum(len(found[step]) for step in found if step >= before):
                self.differences.append(f"epoch {epoch} has {len(rows)} different rows and {repeats} repeats")
        return found


def run_reading(
    name: str, seed: int, seconds: float, place: Path, server: S3, make: Callable[[Corpus], Scenario]
) -> Any:
    """Run one scenario for about `seconds`; return figures and differences as a JSON document."""
    warnings.simplefilter("ignore")
    begun, dice = time.monotonic(), random.Random(seed)
    os.environ["TMPDIR"] = tempfile.tempdir = str(place / "tmp")
    (place / "tmp").mkdir(parents=True)
    proxy = FaultProxy(server.endpoint)
    go_there(proxy.endpoint)
    zygote = Zygote(MODULES.get(name, []))
    corpus = Corpus(origin=place / "origin", made=place / "made", seed=seed)
    scenario = make(corpus)
    s3 = server.below(f"{name}-{seed}")
    upload(s3, corpus.origin)
    undisturbed = Undisturbed(scenario, corpus.origin, corpus.made)
    limit, largest = cache_of(undisturbed, corpus.origin)
    cache = place / "cache"
    rewrites = not scenario.damaged and dice.random() < 0.3
    with proxy:
        hashed = scenario.hashed and not scenario.damaged
        mischief = Mischief(proxy, s3, dice, hashed=hashed, mild=scenario.damaged, rewrites=rewrites)
        common = {"root": s3.url, "made": str(corpus.made), "cache": str(cache), "limit": limit}
        ranks = Ranks(scenario, place / "run", common, dice, zygote, named=rewrites)
        watch = Watch(cache, ranks.pids)
        stuck = []
        mischief.begin()
        try:
            ranks.disturb(time.monotonic() + seconds)
        except StuckError as error:
            stuck.append(str(error))
        faults = mischief.end()
        stuck += ranks.end()
        watch.stop()
        requests = proxy.count("*", "*")
    lives = [life for path in sorted((place / "run/logs").glob("*.jsonl")) if (life := read_life(path)) is not None]
    try:
        verdict = compare(lives, undisturbed, scenario, changed_at=ranks.changed_at if ranks.changed else None)
    except Exception:
        verdict = Verdict(differences=[traceback.format_exc()])
    verdict.differences += stuck + bounds(watch, limit, largest, scenario)
    for each in s3.names():
        s3.remove(each)
    counts = asdict(ranks.counts) | {"worlds": sorted(ranks.counts.worlds), "workers": sorted(ranks.counts.workers)}
    return {
        "scenario": name, "seed": seed, "seconds": time.monotonic() - begun, "faults": faults, "requests": requests,
        "readers": counts, "evicted or replaced": watch.gone, "cache": watch.peak / limit,
        "over": (watch.peak - limit) / largest, "memory": watch.memory, **asdict(verdict),
    }  # fmt: skip


def upload(s3: S3, directory: Path) -> None:
    """Copy all files below `directory`; the server may take half a minute on a machine that is busy."""
    for path in sorted(each for each in directory.rglob("*") if each.is_file()):
        for attempt in range(4):
            try:
                s3.put(path.relative_to(directory).as_posix(), path.read_bytes())
            except OSError:
                if attempt == 3:
                    raise
                continue
            break


def go_there(endpoint: str) -> None:
    """Let s3:// URLs of this process and its children mean `endpoint`."""
    for name, value in environment(endpoint).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def cache_of(undisturbed: Undisturbed, origin: Path) -> tuple[int, int]:
    """Return the limit of the cache, a third of the data or what the largest shards need, and the largest shard."""
    loader = undisturbed.loader(changed=False)
    sizes = [shard.raw.bytes for shard in loader.dataset.shards]
    loader.close()
    besides = sum(
        path.stat().st_size for path in origin.rglob("*") if path.suffix in {".json", ".idx", ".index", ".gz"}
    )
    largest = max(sizes)
    return max(sum(sizes) // 3, 6 * largest) + 2 * besides, largest


def compare(lives: list[Life], undisturbed: Undisturbed, scenario: Scenario, *, changed_at: int | None) -> Verdict:
    """Compare lives with the undisturbed run."""
    steps = [(life.changed, line.step) for life in lives for line in life.lines]
    if not steps:
        return Verdict(differences=["no batch was handed out"])
    last = dict(sorted(steps))  # the largest step of each run
    expected = undisturbed.rows(last, changed_at=changed_at)
    verdict = judge(lives, expected, batch=scenario.batch, in_slices=scenario.in_slices)
    verdict.differences += undisturbed.differences
    return verdict


def bounds(watch: Watch, limit: int, largest: int, scenario: Scenario) -> list[str]:
    """Return which bounds were exceeded."""
    found = []
    if watch.peak > limit:
        over = np.round((watch.peak - limit) / largest, 2)
        found.append(f"the cache had {watch.peak} bytes, {over} of the largest shard above its limit of {limit}")
    if watch.memory > scenario.memory << 20:
        found.append(f"a process had {watch.memory >> 20} MB of memory, more than {scenario.memory}")
    return found
