"""`documents=True`: whatever knows the borders of documents, in every loader, through all that trainers do."""

from __future__ import annotations

import copy
import json
import math
import pickle
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Tilt
from selections import buckets, keep
from torch.nn import functional
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.loader.document_collate import DocumentCollate
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion
from tests.mixstream.packings import PAD, numbered, pack, write_documents
from tests.mixstream.tiny_lm import HEADS, WIDTH, WORDS, TinyLM

EOS, SEQ_LEN = 256, 24
NAMES = ("position_ids", "document_ids", "labels", "cu_seqlens", "max_seqlen")
PAIR = Path(__file__).parents[2] / "data/megatron/ag_news_prompt_inputs_document"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A dataset of packed rows in several parts, with a sidecar."""
    top = tmp_path_factory.mktemp("documents")
    lines = [json.dumps({"text": "x" * (at * 13 % 50 + 1)}) for at in range(150)]
    (top / "web.jsonl").write_text("\n".join(lines))
    made = Recipe(tokenizer=describe_tokenizer("bytes"), seq_len=SEQ_LEN, fields=Fields(text="text"), part_bytes=1000)
    run_conversion([str(top / "web.jsonl")], out=top / "out", recipe=made)
    return top / "out/web/train"


def changed_index(source: Path, out: Path, **about: Any) -> Path:
    """Copy a dataset, with other entries of mixstream in its index; None takes one away."""
    shutil.copytree(source, out)
    index = json.loads((out / "index.json").read_bytes())
    index["mixstream"] = {k: v for k, v in (index["mixstream"] | about).items() if v is not None}
    index.pop("mixstream_hashes", None)  # as for one that was edited on purpose
    (out / "index.json").write_text(json.dumps(index))
    return out


def write(out: Path, rows: Any, *, column: str = "tokens", **more: Any) -> Path:
    rows = np.asarray(rows, dtype=np.uint16)
    columns = {column: f"ndarray:uint16:{rows.shape[1]}", **dict.fromkeys(more, f"ndarray:uint8:{rows.shape[1]}")}
    with ms.MDSWriter(columns=columns, out=str(out), size_limit=400) as writer:
        for i, row in enumerate(rows):
            writer.write({column: row, **{name: np.asarray(values[i], np.uint8) for name, values in more.items()}})
    return out


def dataset_of(
    *places: Path, batch_size: int = 4, each: dict[str, Any] | None = None, **kw: Any
) -> ms.StreamingDataset:
    streams = [ms.Stream(local=str(place), name=f"d{n}", **(each or {})) for n, place in enumerate(places)]
    return ms.StreamingDataset(**{"streams": streams, "batch_size": batch_size, "shuffle": True, **kw})


def expected(tokens: torch.Tensor, *, shifted: bool = False, eos: int = EOS) -> dict[str, Any]:
    """The columns by the end tokens, row by row."""
    found: dict[str, Any] = {"position_ids": [], "document_ids": [], "labels": [], "cu_seqlens": [0]}
    lengths = []
    for row in tokens.tolist():
        parts: list[list[int]] = [[]]
        for token in row:
            parts[-1].append(token)
            if token == eos:
                parts.append([])
        parts = [part for part in parts if part]
        lengths += map(len, parts)
        found["position_ids"].append([t for part in parts for t in range(len(part))])
        found["document_ids"].append([n for n, part in enumerate(parts) for _ in part])
        labels = [[*part[1:], -100] if shifted else [-100, *part[1:]] for part in parts]
        found["labels"].append([label for part in labels for label in part])
    return found | {"cu_seqlens": [0, *np.cumsum(lengths).tolist()], "max_seqlen": max(lengths)}


def columns(batch: Any) -> dict[str, Any]:
    return {name: batch[name].tolist() if isinstance(batch[name], torch.Tensor) else batch[name] for name in NAMES}


def same(one: Any, other: Any) -> None:
    assert {*map(str, one)} == {*map(str, other)}
    for name, value in dict.items(one):
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


# --- what knows the borders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["sidecar", "end token", "given end token"])
def test_borders_from_all_that_knows_them(converted, tmp_path, known):
    about = {"sidecar": {"tokenizer": None}, "end token": {"documents_files": None}}
    nothing = {"tokenizer": None, "documents_files": None}
    place = changed_index(converted, tmp_path / "copy", **about.get(known, nothing))
    each = {"eos_id": EOS} if known == "given end token" else {}
    with ms.Loader(dataset_of(place, each=each), documents=True) as loader:
        for batch in loader:
            assert columns(batch) == expected(batch["tokens"])
            assert batch["cu_seqlens"].dtype == batch["document_ids"].dtype == torch.int32
            assert batch["position_ids"].dtype == batch["labels"].dtype == torch.int64


def test_documents_do_not_change_the_run(converted):
    with ms.Loader(dataset_of(converted)) as plain, ms.Loader(dataset_of(converted), documents=True) as marked:
        for one, other in zip(plain, marked, strict=True):
            assert torch.equal(one["tokens"], other["tokens"])
            assert one.step == other.step
        assert plain.state_dict() == marked.state_dict()


@pytest.mark.parametrize("how", ["selection", "buckets"])
def test_borders_of_rows_that_a_view_chooses(converted, tmp_path, monkeypatch, how):
    """Stored rows keep their borders, whichever of them count, and in whichever bucket."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = len(ms.StreamingDataset(local=str(converted), batch_size=1))
    if how == "selection":
        keep(tmp_path / "kept", converted, np.arange(rows) % 3 == 1, domain="d0")
        each = {"selection": tmp_path / "kept"}
    else:
        buckets(tmp_path / "kept", converted, np.arange(rows) % 3, ["x", "y", "z"], domain="d0")
        each = {"split_by": tmp_path / "kept"}
    about = changed_index(converted, tmp_path / "copy", tokenizer=None)
    with ms.Loader(dataset_of(about, each=each), documents=True) as loader:
        assert len(loader.weights) == (3 if how == "buckets" else 1)
        for batch in loader:
            assert columns(batch) == expected(batch["tokens"])


