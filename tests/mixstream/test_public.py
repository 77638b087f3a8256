"""The public face: names, and the arguments that users and migrating users rely on."""

from __future__ import annotations

import inspect
import subprocess
import sys

import mixstream as ms

MOSAIC_DATASET = {  # specs/streaming_api.md section 1.2
    "streams": None,
    "remote": None,
    "local": None,
    "split": None,
    "download_retry": 2,
    "download_timeout": 60.0,
    "keep_zip": False,
    "epoch_size": None,
    "predownload": None,
    "cache_limit": None,
    "sampling_method": "balanced",
    "sampling_granularity": 1,
    "partition_algo": "relaxed",
    "num_canonical_nodes": None,
    "batch_size": None,
    "shuffle": False,
    "shuffle_algo": "py1e",
    "shuffle_seed": 9176,
    "shuffle_block_size": None,
    "batching_method": "random",
    "allow_unsafe_types": False,
    "replication": None,
    "stream_name": "stream",
    "stream_config": None,
}
OUR_DATASET = {
    "mixer": None,
    "lag": 16,
    "on_bad_sample": "raise",
    "drop_last": False,
    "rank": None,
    "world_size": None,
    "nodes": None,
    "mixed_rows": False,
    "order": "mixstream",
    "loss_parts": None,
    "validate_hash": "arrival",  # its namesake's default is None: nothing is checked
    "durable": False,
}
MOSAIC_STREAM = ["remote", "local", "split", "proportion", "repeat", "choose", "download_retry", "download_timeout"]
MOSAIC_STREAM += ["validate_hash", "keep_zip"]


def arguments(what: object) -> dict[str, object]:
    return {p.name: p.default for p in inspect.signature(what).parameters.values()}  # type: ignore[arg-type]


def test_every_public_name_is_there_and_no_other():
    assert sorted(ms.__all__) == [
        "Batch",
        "CSVWriter",
        "DocumentCollate",
        "Feedback",
        "JSONWriter",
        "Loader",
        "LoaderStats",
        "LocalDataset",
        "MDSWriter",
        "MegatronOrder",
        "Stream",
        "StreamingDataLoader",
        "StreamingDataset",
        "TSVWriter",
        "ValidationSet",
        "XSVWriter",
        "__version__",
        "compat",
        "domain_cross_entropy",
        "domain_sums",
        "errors",
        "evaluate",
        "integrations",
        "losses",
        "merge_index",
        "mixers",
        "replay",
        "streams",
        "streams_registry",
    ]
    assert all(getattr(ms, name) is not None for name in ms.__all__)
    assert set(ms.__all__) <= set(dir(ms))


def test_the_dataset_takes_what_its_namesake_takes_and_ours_on_top():
    assert arguments(ms.StreamingDataset) == MOSAIC_DATASET | OUR_DATASET
    kinds = {p.kind for p in inspect.signature(ms.StreamingDataset).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_the_stream_takes_what_its_namesake_takes_and_ours_on_top():
    ours = ["name", "max_epochs", "selection", "split_by", "on_selection_mismatch", "unlisted_shards"]
    of_tokens = ["seq_len", "overlap", "dtype", "eos_id", "bos_id", "packing", "column", "durable"]
    found = arguments(ms.Stream)
    assert list(found) == [*MOSAIC_STREAM, *ours, *of_tokens]
    assert {name for name, default in found.items() if default is not None} == {*ours[-2:]}


def test_the_loader_takes_few_arguments():
    found = arguments(ms.Loader)
    ours = ["device", "prefetch", "collate_fn", "widen", "log", "transforms", "documents", "labels"]
    assert list(found) == ["dataset", *ours]


def test_state_methods_take_what_trainers_pass():
    for face in (ms.StreamingDataset, ms.Loader):
        assert list(arguments(face.state_dict)) == ["self", "num_samples", "from_beginning"]
    assert ms.Loader.save_state is ms.Loader.state_dict


def test_writing_shards_needs_no_torch():
    code = "import sys, mixstream; mixstream.MDSWriter; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
