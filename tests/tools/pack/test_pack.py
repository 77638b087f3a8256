"""`mixstream pack`: from datasets of every kind to packings that streams read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mixstream as ms
from mixstream.documents import Documents
from mixstream.errors import ConfigError
from mixstream.packing import Packing
from mixstream_tools.cli import main

EOS, PAD = 256, 65_000
TEXTS = {name: [f"{name} {number} " + "word " * (number * 7 % 23) for number in range(60)] for name in ("web", "code")}
pytestmark = pytest.mark.filterwarnings("ignore:packed rows of .* have padding")


@pytest.fixture
def pack(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run `mixstream pack … --json` in this process; returns status, document, stderr."""

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        status = main(["pack", *map(str, arguments), "--json", "--workers", "1"])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two domains, as rows of 64 tokens that keep their documents, and as documents."""
    place = tmp_path_factory.mktemp("corpora")
    made = {}
    for name, texts in TEXTS.items():
        (place / "src").mkdir(exist_ok=True)
        (place / f"src/{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    for kind, options in {"rows": ["--seq-len", "64"], "documents": ["--rows", "documents"]}.items():
        made[kind] = place / kind
        size = ["--size-limit", "4kb", "--tokenizer", "bytes", "--text-key", "text", "--shuffle", "none"]
        sources = [f"{name}={place}/src/{name}.jsonl" for name in TEXTS]
        assert main(["convert", *sources, "--out", str(made[kind]), *options, *size[:4], "--workers", "1"]) == 0
    return made


def tokens(text: str) -> list[int]:
    return [*text.encode(), EOS]


def rows(packing: Path | str, place: Path | str, **stream: Any) -> list[list[int]]:
    """Return the packed rows of a dataset, without padding."""
    found = read(ms.Stream(remote=str(place), packing=packing, **stream))
    return [[token for token in row if token != PAD] for row in found]


def read(stream: ms.Stream) -> list[list[int]]:
    """Return the tokens of all rows of a stream."""
    with ms.Loader(ms.StreamingDataset(streams=[stream], batch_size=1)) as loader:
        return [batch["tokens"][0].tolist() for batch in loader]


def flat(rows: list[list[int]]) -> list[int]:
    return [token for row in rows for token in row]


def texts_of(rows: list[list[int]]) -> str:
    """Return rows as text, in which a document that is whole can be found."""
    return "|".join("," + ",".join(map(str, row)) + "," for row in rows)


def whole(document: list[int], rows: str) -> bool:
    return f",{','.join(map(str, document))}," in rows


@pytest.mark.parametrize("kind", ["rows", "documents"])
def test_documents_of_several_domains_are_whole_in_their_rows(corpora, pack, tmp_path, kind):
    status, document, _ = pack(corpora[kind], "--seq-len", 256, "--pad-id", PAD, "--out", tmp_path / "p")
    assert status == 0
    assert {each["domain"] for each in document["domains"]} == {"web", "code"}
    for each in document["domains"]:
        name = each["domain"]
        place = corpora[kind] / name / "train"
        by = {"rows": "borders", "documents": "samples"}
        assert each["settings"]["documents"] == by[kind]
        found = rows(each["path"], place, name=name)
        joined = texts_of(found)
        kept = [text for text in TEXTS[name] if whole(tokens(text), joined)]
        assert len(found) == each["rows"]
        lost = 0
        if kind == "rows":  # the last incomplete row was dropped, and shards share a document each
            about = Documents.open(str(place))
            lost = sum(len(tokens(text)) for text in TEXTS[name]) - about.rows * 64
            assert each["shared"] > 0
        else:
            assert each["shared"] == 0
        assert len(kept) >= len(TEXTS[name]) - each["shared"] - bool(lost)
        assert sum(map(len, found)) == each["tokens"] == sum(len(tokens(t)) for t in TEXTS[name]) - lost


def test_a_command_that_is_given_again_goes_on(corpora, pack, tmp_path):
    place = corpora["documents"] / "web/train"
    given = [f"web={place}", "--seq-len", 128, "--out", tmp_path / "p"]
    status, document, told = pack(*given, "--part", "0/2")
    assert status == 0
    assert document["domains"][0]["id"] is None
    assert "--parts 2" in told
    began = {path: path.stat().st_mtime_ns for path in (tmp_path / "p/parts").rglob("*.npy")}
    assert began
    _, dry, _ = pack(*given, "--parts", "2", "--dry-run")
    assert dry["status"] == "dry run"
    _, document, _ = pack(*given, "--parts", "2")
    (made,) = document["domains"]
    assert made["settings"]["pad_id"] == EOS  # what ends its documents
    _, again, _ = pack(*given)
    assert again["domains"][0]["id"] == made["id"] == Packing.open(tmp_path / "p").id
    _, other, _ = pack(f"web={place}", "--seq-len", 128, "--out", tmp_path / "q", "--parts", 5)
    assert other["domains"][0]["id"] == made["id"]
    status, failed, _ = pack(f"web={place}", "--seq-len", 64, "--out", tmp_path / "p")
    assert (status, failed["error"]["type"]) == (2, "OutputExistsError")
    assert "seq_len (128 there, 64 here)" in failed["error"]["message"]
    status, document, _ = pack(f"web={place}", "--seq-len", 64, "--out", tmp_path / "p", "--overwrite")
    assert (status, document["domains"][0]["settings"]["seq_len"]) == (0, 64)


def test_what_a_selection_keeps_is_packed(corpora, pack, tmp_path):
    place = corpora["documents"] / "web/train"
    assert main(["select", "random", f"{place}", "--rows", "20", "--out", str(tmp_path / "sel")]) == 0
    _, document, _ = pack(
        place,
        "--seq-len",
        128,
        "--selection",
        tmp_path / "sel",
        "--algorithm",
        "first-fit",
        "--pad-id",
        PAD,
        "--out",
        tmp_path / "p",
    )
    (made,) = document["domains"]
    kept = read(ms.Stream(remote=str(place), selection=tmp_path / "sel"))
    found = rows(tmp_path / "p", place)
    assert sorted(flat(found)) == sorted(flat(kept))
    assert all(whole(document, texts_of(found)) for document in kept if len(document) <= 128)
    assert made["documents"] == 20
    assert made["settings"]["selection"] is not None


def test_token_files_are_packed(pack, tmp_path):
    real = Path(__file__).parents[2] / "data/megatron/ag_news_prompt_inputs_document"
    _, document, _ = pack(f"{real}.idx", "--seq-len", 300, "--pad-id", PAD, "--out", tmp_path / "p")
    (made,) = document["domains"]
    assert (made["documents"], made["dropped"], made["cut"]) == (100, 0, 0)
    data = np.fromfile(f"{real}.bin", "<i4")
    found = rows(tmp_path / "p", f"{real}.idx")
    assert sorted(flat(found)) == sorted(data.tolist())
    idx = Path(f"{real}.idx").read_bytes()
    ends = np.cumsum(np.frombuffer(idx, "<i4", count=100, offset=34))
    assert all(whole(one.tolist(), texts_of(found)) for one in np.split(data, ends[:-1]))
    with pytest.raises(ConfigError, match="borders are stored, not those that eos_id=5 ends: leave out eos_id"):
        rows(tmp_path / "p", f"{real}.idx", seq_len=300, eos_id=5)
    cut = read(ms.Stream(remote=f"{real}.idx", packing="concat", seq_len=300))
    _, document, _ = pack(f"{real}.idx", "--seq-len", 300, "--algorithm", "concat", "--out", tmp_path / "c")
    assert rows(tmp_path / "c", f"{real}.idx") == cut == data[: 300 * len(cut)].reshape(-1, 300).tolist()
    assert document["domains"][0]["dropped"] == len(data) - 300 * len(cut)


def test_tokens_that_end_documents_are_found_in_raw_files(pack, tmp_path):
    documents = [[*range(10 * at + 10, 10 * at + 10 + at % 9), 7] for at in range(100)]
    np.array(flat(documents), "<u2").tofile(tmp_path / "raw.bin")
    file = tmp_path / "raw.bin"
    wrong = ["--dtype", "uint16", "--seq-len", 20, "--pad-id", PAD, "--out", tmp_path / "p"]
    for options, said in ([], "eos_id=... too to pack"), (["--eos-id", 70000], "eos_id=70000 does not fit its tokens"):
        status, made, _ = pack(file, *wrong, *options)
        assert status == 2
        assert said in made["error"]["message"]
    options = ["--dtype", "uint16", "--seq-len", 20, "--pad-id", PAD, "--eos-id", 7]
    status, made, told = pack(file, *options, "--out", tmp_path / "p")
    assert status == 0
    found = rows(tmp_path / "p", file, dtype="uint16", seq_len=20, eos_id=7)
    assert all(whole(one, texts_of(found)) for one in documents[:-20])
    left = sum(map(len, documents)) % 20
    assert made["domains"][0]["tokens"] == sum(map(len, documents)) - left
    assert f"{left} tokens at the ends" in told


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--algorithm", "concat", "--pad-id", "0"], "whose rows are full"),
        (["--algorithm", "concat", "--long-documents", "drop"], "concat"),
        (["--eos-id", "5"], "leave out --eos-id"),
        (["--columns", "tokens,x"], "missing"),
        (["--selection", "nowhere"], "no selection"),
    ],
)
def test_wrong_options_are_named(corpora, pack, tmp_path, options, named):
    status, document, _ = pack(corpora["documents"] / "web/train", "--seq-len", 64, *options, "--out", tmp_path / "p")
    assert status in (1, 2)
    assert named in document["error"]["message"]
    assert not (tmp_path / "p").exists()


def test_datasets_and_packings_in_a_store(corpora, pack, s3, tmp_path):
    s3.upload(corpora["documents"] / "web")
    _, document, _ = pack(
        f"web={s3.url}/train", "--seq-len", 128, "--local", tmp_path / "a", "--out", tmp_path / "up/p"
    )
    local = corpora["documents"] / "web/train"
    _, expected, _ = pack(f"web={local}", "--seq-len", 128, "--out", tmp_path / "q")
    assert document["domains"][0]["id"] == expected["domains"][0]["id"]
    s3.upload(tmp_path / "up")
    found = rows(f"{s3.url}/p", f"{s3.url}/train", name="web", local=str(tmp_path / "b"))
    assert found == rows(tmp_path / "q", local)