def test_a_dataset_in_a_store_through_a_tight_cache(converted, tmp_path, monkeypatch):
    """Borders are fetched once; a forked worker reads the file that its parent has made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = changed_index(converted, tmp_path / "store", tokenizer=None)
    index = (store / "index.json").stat().st_size
    stream = ms.Stream(remote=str(store), local=str(tmp_path / "cache"), name="d0")
    for make, options in ((ms.Loader, {}), (ms.StreamingDataLoader, {"num_workers": 1})):
        limit = index + 3 * max(shard.raw.bytes for shard in stream.open(allow_unsafe_types=False).shards)
        given = {"batch_size": 4, "shuffle": True, "shuffle_algo": "py1s", "cache_limit": limit}
        dataset = ms.StreamingDataset(streams=[stream], **given)
        loader = make(dataset, documents=True, **options)
        for batch in islice(loader, 5):
            assert columns(batch) == expected(batch["tokens"])
    assert len([*tmp_path.rglob("borders")]) == 1


def test_borders_of_a_sidecar_are_written_once(converted, tmp_path, monkeypatch):
    """A killed process leaves nothing that is trusted; a damaged file is made anew."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    masks = DocumentCollate(dataset_of(converted)).masks
    (file,) = tmp_path.rglob("borders")
    before = file.stat().st_mtime_ns
    assert DocumentCollate(dataset_of(converted)).masks.known[0] is not masks.known[0]
    assert file.stat().st_mtime_ns == before
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    file.with_name("borders.partial").write_bytes(b"killed")
    DocumentCollate(dataset_of(converted))
    assert file.read_bytes() == whole


def test_a_sidecar_of_other_rows_is_refused(converted, tmp_path):
    files = json.loads((converted / "index.json").read_bytes())["mixstream"]["documents_files"]
    other = changed_index(converted, tmp_path / "other", seq_len=12)
    with pytest.raises(ConfigError, match=r"its documents are those of \d+ rows of 12 tokens, .* has \d+ rows of 24"):
        ms.Loader(dataset_of(other), documents=True)
    twice = copy.deepcopy(files)
    twice[1]["basename"], twice[1]["bytes"] = twice[0]["basename"], twice[0]["bytes"]
    twice[1]["hashes"], twice[1]["lines"] = twice[0]["hashes"], twice[0]["lines"]
    swapped = changed_index(converted, tmp_path / "swapped", documents_files=twice)
    with pytest.raises(ShardCorruptError, match="its documents do not follow each other in row"):
        ms.Loader(dataset_of(swapped), documents=True)


