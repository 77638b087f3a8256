"""Datasets of shards as sources: the samples of others' and of our own writers, and documents out of tokens."""

import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.formats import INDEX_HASHES, decode_sample, decompress, parse_index, read_offsets
from mixstream_tools.convert import Recipe, describe_tokenizer, run_conversion
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.choice import Choice
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.sources.sources import find_sources
from mixstream_tools.convert.tokens.from_tokenizer import FromTokenizer

MOSAIC = Path(__file__).parents[3] / "data" / "mosaic"
SLICES = [1, 3, 17]
TEXTS = [f"document {at}: " + "ä word or two, 🙂 " * (at % 9) for at in range(120)]


def text_dataset(out: Path, writer=ms.MDSWriter, **options) -> Path:
    columns = {"text": "str", "id": "int", "source": "str"}
    with writer(out=str(out), columns=columns, size_limit=2000, **options) as shards:
        for at, text in enumerate(TEXTS):
            shards.write({"text": text, "id": at, "source": f"s{at % 3}"})
    return out


@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("compression", [None, "zstd:3"])
def test_samples_with_a_column_of_text(tmp_path, read, slices, compression):
    source = text_dataset(tmp_path / "d", compression=compression, hashes=["xxh3_64"])
    found = read(source, Fields(text="text", id="id", domain="source", keep=("source",)), slices=slices)
    assert (found.formats, found.documents) == ({"mds"}, TEXTS)
    assert [(*each,)[:3] for each in found.origins] == [(at, str(at), (f"s{at % 3}",)) for at in range(len(TEXTS))]
    assert found.domains == [f"s{at % 3}" for at in range(len(TEXTS))]


@pytest.mark.parametrize("writer", [ms.JSONWriter, ms.CSVWriter, ms.TSVWriter])
@pytest.mark.parametrize("slices", [1, 7])
def test_shards_of_lines(tmp_path, read, writer, slices):
    texts = [text.replace(",", ";") for text in TEXTS]
    with writer(out=str(tmp_path / "d"), columns={"text": "str", "n": "int"}, size_limit=2000) as shards:
        for at, text in enumerate(texts):
            shards.write({"text": text, "n": at})
    assert read(tmp_path / "d", Fields(text="text", id="n"), slices=slices).documents == texts


@pytest.mark.parametrize("name", ["documents_gz", "documents_zstd", "documents_bz2"])
def test_what_mosaicml_streaming_wrote(read, name):
    index = parse_index((MOSAIC / name / "index.json").read_bytes(), where=name)
    column = next(key for key, kind in index.shards[0].columns.items() if kind == "str")
    expected: list[str] = []
    for info in index.shards:
        packed = (MOSAIC / name / info.zip.basename).read_bytes()
        raw = decompress(info.compression, packed, raw_bytes=info.raw.bytes)
        begins = read_offsets(raw, info, where=name)
        expected += [decode_sample(raw[a:b], info, where=name)[column] for a, b in pairwise(begins)]
    found = read(MOSAIC / name, Fields(text=column), slices=3)
    assert found.documents == [text for text in expected if text] != []


