"""Makes tests/goldens/mosaic_order.json: digests of epochs as mosaicml-streaming deals them out.

Run it in the environment of `make test-mosaic`:

    PYTHONPATH=tests/mosaic/stubs .venv-mosaic/bin/python -W ignore tests/mosaic/make_order_goldens.py

The gate compares ours with them (tests/mixstream/plan/test_mosaic.py), `make test-mosaic` compares live. A case has all
arguments, so that neither test needs this file. Nothing here depends on the clock or on hashes of strings.
"""

import json
import logging
import random
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

OUT = Path(__file__).parents[1] / "goldens" / "mosaic_order.json"
ALGORITHMS = ("py1e", "py1br", "py1s", "py2s", "naive")
METHODS = ("random", "stratified", "per_stream", "device_per_stream")


def random_case(rng: random.Random) -> dict[str, Any]:
    """Return arguments of a run: shards, weights, options and ranks; not all are valid together."""
    streams = rng.randint(1, 4)
    shards = [[rng.choice((1, 3, 10, 30, 64)) for _ in range(rng.randint(1, 6))] for _ in range(streams)]
    weights: dict[str, list[Any]] = {name: [None] * streams for name in ("proportion", "repeat", "choose")}
    kind = rng.choice(("none", "relative", "absolute"))
    if kind == "relative":
        weights["proportion"] = [rng.choice((0.1, 0.3, 0.5, 1, 2)) for _ in shards]
    if kind == "absolute":
        for k, sizes in enumerate(shards):
            name = rng.choice(("repeat", "choose", ""))
            if name:
                weights[name][k] = (
                    rng.choice((0.5, 1, 1.7, 2.5)) if name == "repeat" else rng.randint(1, 2 * sum(sizes))
                )
    total = sum(map(sum, shards))
    batch_size, nodes, ranks = rng.choice((1, 2, 3, 4, 8)), rng.choice((1, 2, 3, 4)), rng.choice((1, 2, 4))
    together = batch_size * nodes * ranks
    return {
        "shards": shards,
        "weights": weights,
        "epoch_size": rng.randint(1, 2 * total) if kind != "absolute" and rng.random() < 0.5 else None,
        "options": {
            "batch_size": batch_size,
            "num_canonical_nodes": rng.choice((1, 2, 3, 4, 8)),
            "shuffle": rng.random() < 0.75,
            "shuffle_algo": rng.choice(ALGORITHMS),
            "shuffle_seed": rng.randint(0, 99999),
            "shuffle_block_size": rng.choice((20, 100, 1000, 1 << 18)),
            "sampling_method": rng.choice(("balanced", "fixed")),
            "sampling_granularity": rng.choice((1, 1, 3, 16)),
            "partition_algo": rng.choice(("orig", "relaxed", "relaxed")),
            "batching_method": rng.choice(METHODS),
            "initial_physical_nodes": rng.choice((None, None, 1, 2, 3)),
        },
        "world": [nodes, ranks, rng.choice((1, 2, 3))],
        "epoch": rng.choice((0, 1, 2, 7)),
        "sample_in_epoch": rng.choice((0, 0, 0, together, 2 * together, 3 * together + 1)),
    }


def of_the_package(case: dict[str, Any]) -> np.ndarray:
    """Return what mosaicml-streaming makes of a case: int64, by node, rank, worker, batch and sample."""
    from streaming.base.batching import generate_work
    from streaming.base.dataset import StreamingDataset
    from streaming.base.stream import Stream
    from streaming.base.world import World

    given = [dict(zip(case["weights"], of)) for of in zip(*case["weights"].values())]
    streams = [SimpleNamespace(**{k: v for k, v in one.items() if v is not None}) for one in given]
    samples = np.array([sum(sizes) for sizes in case["shards"]], np.int64)
    apply = Stream.apply_weights.__func__
    size = apply(Stream, streams, samples, case["epoch_size"], case["options"]["shuffle_seed"])
    of_shards = np.array([size for sizes in case["shards"] for size in sizes], np.int64)
    count = np.array([len(sizes) for sizes in case["shards"]])
    options = case["options"]
    dataset = SimpleNamespace(
        streams=streams,
        num_streams=len(streams),
        epoch_size=size,
        shard_offset_per_stream=np.cumsum(count) - count,
        shards_per_stream=count,
        samples_per_shard=of_shards,
        sample_offset_per_shard=np.cumsum(of_shards) - of_shards,
        epoch_seed_change=options["shuffle"] and options["sampling_method"] == "balanced",
        **options,
    )
    dataset.resample_streams = lambda epoch, k=None: StreamingDataset.resample_streams(dataset, epoch, k)
    return generate_work(
        options["batching_method"], dataset, World(*case["world"], 0), case["epoch"], case["sample_in_epoch"]
    )


def digest(work: np.ndarray) -> str:
    """Return a digest of the samples and their shape."""
    ids = np.ascontiguousarray(work, dtype="<i8")
    return blake2b(repr(ids.shape).encode() + ids.tobytes(), digest_size=12).hexdigest()


def main() -> None:
    """Write the file."""
    logging.disable(logging.CRITICAL)
    rng, found = random.Random(20240901), []
    wanted = {(algo, method): 2 for algo in ALGORITHMS for method in METHODS}
    while any(wanted.values()):
        case = random_case(rng)
        options = case["options"]
        kind = options["shuffle_algo"], options["batching_method"]
        if not wanted[kind] or (not options["shuffle"] and rng.random() < 0.8):
            continue
        try:
            work = of_the_package(case)
        except (ValueError, ZeroDivisionError):
            continue
        if work.size:
            wanted[kind] -= 1
            found.append(case | {"digest": digest(work)})
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in found) + "\n]\n")


if __name__ == "__main__":
    main()