@pytest.mark.parametrize("overlap", [0, 1])
def test_token_files_mix_with_stored_rows(tmp_path, overlap):
    """Megatron's own pair, whose documents end where its index says, beside rows with an end token, in one batch."""
    index = PAIR.with_suffix(".idx").read_bytes()
    count = int.from_bytes(index[18:26], "little")
    length_N = np.frombuffer(index, "<i4", count, 34)
    tokens = np.fromfile(PAIR.with_suffix(".bin"), "<i4")
    owner = np.repeat(np.arange(count), length_N)
    size = 32 + overlap
    first = {tuple(tokens[at : at + size].tolist()): at for at in range(0, len(tokens) - size + 1, 32)}
    other = write(tmp_path / "mds", np.full((60, size), 7))
    streams = [
        ms.Stream(remote=str(PAIR.with_suffix(".idx")), seq_len=32, overlap=overlap, name="pair"),
        ms.Stream(local=str(other), eos_id=7, name="mds"),
    ]
    dataset = ms.StreamingDataset(streams=streams, batch_size=8, shuffle=True)
    seen = set()
    with ms.Loader(dataset, documents=True) as loader:
        for batch in loader:
            for row in range(8):
                seen.add(int(batch["domain"][row]))
                if batch["domain"][row]:
                    assert batch["document_ids"][row].tolist() == [0] + [-1] * (size - 1)
                    continue
                at = first[tuple(batch["tokens"][row].tolist())]
                mine = owner[at : at + size]
                assert batch["document_ids"][row].tolist() == np.unique(mine, return_inverse=True)[1].tolist()
                begins = [t for t in range(size) if not t or mine[t] != mine[t - 1]]
                assert torch.nonzero(batch["position_ids"][row] == 0).flatten().tolist() == begins
    assert seen == {0, 1}


@pytest.mark.parametrize("algorithm", ["best-fit", "first-fit", "concat"])
def test_packed_rows_know_their_documents(tmp_path, algorithm):
    """Each token is another one, so the borders follow from the tokens; documents that are cut begin anew."""
    length_N = [5, 40, 1, 17, 9, 33, 2, 2, 64, 11, 8, 3] * 3
    place = write_documents(tmp_path / "web", numbered(length_N))
    owner = np.repeat(np.arange(len(length_N)), length_N)
    pack(tmp_path / "packed", place, algorithm=algorithm)
    stream = ms.Stream(local=str(place), packing=str(tmp_path / "packed"), name="web")
    dataset = ms.StreamingDataset(streams=[stream], batch_size=2, shuffle=True, drop_last=True)
    padding = 0
    with ms.Loader(dataset, documents=True) as loader:
        for batch in loader:
            for row, numbers, positions in zip(*(batch[n].tolist() for n in ("tokens", *NAMES[1::-1]))):
                real = [token for token in row if token != PAD]
                padding += len(row) - len(real)
                assert numbers[len(real) :] == [-1] * (len(row) - len(real))
                before = [-9, *real[:-1]]
                changes = [t for t, (x, y) in enumerate(zip(before, real)) if y != x + 1 or owner[x] != owner[y]]
                begins = [t for t, position in enumerate(positions[: len(real)]) if not position]
                assert begins == changes
    assert bool(padding) == (algorithm != "concat")


def test_rows_that_are_cut_anew_know_the_documents_of_a_sidecar(converted):
    stream = ms.Stream(local=str(converted), packing="concat", seq_len=40, name="d0")
    dataset = ms.StreamingDataset(streams=[stream], batch_size=4, shuffle=True)
    with ms.Loader(dataset, documents=True) as loader:
        for batch in loader:
            assert batch["tokens"].shape == (4, 40)
            assert columns(batch) == expected(batch["tokens"])


