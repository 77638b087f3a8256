"""Saved datasets of Hugging Face: the shards that state.json names, in its order, and never two splits as one text."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixstream.errors import ConfigError
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.sources.sources import Sources, find_sources


def save(directory: Path, texts: list[list[str]], *, split: str = "train", **state: object) -> Path:
    """Write what `Dataset.save_to_disk` of datasets 5.2 writes, a shard for each list."""
    directory.mkdir(parents=True)
    names = [f"data-{at:05}-of-{len(texts):05}.arrow" for at in range(len(texts))]
    features = {"text": {"dtype": "string", "_type": "Value"}}
    schema = pa.schema([("text", pa.string())], {"huggingface": json.dumps({"info": {"features": features}})})
    for name, shard in zip(names, texts):
        with pa.ipc.new_stream(directory / name, schema) as writer:
            writer.write_table(pa.table({"text": shard}, schema=schema), max_chunksize=1000)
    described = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "a5c3f0e1d2b4c687",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (directory / "state.json").write_text(json.dumps(described | state, indent=2, sort_keys=True))
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (directory / "dataset_info.json").write_text(json.dumps(info, indent=2, sort_keys=True))
    return directory


def save_dict(directory: Path, *splits: str) -> Path:
    """Write what `DatasetDict.save_to_disk` writes."""
    for split in splits:
        save(directory / split, [[f"{split} {at}" for at in range(9)]], split=split)
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    return directory


def find(*sources: object, **choice) -> Sources:
    return find_sources(list(map(str, sources)), out=Path("/nowhere"), choice=Choice(**choice), by_key=False)


def refusal(*sources: object, **choice) -> str:
    with pytest.raises(ConfigError) as caught:
        find(*sources, **choice)
    return str(caught.value)


def names(found: Sources) -> list[list[str]]:
    return [[file.name for file in group.files] for group in found.groups]


def test_a_dataset_is_its_shards_in_the_order_of_its_state(tmp_path, convert_json, read_rows, expected_rows):
    texts = [[f"shard {shard} row {at} é\n" for at in range(40)] for shard in range(3)]
    order = [{"filename": f"data-0000{at}-of-00003.arrow"} for at in (2, 0, 1)]
    saved = save(tmp_path / "saved", texts, _data_files=order)
    (saved / "cache-0123456789abcdef.arrow").write_bytes((saved / order[0]["filename"]).read_bytes())
    (saved / "other.arrow").write_bytes(b"")
    found = find(saved)
    assert names(found) == [[each["filename"] for each in order]]
    assert {kind for _, kind in found.skipped} == {"state.json", "dataset_info.json", "cache-….arrow", "other.arrow"}
    status, summary, _ = convert_json(saved, "--out", tmp_path / "out", "--seq-len", 16)
    assert (status, summary["domains"]["saved"]["train"]["documents"]) == (0, 120)
    documents = [text for shard in (2, 0, 1) for text in texts[shard]]
    assert (read_rows(tmp_path / "out/saved/train") == expected_rows(documents, 16)).all()


def test_a_split_has_to_be_named(tmp_path):
    saved = save_dict(tmp_path / "saved", "train", "test")
    told = refusal(saved)
    assert (
        "several splits, which would become one text: test (1 files, test/data-00000-of-00001.arrow …), train" in told
    )
    assert f"NAME={saved}/train" in told
    assert names(find(f"web={saved}/train")) == [["data-00000-of-00001.arrow"]]
    assert names(find(saved, include=("train/*",))) == [["train/data-00000-of-00001.arrow"]]
    assert names(find(saved, exclude=("test/*",))) == [["train/data-00000-of-00001.arrow"]]
    both = find(f"web={saved}/train", f"web={saved}/test")
    assert names(both) == [["data-00000-of-00001.arrow"] * 2]
    assert names(find(save_dict(tmp_path / "one", "train"))) == [["train/data-00000-of-00001.arrow"]]
    assert "several splits" in refusal(save_dict(tmp_path / "named", "math", "code"))


@pytest.mark.parametrize(
    "files",
    [
        ["data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        ["train-00000-of-00001-0123456789abcdef.parquet", "validation-00000-of-00001-fedcba9876543210.parquet"],
        ["en/train/0000.parquet", "en/test/0000.parquet"],
        ["wiki-train.parquet", "wiki-test.parquet"],
        ["train.parquet", "dev.parquet"],
    ],
)
def test_tables_of_several_splits_are_no_one_text(tmp_path, files):
    for name in files:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": ["x"]}), tmp_path / "d" / name)
    assert "several splits" in refusal(tmp_path / "d")
    assert names(find(f"web={tmp_path}/d", exclude=("*test*", "*/test/*", "*dev*", "validation*"))) == [[files[0]]]
    assert len(find(*(f"web={tmp_path}/d/{name}" for name in files)).groups[0].files) == 2


@pytest.mark.parametrize(
    "files",
    [
        ["c4-train.00000-of-01024.json.gz", "c4-validation.00000-of-00008.json.gz"],
        ["train/00.jsonl", "test/00.jsonl"],
        ["train.csv", "dev.csv"],
    ],
)
def test_other_files_of_several_splits_are_joined_with_a_warning(tmp_path, files):
    for name in files:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        data = b'{"text": "x"}\n{"text": "y"}\n' if "json" in name else b"id,text\n1,x\n"
        (tmp_path / "d" / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    joined = find(f"web={tmp_path}/d")
    assert [len(group.files) for group in joined.groups] == [2]
    (warning,) = joined.warnings
    assert warning.startswith("domain 'web' joins files of several splits: ")
    assert f"train (1 files, {files[0]} …)" in warning
    assert not find(f"web={tmp_path}/d", exclude=("test/*", "*dev*", "*validation*")).warnings
    assert not find(*(f"web={tmp_path}/d/{name}" for name in files)).warnings


def test_tables_without_splits_are_one_text(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("000_00000.parquet", "contest.parquet", "training_notes.parquet"):
        pq.write_table(pa.table({"text": ["x"]}), tmp_path / "d" / name)
    assert len(find(tmp_path / "d").groups[0].files) == 3


def test_a_dataset_that_is_not_whole_is_refused(tmp_path):
    saved = save(tmp_path / "saved", [["a"], ["b"]])
    (saved / "data-00001-of-00002.arrow").unlink()
    assert "1 of them are not there: 'data-00001-of-00002.arrow'" in refusal(saved)
    old = save(tmp_path / "old", [["a"]], _indices_data_files=[{"filename": "indices.arrow"}])
    assert "flatten_indices" in refusal(old)
    twice = save(tmp_path / "twice", [["a"]], _data_files=[{"filename": "data-00000-of-00001.arrow"}] * 2)
    assert "twice" in refusal(twice)


def test_a_cache_that_a_pattern_finds_is_left_out(tmp_path):
    saved = save(tmp_path / "saved", [["a"]])
    (saved / "cache-0123456789abcdef.arrow").write_bytes((saved / "data-00000-of-00001.arrow").read_bytes())
    found = find(f"web={saved}/*.arrow")
    assert names(found) == [["data-00000-of-00001.arrow"]]
    assert sum(found.skipped.values()) == 1


def test_a_state_of_another_program_is_no_dataset(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/state.json").write_text(json.dumps([{"text": "x"}]))
    assert names(find(tmp_path / "d")) == [["state.json"]]


@pytest.mark.parametrize(
    ("log", "kind"), [("_delta_log/00000000000000000000.json", "Delta Lake"), ("metadata/v1.metadata.json", "Iceberg")]
)
def test_tables_whose_log_says_which_rows_count_are_refused(tmp_path, log, kind):
    for name in (f"t/{log}", "t/part-0.parquet", "t/part-1.parquet"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": ["x"]}), tmp_path / "d" / name)
    told = refusal(f"web={tmp_path}/d", "other=" + str(save(tmp_path / "saved", [["a"]])))
    assert f"{tmp_path}/d/t is a table of {kind}" in told
    assert len(find(f"web={tmp_path}/d/**/part*.parquet").groups[0].files) == 2


def test_one_split_of_many_datasets_is_chosen_by_a_pattern(tmp_path):
    for name in ("algebra", "anatomy"):
        for split in ("dev", "test"):
            path = tmp_path / "mmlu" / name / split / "0000.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.table({"text": ["x"]}), path)
    told = refusal(f"all={tmp_path}/mmlu")
    assert "or all of its 2 files: --include '*/dev/*'" in told
    assert names(find(f"all={tmp_path}/mmlu", include=("*/dev/*",))) == [
        ["algebra/dev/0000.parquet", "anatomy/dev/0000.parquet"]
    ]