def convert(source: Path, out: Path, **recipe) -> Path:
    given = {"seq_len": 7, "part_bytes": 3000, **recipe}
    made = Recipe(tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text", id="id", keep=("lang",)), **given)
    run_conversion([f"web={source}"], out=out, recipe=made)
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A conversion in several parts."""
    place = tmp_path_factory.mktemp("corpus")
    lines = [{"text": text, "id": f"i{at}", "lang": "de"} for at, text in enumerate(TEXTS)]
    for name, some in (("a", lines[:50]), ("b", lines[50:])):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))
    convert(place, place.parent / "out")
    return place.parent / "out"


@pytest.mark.parametrize(("below", "slices"), [("", 1), ("web", 3), ("web/train", 17)])
def test_tokens_become_the_documents_that_they_were(corpus, read, below, slices):
    parts = {path.name for path in (corpus / "web/train").iterdir() if path.name.startswith("part-")}
    assert len(parts) > 3
    found = read(corpus / below, Fields(text="text", id="id", keep=("lang", "file", "record")), slices=slices)
    expected = {f"i{at}": text for at, text in enumerate(TEXTS)}
    whole = {each.id: text for each, text in zip(found.origins, found.documents)}
    assert len(whole) == len(found.documents) == len(TEXTS) - 1  # of the last one, some tokens filled no row
    assert whole.items() <= expected.items()
    assert {*found.domains} == {"web"}
    assert found.left_out == {"documents whose last tokens were dropped": 1}
    assert found.origins[3].kept == ("de", "a.jsonl", 3)


@pytest.mark.parametrize("slices", SLICES)
def test_without_a_sidecar_documents_are_cut_where_they_end(corpus, tmp_path, read, slices):
    """What goes on in the joined tails is left out and said: it would be put together wrongly."""
    shutil.copytree(corpus / "web", tmp_path / "web", ignore=shutil.ignore_patterns("documents"))
    path = tmp_path / "web/train/index.json"
    index = json.loads(path.read_bytes())
    del index["mixstream"]["documents_files"]
    index.pop(INDEX_HASHES, None)
    path.write_text(json.dumps(index))
    found = read(tmp_path / "web", slices=slices)
    assert {*found.documents} <= {*TEXTS}
    assert len({*found.documents}) == len(found.documents)
    parts = {shard["raw_data"]["basename"].partition("/")[0] for shard in index["shards"]}
    tail_rows = sum(shard["samples"] for shard in index["shards"] if "part-tail" in shard["raw_data"]["basename"])
    assert found.left_out["rows of joined tails, whose documents begin elsewhere"] == tail_rows
    cut = found.left_out["ends of token streams without an end-of-document token"]
    assert 0 < cut < len(parts)
    assert len(TEXTS) - len(found.documents) >= cut
    numbers = [each.record for each in found.origins]
    assert numbers == sorted({*numbers})


def test_rows_of_documents_are_documents(tmp_path, read):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text, "id": text[:12]}) + "\n" for text in TEXTS))
    convert(tmp_path / "a.jsonl", tmp_path / "out", rows="documents")
    for slices in (1, 5):
        assert read(tmp_path / "out", slices=slices).documents == TEXTS


def foreign_tokens(out: Path, texts, *, dtype="uint16", eos=256, seq_len=64) -> Path:
    """A dataset of tokens that says nothing of its tokenizer."""
    ids = np.concatenate([np.r_[np.frombuffer(text.encode(), np.uint8).astype(dtype), eos] for text in texts])
    with ms.MDSWriter(out=str(out), columns={"tokens": f"ndarray:{dtype}:{seq_len}"}, size_limit=1 << 13) as shards:
        for row in ids[: len(ids) // seq_len * seq_len].reshape(-1, seq_len):
            shards.write({"tokens": row.astype(dtype)})
    return out


@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_tokens_of_another_program_need_their_tokenizer(tmp_path, read, slices, dtype):
    source = foreign_tokens(tmp_path / "d", [*TEXTS, "x" * 500, ""], dtype=dtype)
    with pytest.raises(
        ConfigError, match="does not say which tokenizer made its tokens: give that tokenizer with --from-"
    ):
        read(source)
    found = read(source, slices=slices, choice=Choice(decoder=FromTokenizer.find("bytes")))
    assert found.documents == [*TEXTS, "x" * 500][: len(found.documents)]
    assert len(found.documents) >= len(TEXTS)


def test_tokens_that_are_no_text_are_bad(tmp_path, read):
    source = foreign_tokens(tmp_path / "d", ["good \ufffd", "x" * 200], eos=256)
    with ms.MDSWriter(out=str(tmp_path / "e"), columns={"tokens": "ndarray:uint16:4"}) as shards:
        for row in ([65, 66, 256, 0xC3], [256, 67, 256, 68], [256, 9, 9, 256]):
            shards.write({"tokens": np.array(row, np.uint16)})
    choice = Choice(decoder=FromTokenizer.find("bytes"))
    assert read(source, choice=choice).documents[0] == "good \ufffd"
    found = read(tmp_path / "e", choice=choice, skip=True)
    assert found.documents == ["AB", "C", "D", "\t\t"]
    assert "document 3: its tokens are no text" in found.bad[0]


def test_another_tokenizer_than_the_dataset_names_is_refused(corpus, tmp_path, read):
    index = json.loads((corpus / "web/train/index.json").read_bytes())
    shutil.copytree(corpus / "web/train", tmp_path / "d")
    index["mixstream"]["tokenizer"] |= {"name": "llama", "hash": hashlib.sha256(b"x").hexdigest()}
    index.pop(INDEX_HASHES, None)
    (tmp_path / "d/index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="was tokenised with 'llama': give that tokenizer with --from-tokenizer"):
        read(tmp_path / "d")
    with pytest.raises(ConfigError, match=r"was made with 'llama'.*so its text would be wrong"):
        read(tmp_path / "d", choice=Choice(decoder=FromTokenizer.find("bytes")))


def test_a_damaged_or_missing_shard_is_named_with_what_is_lost(tmp_path, read):
    source = text_dataset(tmp_path / "d", hashes=["sha1"])
    shards = sorted(source.glob("*.mds"))
    data = bytearray(shards[1].read_bytes())
    data[-1] ^= 1
    shards[1].write_bytes(data)
    shards[2].unlink()
    with pytest.raises((SourceError, ConfigError), match=r"shard.00001.mds: .*its sha1 is not that in the index"):
        read(source)
    found = read(source, skip=True)
    assert len(found.bad) == 2
    lost = sum(int(each.rpartition("its ")[2].split()[0]) for each in found.bad)
    assert len(found.documents) == len(TEXTS) - lost
    assert [text for text in TEXTS if text in {*found.documents}] == found.documents


def test_pickles_are_never_loaded(tmp_path, read):
    with ms.MDSWriter(out=str(tmp_path / "d"), columns={"text": "str", "bad": "pkl", "raw": "bytes"}) as shards:
        shards.write({"text": "x", "bad": {"a": 1}, "raw": b"y"})
    assert read(tmp_path / "d").documents == ["x"]
    with pytest.raises((SourceError, ConfigError), match=r"no field 'bad'; the document has 'text'"):
        read(tmp_path / "d", Fields(text="bad"))


def listed(source: Path, **choice) -> dict[str, list[str]]:
    found = find_sources([str(source)], out=Path("/no/such"), choice=Choice(**choice), by_key=False)
    return {group.name: [file.name for file in group.files] for group in found.groups}


def test_splits_are_not_mixed_and_domains_keep_their_names(tmp_path):
    (tmp_path / "src/C~23").mkdir(parents=True)
    (tmp_path / "src/C~23/a.jsonl").write_text("".join(json.dumps({"text": text, "id": text}) + "\n" for text in TEXTS))
    made = Recipe(tokenizer=describe_tokenizer("bytes"), seq_len=16, fields=Fields(text="text"), val_fraction=0.4)
    run_conversion([f"C#={tmp_path}/src/C~23"], out=tmp_path / "out", recipe=made)
    for source in (tmp_path / "out", tmp_path / "out/C~23"):
        with pytest.raises(ConfigError, match="would mix the splits train and val"):
            listed(source)
        assert [*listed(source, exclude=("val/*", "*/val/*"))] == ["C#"]
    assert listed(tmp_path / "out/C~23/val") == {"C#": ["index.json"]}


def test_an_index_is_named_and_not_a_shard(tmp_path):
    source = text_dataset(tmp_path / "d")
    assert listed(source / "index.json", format="mds") == {"d": ["index.json"]}
    with pytest.raises(ConfigError, match=r"no index of a dataset\. Way in: name the dataset's directory"):
        listed(source / "shard.00000.mds", format="mds")


def test_what_is_unfinished_is_refused(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "out")
    (tmp_path / "out/domains.json").unlink()
    with pytest.raises(ConfigError, match="unfinished"):
        listed(tmp_path / "out")
    assert [*listed(tmp_path / "out/web/train")] == ["web"]  # a domain with an index is whole
    (tmp_path / "out/web/train/index.json").unlink()
    with pytest.raises(ConfigError, match="a shard"):
        listed(tmp_path / "out/web")


def test_a_dataset_is_tokenised_again(corpus, tmp_path, convert_json):
    """New rows out of old ones, ids and kept columns with them, and a second run finds all of it there."""
    run = [corpus, "--out", tmp_path / "new", "--seq-len", 48, "--id-key", "id", "--keep", "lang,from=file"]
    status, told, _ = convert_json(*run)
    assert (status, told["domains"]["web"]["train"]["documents"]) == (0, len(TEXTS) - 1)
    assert told["left_out"] == {"documents whose last tokens were dropped": 1}
    assert convert_json(*run)[1]["status"] == "nothing to do"


def test_a_dataset_in_a_store_is_read_there(corpus, read):
    fsspec = pytest.importorskip("fsspec", reason="pip install fsspec")
    memory = fsspec.filesystem("memory")
    for path in sorted(corpus.rglob("*")):
        if path.is_file():
            memory.pipe(f"/convert-mds/{path.relative_to(corpus).as_posix()}", path.read_bytes())
    try:
        for url in ("memory://convert-mds", "memory://convert-mds/web/train"):
            found = read(url, slices=3)
            assert ({*found.domains}, len(found.documents)) == ({"web"}, len(TEXTS) - 1)
            assert {*found.documents} < {*TEXTS}
    finally:
        memory.rm("/convert-mds", recursive=True)


def test_the_tokenizer_that_lies_beside_a_dataset_decodes_it(tmp_path, read):
    """Round trip with BOS, and with end-of-document tokens that texts spell out."""
    tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>", "<s>"], initial_alphabet=alphabet, show_progress=False
    )
    texts = [f"{text}</s>\n" for text in TEXTS]
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    spec = describe_tokenizer(str(tmp_path / "tokenizer.json"), bos="<s>")
    run_conversion(
        [str(tmp_path / "a.jsonl")],
        out=tmp_path / "out",
        recipe=Recipe(tokenizer=spec, seq_len=16, fields=Fields(text="text")),
        workers=1,
    )
    given = Choice(decoder=FromTokenizer.find(str(tmp_path / "tokenizer.json")))
    for choice in (given, Choice()) if (tmp_path / "out/tokenizer").is_dir() else (given,):
        documents = read(tmp_path / "out", choice=choice, slices=2).documents
        assert len(documents) >= len(texts) - 1
        assert documents == texts[: len(documents)]