def test_columns_of_token_lists_know_their_documents(tmp_path):
    """Rows over lists of token ids in Parquet, beside the same lists read as documents by the same numbers."""
    arrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    lists, at = [], 0
    for length in [5, 0, 40, 1, 17, 9, 33, 2] * 4:
        lists.append(list(range(at, at + length)))
        at += length
    owner = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
    table = arrow.table({"input_ids": arrow.array(lists, arrow.list_(arrow.int32()))})
    (tmp_path / "web").mkdir()
    parquet.write_table(table, tmp_path / "web/part-0.parquet", row_group_size=10)
    stream = ms.Stream(remote=str(tmp_path / "web"), seq_len=16, name="web")
    dataset = ms.StreamingDataset(streams=[stream], batch_size=4, shuffle=True, drop_last=True)
    with ms.Loader(dataset, documents=True) as loader:
        for batch in loader:
            for tokens, numbers in zip(batch["tokens"].tolist(), batch["document_ids"].tolist()):
                assert numbers == np.unique(owner[tokens], return_inverse=True)[1].tolist()


def test_documents_that_a_token_begins(tmp_path):
    """As in the files of llm.c: the first row begins within a document, which begins anew there."""
    place = write(tmp_path / "mds", [[5, 6, 1, 7, 8], [1, 4, 4, 1, 1]])
    dataset = dataset_of(place, batch_size=2, each={"bos_id": 1}, shuffle=False)
    with ms.Loader(dataset, documents=True) as loader:
        batch = next(iter(loader))
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 0]]
    assert batch["cu_seqlens"].tolist() == [0, 2, 5, 8, 9, 10]


def test_padding_predicts_nothing_and_covers_the_row(tmp_path):
    place = write(tmp_path / "mds", [[5, 9, 9, 9, 9], [4, 4, 4, 4, 9]])
    with ms.Loader(dataset_of(place, batch_size=2, each={"eos_id": 9}, shuffle=False), documents=True) as loader:
        batch = next(iter(loader))
    assert batch["document_ids"].tolist() == [[0, 0, -1, -1, -1], [0, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 9, -100, -100, -100], [-100, 4, 4, 4, 9]]
    assert batch["cu_seqlens"].tolist() == [0, 2, 5, 10]


@pytest.mark.parametrize("labels", ["unshifted", "shifted"])
def test_tokens_that_a_chat_masks_are_not_predicted(tmp_path, labels):
    rows, mask = np.arange(1, 13).reshape(2, 6), np.array([[1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]])
    place = write(tmp_path / "mds", rows, loss_mask=mask)
    dataset = dataset_of(place, batch_size=2, each={"eos_id": 9}, shuffle=False)
    with ms.Loader(dataset, documents=True, labels=labels) as loader:
        batch = next(iter(loader))
    unshifted = torch.tensor([[-100, -100, 3, 4, -100, -100], [-100, -100, -100, -100, 11, 12]])
    shifted = functional.pad(unshifted[:, 1:], (0, 1), value=-100)
    assert torch.equal(batch["labels"], unshifted if labels == "unshifted" else shifted)


# --- the loaders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [None, "shifted"])
def test_every_loader_gives_the_same_batches(converted, labels):
    with ms.Loader(dataset_of(converted), documents=True, labels=labels) as loader:
        batches = list(loader)
    assert columns(batches[0]) == expected(batches[0]["tokens"], shifted=labels == "shifted")
    marking = ms.StreamingDataLoader(dataset_of(converted), documents=True, labels=labels)
    for one, other in zip(batches, marking, strict=True):
        same(one, other)
        assert other.segments.ends_D1.tolist() == other["cu_seqlens"].tolist()
    dataset = dataset_of(converted)
    collate = pickle.loads(pickle.dumps(DocumentCollate(dataset, labels=labels)))  # as in a worker that is spawned
    for one, other in zip(batches, DataLoader(dataset, batch_size=4, collate_fn=collate), strict=True):
        del one["domain"]
        same(one, other)


def test_workers_mark_the_rows_that_they_read(converted):
    """Also where a bad sample has another in its place: the borders are that one's."""
    dataset = dataset_of(converted, on_bad_sample="quarantine")
    dataset.run.quarantine.add([(0, 1), (0, 2), (1, 0)])
    with ms.Loader(dataset_of(converted)) as plain:
        before = [batch["tokens"] for batch in plain]
    found = list(ms.StreamingDataLoader(dataset, documents=True, num_workers=1))
    assert any(not torch.equal(one, batch["tokens"]) for one, batch in zip(before, found, strict=True))
    for batch in found:
        assert columns(batch) == expected(batch["tokens"])


