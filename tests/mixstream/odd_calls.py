# ruff: noqa: E501, PLW0108
"""What `test_odd_arguments.py` goes by: odd values, and a good call of every public constructor and function.

A new public name goes into `CALLS`; the test fails until it does. A call does what shows whether its arguments are
right: a dataset is made and a batch of it read, since what a constructor lets pass must not fail later by another name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import streams
from previous import PREVIOUS

import mixstream as ms
from mixstream import losses, mixers
from mixstream.mixers import MatrixMixer
from mixstream.packing import PackingSettings, pack_documents
from mixstream.selection import keep, random_rows
from mixstream.units import parse_bytes, parse_count
from mixstream.world import World


class Broken:
    """An object of which nothing can be had."""

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __float__(self) -> float:
        raise RuntimeError("no float")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __fspath__(self) -> str:
        raise RuntimeError("no path")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = None  # type: ignore[assignment]


ODD: dict[str, Any] = {
    "None": None, "True": True, "-1": -1, "2**62": 1 << 62, "2**63": 1 << 63, "2**1000": 1 << 1000, "-2**1000": -(1 << 1000),
    "10**400": 10**400, "1.5": 1.5, "1e300": 1e300, "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "''": "",
    "'x'": "x", "'7'": "7", "'nan'": "nan", "'9...9'": "9" * 400, "long text": "x" * 100_000, "surrogate": "\udc80",
    "NUL": "a\0b", "b'x'": b"x", "[]": [], "[1]": [1], "[None]": [None], "long list": [0] * 100_000, "{}": {},
    "{1: 2}": {1: 2}, "{'x': nan}": {"x": math.nan}, "{'x': None}": {"x": None}, "()": (), "set": {1},
    "int64 nan": np.float64("nan"), "int8": np.int8(-1), "array": np.array([1, 2]), "0-d": np.array(3),
    "array of nan": np.full(3, math.nan), "array of objects": np.array([None, "x"], dtype=object),
    "tensor": torch.tensor([1.0, 2.0]), "Path": Path("x"), "1/3": Fraction(1, 3), "Decimal NaN": Decimal("NaN"),
    "Decimal 1e999": Decimal("1e999"), "3j": 3j, "object": object(), "type": int, "function": len, "slice": slice(2),
    "range": range(3), "generator": iter(()), "Broken": Broken(), "dtype": np.dtype("int64"), "ellipsis": ...,
}  # fmt: skip
"""Name → a value that is odd for most arguments."""
LESS = {
    "None", "-1", "2**62", "2**1000", "1.5", "nan", "inf", "''", "'x'", "NUL", "[None]", "{'x': nan}", "array of nan",
    "0-d", "tensor", "Decimal NaN", "object", "Broken",
}  # fmt: skip
"""Those that are tried where a call takes more than a few milliseconds, `SLOW`."""
SLOW = {
    "StreamingDataset", "Loader", "StreamingDataLoader", "CSVWriter", "JSONWriter", "TSVWriter", "XSVWriter", "MDSWriter",
    "ValidationSet.open", "Loader.report", "Loader.report_sums", "Loader.report_evaluation", "Loader.report_validation",
    "StreamingDataset.state_dict", "StreamingDataset.load_state_dict", "StreamingDataLoader.load_state_dict",
    "StreamingDataset.set_epoch", "StreamingDataLoader.set_epoch", "Loader.load_state_dict", "Loader.validation",
    "merge_index", "Loader.evaluate", "ADO", "Aioli", "DoReMi", "SkillIt",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Call:
    """A good call.

    Args:
        made: calls it with keyword arguments, and uses what it returns.
        good: the arguments that it needs.
        others: arguments that are tried, too: name → a good value.
        free: arguments that may be anything.
        says: argument → other words by which errors name it.
        without: argument → labels of odd values that are left out: those of a caller's own object that fails, as in
            torch, and those that take long.
        also: other errors that say it, as of a place that is not in a list.
    """

    made: Callable[..., Any]
    good: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    says: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, set[str]] = field(default_factory=dict)
    also: tuple[type[Exception], ...] = ()

    @property
    def given(self) -> dict[str, Any]:
        """What a good call is given: without those that the call itself makes, which stand as None."""
        return {name: value for name, value in self.good.items() if value is not None}

    @property
    def arguments(self) -> list[str]:
        return [name for name in {**self.good, **self.others} if name not in self.free]


# --- what calls do ----------------------------------------------------------------------------------------------------


def first_batch(dataset: Any, **kw: Any) -> None:
    with ms.Loader(dataset, **{"prefetch": 0, **kw}) as loader:
        next(iter(loader))


def calls(library: Path, place: Path) -> dict[str, Call]:
    """Return the calls over `library`; what they write is below `place`."""
    number = count()
    web = str(library / "web")

    def dataset(**kw: Any) -> Any:
        return ms.StreamingDataset(**{"streams": streams(library), "batch_size": 8, **kw})

    def read_dataset(**kw: Any) -> None:
        first_batch(dataset(**kw))

    def read_stream(**kw: Any) -> None:
        first_batch(dataset(streams=[ms.Stream(**kw)]))

    def write(cls: Any) -> Callable[..., None]:
        def made(**kw: Any) -> None:
            with cls(**{"out": str(place / f"out{next(number)}"), **kw}) as writer:
                writer.write({"x": 1})

        return made

    def loader(**kw: Any) -> None:
        first_batch(kw.pop("dataset") if "dataset" in kw else dataset(), **kw)

    def dataloader(**kw: Any) -> None:
        next(iter(ms.StreamingDataLoader(kw.pop("dataset") if "dataset" in kw else dataset(), **kw)))

    def of_loader(act: Callable[..., Any]) -> Callable[..., None]:
        def made(**kw: Any) -> None:
            with ms.Loader(shared, prefetch=0) as loader:
                act(loader, **kw)

        return made

    def sums(**kw: Any) -> None:
        with ms.Loader(dataset(mixer=mixers.ODM(), lag=4), prefetch=0) as loader:
            next(iter(loader))
            loader.report_sums(**kw)

    def evaluation(act: Callable[..., Any]) -> Callable[..., None]:
        def made(**kw: Any) -> None:
            with ms.Loader(dataset(mixer=mixers.Aioli(), lag=4), prefetch=0) as loader:
                next(iter(loader))
                act(loader, **kw)

        return made

    def report(loader: Any, **kw: Any) -> None:
        loader.report(**{"batch": next(iter(loader)), **kw})

    def split(**kw: Any) -> None:
        batch = ms.Batch({"x": torch.arange(4)})
        batch.step, batch.domain = 0, np.zeros(4, np.int64)
        batch.split(**kw)

    saved = dataset().state_dict()
    with ms.MDSWriter(columns={"x": "int"}, out=str(place / "merged" / "0")) as writer:
        writer.write({"x": 1})
    shared = dataset(mixer=mixers.ODM(), lag=4)
    held = ms.ValidationSet.open(shared, streams=streams(library), rows=3, batch_size=3)
    marked = dataset(streams=[ms.Stream(remote=web, eos_id=0)])
    even = {"web": 1.0, "code": 1.0, "law": 1.0}

    def mixer(make: Callable[..., Any]) -> Callable[..., None]:
        def made(**kw: Any) -> None:
            found = make(**kw)
            if hasattr(found, "init") or hasattr(found, "bind") or hasattr(found, "proportions"):
                dataset(mixer=found, lag=4).run  # noqa: B018

        return made

    local = ms.LocalDataset(web)
    numbers: dict[str, Any] = {"says": {"at": "sample"}, "without": {"at": {"long list"}}, "also": (IndexError,)}
    columns: dict[str, Any] = {"says": {"columns": "column", "out": "out|[Dd]irectory"}}
    writer = {"keep_local": False, "compression": "zstd", "hashes": ["xxh64"], "size_limit": 1000}
    return {
        "Stream": Call(made=read_stream, good={"remote": web}, others={
            "local": None, "split": None, "proportion": 1, "repeat": 1, "choose": 5, "download_retry": 2,
            "download_timeout": 60, "validate_hash": None, "keep_zip": False, "name": "web", "max_epochs": 3,
            "selection": None, "split_by": None, "on_selection_mismatch": "error", "unlisted_shards": "error",
            "seq_len": None, "overlap": None, "dtype": None, "eos_id": None, "bos_id": None, "packing": None,
            "column": None, "durable": False,
        }),
        "StreamingDataset": Call(made=read_dataset, good={"streams": None, "batch_size": 8}, others={
            "remote": None, "local": None, "split": None, "download_retry": 2, "download_timeout": 60,
            "validate_hash": None, "keep_zip": False, "epoch_size": 80, "predownload": 8, "cache_limit": 1 << 30,
            "sampling_method": "balanced", "sampling_granularity": 1, "partition_algo": "relaxed",
            "num_canonical_nodes": 1, "shuffle": True, "shuffle_algo": "py1e", "shuffle_seed": 1,
            "shuffle_block_size": 64, "batching_method": "random", "allow_unsafe_types": False, "replication": 1,
            "stream_name": "stream", "stream_config": None, "mixer": None, "lag": 4, "on_bad_sample": "raise",
            "drop_last": True, "rank": 0, "world_size": 1, "nodes": 1, "mixed_rows": False, "order": "mixstream",
            "loss_parts": None, "durable": False,
        }),
        "Loader": Call(made=loader, good={"dataset": None}, others={
            "device": None, "prefetch": 1, "collate_fn": None, "widen": True, "log": None, "transforms": (),
            "documents": False, "labels": None,
        }, without={"collate_fn": {"type"}}),
        "StreamingDataLoader": Call(made=dataloader, good={"dataset": None}, others={
            "batch_size": 8, "num_workers": 0, "log": None, "transforms": (), "documents": False, "labels": None,
            "collate_fn": None, "drop_last": None, "prefetch_factor": None,
        }, also=(StopIteration,), without={  # a dataset of another kind is torch's, which says itself what it cannot read; 3 workers are 3 processes
            "collate_fn": {"type"}, "num_workers": {"0-d"},
            "dataset": {"set", "0-d", "int8", "int64 nan", "[None]", "{1: 2}", "{'x': nan}", "{'x': None}", "array of objects", "dtype"},
        }),
        "LocalDataset": Call(
            made=lambda **kw: ms.LocalDataset(**kw)[0],
            good={"local": web}, others={"split": None, "allow_unsafe_types": False},
        ),
        "LocalDataset[…]": Call(made=lambda at: local[at], good={"at": 0}, **numbers),
        "LocalDataset.get_item": Call(made=local.get_item, good={"sample_id": 0}, also=(IndexError,), says={"sample_id": "sample"}),
        "StreamingDataset[…]": Call(made=lambda at: shared[at], good={"at": 0}, **numbers),
        "StreamingDataset.get_item": Call(made=shared.get_item, good={"sample_id": 0}, also=(IndexError,), says={"sample_id": "sample"}),
        "MDSWriter": Call(made=write(ms.MDSWriter), good={"columns": {"x": "int"}}, others={
            **writer, "out": None, "progress_bar": False, "max_workers": 1, "retry": 2, "exist_ok": False, "metadata": None,
        }, **columns),
        "JSONWriter": Call(made=write(ms.JSONWriter), good={"columns": {"x": "int"}}, others={"newline": "\n"}, **columns),
        "CSVWriter": Call(made=write(ms.CSVWriter), good={"columns": {"x": "int"}}, others={"newline": "\n"}, **columns),
        "TSVWriter": Call(made=write(ms.TSVWriter), good={"columns": {"x": "int"}}, others={"newline": "\n"}, **columns),
        "XSVWriter": Call(
            made=write(ms.XSVWriter), good={"columns": {"x": "int"}, "separator": "|"}, others={"newline": "\n"}, **columns,
        ),
        "MDSWriter.write": Call(
            made=lambda sample: write_one(place / f"out{next(number)}", sample), good={"sample": {"x": 1}},
            says={"sample": "sample|column|'x'"},
        ),
        "MegatronOrder": Call(
            made=ms.MegatronOrder,
            others={"split": "9,1", "part": "train", "micro_batch_size": 2, "extra_token": True},
        ),
        "ValidationSet.open": Call(
            made=lambda **kw: next(iter(ms.ValidationSet.open(shared, streams=streams(library), **kw))),
            others={"rows": 4, "batch_size": 4, "seed": 1, "device": None, "widen": True, "transforms": (), "documents": False, "labels": None},
        ),
        "DocumentCollate": Call(made=ms.DocumentCollate, good={"dataset": marked}, others={"labels": None, "collate_fn": None}),
        "streams": Call(made=ms.streams, good={"remote": str(library)}, others={"split": "", "local": None}),
        "replay": Call(made=lambda path: ms.replay(path), good={"path": str(PREVIOUS / "logs" / "ado.jsonl")}, also=(FileNotFoundError,), says={"path": "path|log"}),
        "streams_registry": Call(made=lambda **kw: ms.streams_registry(**kw), good={"name": f"odd{next(number)}"}, others={"func": None}),
        "Batch.split": Call(made=split, good={"parts": 2}),
        "Batch.to": Call(made=lambda device: ms.Batch({"x": torch.arange(4)}).to(device), good={"device": "cpu"}),
        "domain_sums": Call(
            made=losses.domain_sums, good={"loss": torch.ones(4), "domain": torch.zeros(4, dtype=torch.int64), "domains": 2},
            others={"mask": None},
        ),
        "domain_cross_entropy": Call(
            made=losses.domain_cross_entropy,
            good={
                "hidden": torch.ones(2, 3, 4), "weight": torch.ones(5, 4), "targets": torch.ones(2, 3, dtype=torch.int64),
                "domain": torch.zeros(2, dtype=torch.int64), "domains": 2,
            },
            others={"bias": None, "ignore_index": -100, "reduction": "mean", "chunk": 2},
        ),
        "OutputLosses": Call(
            made=losses.OutputLosses, good={"domain": np.zeros(2, np.int64), "domains": 2, "targets": torch.ones(2, 3, dtype=torch.int64), "model": torch.nn.Linear(2, 2)},
            others={"shifted": False}, free=frozenset({"model"}),
        ),
        "LossWindow": Call(made=losses.LossWindow, good={"names": ["a"]}),
        "evaluate": Call(
            made=lambda **kw: ms.evaluate(**{"model_loss": ones, **kw}), good={"validation": held},
            others={"model": None, "model_loss": ones},
            without={"model_loss": {"type"}},
        ),
        "Loader.report": Call(made=of_loader(report), good={"loss": torch.ones(8)}, others={"mask": None, "matrix": None, "batch": {}}),
        "Loader.report_sums": Call(
            made=sums,
            good={"step": 0, "loss_sum_K": np.ones(3), "count_K": np.ones(3)},
            says={"loss_sum_K": "summed loss", "count_K": "summed loss"},
        ),
        "Loader.report_evaluation": Call(made=evaluation(lambda loader, sums: loader.report_evaluation(sums)), good={"sums": (np.ones(3), np.ones(3))}),
        "Loader.report_validation": Call(made=evaluation(lambda loader, losses: loader.report_validation(losses)), good={"losses": np.ones(3)}, says={"losses": "losses|validation"}),
        "Loader.evaluate": Call(
            made=evaluation(lambda loader, **kw: loader.evaluate(**{"validation": held, "model_loss": ones, **kw})),
            others={"model_loss": ones, "validation": held, "model": None}, without={"model_loss": {"type"}},
        ),
        "Loader.skip": Call(made=of_loader(lambda loader, steps: loader.skip(steps)), good={"steps": 2}),
        "Loader.set_epoch": Call(made=of_loader(lambda loader, epoch: loader.set_epoch(epoch)), good={"epoch": 1}),
        "Loader.state_dict": Call(
            made=of_loader(lambda loader, **kw: loader.state_dict(**kw)), others={"num_samples": None, "from_beginning": True}
        ),
        "Loader.load_state_dict": Call(
            made=of_loader(lambda loader, **kw: loader.load_state_dict(**{"state": loader.state_dict(), **kw})),
            others={"state": {}, "strict": True}, says={"state": "state"},
        ),
        "Loader.validation": Call(
            made=of_loader(lambda loader, **kw: loader.validation(**{"streams": streams(library), **kw})),
            others={"rows": 2, "split": ""},
        ),
        "StreamingDataset.state_dict": Call(made=lambda **kw: dataset().state_dict(**kw), others={"num_samples": 8, "from_beginning": True}),
        "StreamingDataset.load_state_dict": Call(made=lambda **kw: dataset().load_state_dict(**{"obj": dataset().state_dict(), **kw}), others={"obj": {}, "strict": True}, says={"obj": "state"}),
        "StreamingDataset.set_epoch": Call(made=lambda epoch: dataset().set_epoch(epoch), good={"epoch": 1}),
        "StreamingDataLoader.set_epoch": Call(made=lambda epoch: ms.StreamingDataLoader(dataset(), batch_size=8).set_epoch(epoch), good={"epoch": 1}),
        "StreamingDataLoader.load_state_dict": Call(
            made=lambda obj=saved: ms.StreamingDataLoader(dataset(), batch_size=8).load_state_dict(obj),
            others={"obj": saved}, says={"obj": "state"},
        ),
        "merge_index": Call(made=ms.merge_index, good={"out": str(place / "merged")}, others={
            "index_file_urls": None, "keep_local": True, "download_timeout": 60, "metadata": None,
        }, says={"out": "out|remote|no dataset below", "index_file_urls": "index|out"}),
        "World": Call(made=World, good={"rank": 0, "size": 1}, others={"nodes": 1}),
        "Static": Call(made=mixer(mixers.Static), good={"proportions": even}),
        "Schedule": Call(made=mixer(mixers.Schedule), good={"weights": {0: even}}, others={"kind": "step"}),
        "Natural": Call(made=mixer(mixers.Natural)),
        "Stratified": Call(made=mixer(mixers.Stratified)),
        "Temperature": Call(made=mixer(mixers.Temperature), good={"tau": 2.0}),
        "UniMax": Call(made=mixer(mixers.UniMax), good={"budget": 100, "max_epochs": 2}),
        **{
            name: Call(made=mixer(make), good=good, others=defaults(make, good))
            for name, make, good in (
                ("ADO", mixers.ADO, {}), ("ODM", mixers.ODM, {}), ("Aioli", mixers.Aioli, {}),
                ("DoGE", mixers.DoGE, {}), ("DoReMi", mixers.DoReMi, {}), ("MatrixMixer", MatrixMixer, {}),
                ("SkillIt", mixers.SkillIt, {"graph": {name: dict(even) for name in even}}),
            )
        },
        "LMO": Call(made=mixers.LMO, others=defaults(mixers.LMO, {})),
        "parse_bytes": Call(made=parse_bytes, good={"size": "64mb"}, says={"size": "size|number of bytes"}),
        "parse_count": Call(made=parse_count, good={"count": "64m"}, says={"count": "count|number of samples"}),
        "PackingSettings": Call(made=PackingSettings, good={"seq_len": 8, "algorithm": "concat"}, others={
            "long_documents": "cut", "seed": None, "pad_id": None, "documents": "samples", "eos_id": None, "columns": ("tokens",), "selection": None,
        }),
        "pack_documents": Call(
            made=lambda **kw: pack_documents(np.array([3, 4, 5]), **kw), good={"seq_len": 8, "algorithm": "best-fit"}, others={"long_documents": "cut", "order_D": None},
        ),
        "keep": Call(
            made=lambda **kw: keep(np.arange(4.0), **kw), good={"side": "high", "rows": 2},
            others={"by": "rows", "outlier_cut": None, "floor": 0.0, "fraction": None, "tokens": None},
        ),
        "random_rows": Call(made=lambda **kw: random_rows(**kw), good={"count": 5, "seed": 1, "rows": 2}),
    }  # fmt: skip


def defaults(make: Any, good: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor that have a value if they are not given."""
    import inspect

    parameters = inspect.signature(make).parameters.values()
    return {each.name: each.default for each in parameters if each.name not in good and each.default is not each.empty}


def ones(batch: Any) -> torch.Tensor:
    """Return a loss for each row."""
    return torch.ones(len(batch["tokens"]))


def write_one(out: Path, sample: Any) -> None:
    with ms.MDSWriter(columns={"x": "int"}, out=str(out)) as writer:
        writer.write(sample)