def test_validation_rows_are_marked_as_training_rows(converted):
    with ms.Loader(dataset_of(converted), documents=True, labels="shifted") as loader:
        streams = [ms.Stream(local=str(converted), name="d0")]
        with loader.validation(streams=streams, rows=8) as rows:
            for batch in rows:
                assert columns(batch) == expected(batch["tokens"], shifted=True)
        with loader.validation(streams=streams, rows=8, documents=False, labels=None) as rows:
            assert "labels" not in next(iter(rows))


def test_a_collate_fn_may_pad_documents(tmp_path):
    """Rows of any length: what it puts behind them is padding, and other tokens are refused."""
    with ms.MDSWriter(columns={"tokens": "ndarray:uint16"}, out=str(tmp_path / "mds")) as writer:
        for length in (3, 5, 2, 6):
            writer.write({"tokens": np.arange(1, length + 1, dtype=np.uint16)})

    def pad(samples: list[Any], *, left: bool = False) -> Any:
        size = max(len(sample["tokens"]) for sample in samples)
        empty = [np.zeros(size - len(sample["tokens"]), int) for sample in samples]
        rows = [(zero, s["tokens"])[:: 1 if left else -1] for zero, s in zip(empty, samples)]
        return {"tokens": torch.from_numpy(np.stack([np.concatenate(row).astype(np.int64) for row in rows]))}

    def dataset() -> Any:
        return dataset_of(tmp_path / "mds", each={"eos_id": 99}, shuffle=False)

    with ms.Loader(dataset(), collate_fn=pad, documents=True) as loader:
        batch = next(iter(loader))
    same(batch, next(iter(ms.StreamingDataLoader(dataset(), collate_fn=pad, documents=True))))
    assert batch["document_ids"].tolist() == [[0] * n + [-1] * (6 - n) for n in (3, 5, 2, 6)]
    assert batch["labels"][0].tolist() == [-100, 2, 3, -100, -100, -100]
    assert batch["cu_seqlens"].tolist() == [0, 3, 6, 11, 12, 14, 18, 24]
    with pytest.raises(ConfigError, match="rows of 'tokens' that collate_fn returned are others"):
        next(iter(ms.Loader(dataset(), collate_fn=lambda samples: pad(samples, left=True), documents=True)))
    with pytest.raises(ConfigError, match="returned a list: return a dict"):
        next(iter(ms.Loader(dataset(), collate_fn=list, documents=True)))


class Own(ms.StreamingDataset):
    def __getitem__(self, at: Any) -> Any:
        return {"tokens": super().__getitem__(at)["tokens"][::-1].copy()}


def test_what_is_refused(converted, tmp_path):
    nothing = changed_index(converted, tmp_path / "nothing", tokenizer=None, documents_files=None)
    with pytest.raises(ConfigError, match=r"nothing says where documents begin in the rows of domain 'd0'.* eos_id="):
        ms.Loader(dataset_of(nothing), documents=True)
    for make in (ms.Loader, ms.StreamingDataLoader):
        with pytest.raises(ConfigError, match=r"labels='shifted' .* give documents=True"):
            make(dataset_of(converted), labels="shifted")
        with pytest.raises(ConfigError, match="labels='next' is not known: give 'unshifted'"):
            make(dataset_of(converted), documents=True, labels="next")
        own = Own(local=str(converted), batch_size=4)
        with pytest.raises(ConfigError, match="Own overrides __getitem__, which may return other tokens"):
            make(own, documents=True)
    with pytest.raises(ConfigError, match="needs a StreamingDataset"):
        ms.StreamingDataLoader([1, 2], documents=True)  # type: ignore[arg-type]
    bare = write(tmp_path / "bare", [[1, 2]] * 4)
    for option in ("eos_id", "bos_id"):
        with pytest.raises(ConfigError, match=rf"{option}=70000 does not fit its tokens, which are uint16"):
            ms.Loader(dataset_of(bare, each={option: 70000}), documents=True)
    labelled = write(tmp_path / "labelled", [[1, 2]] * 4, labels=[[1, 2]] * 4)
    with pytest.raises(ConfigError, match=r"rows have \['labels'\] already"):
        next(iter(ms.Loader(dataset_of(labelled, each={"eos_id": 1}), documents=True)))
    other = write(tmp_path / "other", [[1, 2]] * 4, column="ids")
    with pytest.raises(ConfigError, match=r"column 'tokens' .* rows have the columns \['ids'\]"):
        next(iter(ms.Loader(dataset_of(other, each={"eos_id": 1}), documents=True)))


# --- what trainers do to batches ------------------------------------------------------------------------------------


def test_parts_have_segments_of_their_own(converted):
    with ms.Loader(dataset_of(converted, batch_size=6), documents=True) as loader:
        batch = next(iter(loader))
    for parts in (1, 3, 4, 6):
        for part in batch.split(parts):
            assert columns(part) == expected(part["tokens"])
            assert part.segments.ends_D1.tolist() == part["cu_seqlens"].tolist()
            assert columns(part.split(1)[0]) == columns(part)


def test_batches_that_were_moved_are_still_cut_rightly(converted):
    """Through dicts and tree maps, and pickled."""
    with ms.Loader(dataset_of(converted), documents=True) as loader:
        batch = next(iter(loader))
    tree = torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.clone(), batch)
    rebuilt = ms.Batch(dict(batch.items()))
    for moved in (tree, rebuilt, batch.to("cpu"), batch | {"more": torch.zeros(4)}, pickle.loads(pickle.dumps(batch))):
        assert [columns(part) for part in moved.split(2)] == [columns(part) for part in batch.split(2)]


def test_parts_of_joined_rows_are_refused(converted):
    def joined(batch: ms.Batch) -> ms.Batch:
        return ms.Batch({"input_ids": batch["tokens"].reshape(1, -1), "cu_seqlens": batch["cu_seqlens"]})

    with ms.Loader(dataset_of(converted), documents=True, transforms=[joined]) as loader:
        batch = next(iter(loader))
    with pytest.raises(ConfigError, match=r"column 'input_ids' has 1 rows and the batch has 4.* split the batch first"):
        batch.split(2)


def test_segments_over_several_rows_are_not_cut(converted):
    def merged(batch: ms.Batch) -> ms.Batch:
        return ms.Batch({**batch, "cu_seqlens": torch.tensor([0, 5, batch["tokens"].numel()], dtype=torch.int32)})

    with ms.Loader(dataset_of(converted), documents=True, transforms=[merged]) as loader:
        batch = next(iter(loader))
    with pytest.raises(ConfigError, match="segment that goes on from row"):
        batch.split(2)


# --- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["unshifted", "shifted"])
@pytest.mark.parametrize("shape", ["rows", "joined"])
def test_only_predicted_tokens_count_in_losses(converted, tmp_path, labels, shape):
    """Each loss is 2 where a token is predicted and 0 elsewhere, as cross_entropy gives it; so the mean is 2."""
    options = {"documents": True, "labels": labels, "log": tmp_path / "log"}
    with ms.Loader(dataset_of(converted, mixer=Tilt(), lag=4), prefetch=0, **options) as loader:
        for batch in loader:
            parts = batch.split(2)
            for part in parts:
                targets = part["labels"] if labels == "shifted" else part["labels"][:, 1:]
                if shape == "joined":
                    targets = part["labels"].reshape(1, -1)
                    targets = targets if labels == "shifted" else targets[:, 1:]
                loader.report(part, torch.where(targets == -100, 0.0, 2.0))
            if batch.step == 3:
                break
    logged = [json.loads(line) for line in next((tmp_path / "log").rglob("*.jsonl")).read_text().splitlines()]
    found = [line["loss"] for line in logged if line.get("loss")]
    assert found, "losses were logged"
    assert all(value == 2.0 for entry in found for value in (entry.values() if isinstance(entry, dict) else entry))


def test_transforms_that_cut_rows_leave_segments_of_their_own(converted):
    """As the usual shift: with `cu_seqlens` of longer rows, attention would read beyond them."""

    def shift(batch: ms.Batch) -> ms.Batch:
        batch["input_ids"], batch["labels"] = batch.pop("tokens")[:, :-1], batch["labels"][:, 1:]
        return batch

    def without(batch: ms.Batch) -> ms.Batch:
        del batch["cu_seqlens"], batch["max_seqlen"]
        return shift(batch)

    with pytest.raises(ConfigError, match=r"'input_ids' has the shape \[4, 23\], and cu_seqlens ends at 96"):
        next(iter(ms.Loader(dataset_of(converted), documents=True, transforms=[shift])))
    with ms.Loader(dataset_of(converted), documents=True, transforms=[without]) as loader:
        batch = next(iter(loader))
    _, mask = ms.losses.labelled(batch, torch.ones(4, SEQ_LEN - 1), None)
    assert torch.equal(mask, batch["labels"] != -100)


def test_a_mask_that_is_given_counts(converted):
    with ms.Loader(dataset_of(converted), documents=True) as loader:
        batch = next(iter(loader))
    loss, mask = ms.losses.labelled(batch, torch.ones(1, 4 * SEQ_LEN - 1), torch.ones(1, 4 * SEQ_LEN - 1))
    assert loss.shape == mask.shape == (4, SEQ_LEN)
    assert mask.sum() == 4 * SEQ_LEN - 1
    per_row = torch.ones(4)
    assert ms.losses.labelled(batch, per_row, None) == (per_row, None)


# --- attention ------------------------------------------------------------------------------------------------------


class IsolatedLM(TinyLM):
    """A `TinyLM` whose tokens attend to earlier ones of their document."""

    def forward(self, tokens_BT: Any, position_BT: Any, document_BT: Any) -> Any:  # type: ignore[override]
        x = self.words(tokens_BT) + self.places(position_BT)
        q, k, v = self.qkv(self.before_attention(x)).unflatten(-1, (3, HEADS, -1)).movedim(-3, 0).transpose(-2, -3)
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        length = tokens_BT.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril() & (document_BT[:, :, None] == document_BT[:, None])
        x = x + self.out((scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1) @ v).transpose(-2, -3).flatten(-2))
        x = x + self.down(functional.gelu(self.up(self.before_mlp(x))))
        return self.head(self.last(x))


@pytest.mark.parametrize("joined", [False, True])
def test_a_document_in_a_row_has_the_loss_of_the_document_alone(tmp_path, joined):
    """With the mask that `document_ids` (of rows) or `cu_seqlens` (of joined rows) make, and `position_ids`."""
    generator = np.random.default_rng(1)
    rows = generator.integers(1, WORDS, (8, 32))
    rows[generator.random(rows.shape) < 0.2] = 0
    place = write(tmp_path / "mds", rows)
    torch.manual_seed(0)
    model, plain = IsolatedLM().eval(), TinyLM().eval()
    plain.load_state_dict(model.state_dict())
    with ms.Loader(dataset_of(place, each={"eos_id": 0}), documents=True) as loader, torch.no_grad():
        batch = next(iter(loader))
        tokens, positions, labels = batch["tokens"], batch["position_ids"], batch["labels"]
        if joined:
            ends = batch["cu_seqlens"].long()
            documents = torch.repeat_interleave(torch.arange(len(ends) - 1), ends.diff())[None]
            tokens, positions, labels = (column.reshape(1, -1) for column in (tokens, positions, labels))
        else:
            documents = batch["document_ids"]
        logits = model(tokens, positions, documents)
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        loss = functional.pad(loss.reshape(len(tokens), -1), (1, 0)).reshape(-1)
        for begin, end in zip(batch["cu_seqlens"][:-1].tolist(), batch["cu_seqlens"][1:].tolist()):
            alone = batch["tokens"].reshape(-1)[None, begin:end]
            if end - begin > 1 and batch["document_ids"].reshape(-1)[begin] >= 0:
                of_alone = functional.cross_entropy(plain(alone)[0, :-1], alone[0, 1:], reduction="none")
                torch.testing.assert_close(loss[begin + 1 : end], of_alone, atol=1e-5, rtol=1e-5)
            assert loss[begin] == 0
