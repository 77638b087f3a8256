"""`mixstream inspect` of datasets whose documents convert kept: lengths, and which lie in each sample."""

import json

import pytest

from mixstream_tools.cli import main
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion

SEQ_LEN = 32
TEXTS = [f"<{at:02}>" * (at % 11 + 1) for at in range(60)]


@pytest.fixture
def inspect(tmp_path, capsys):
    def run(rows, *options):
        lines = [json.dumps({"text": text, "url": f"u{at}"}) for at, text in enumerate(TEXTS)]
        (tmp_path / "web.jsonl").write_text("\n".join(lines))
        fields = Fields(text="text", keep=("url",))
        made = Recipe(tokenizer=describe_tokenizer("bytes"), rows=rows, seq_len=SEQ_LEN, fields=fields, part_bytes=800)
        run_conversion([str(tmp_path / "web.jsonl")], out=tmp_path / "out", recipe=made)
        capsys.readouterr()
        status = main(["inspect", str(tmp_path / "out"), *options])
        return status, capsys.readouterr().out

    return run


def test_documents_and_their_lengths(inspect):
    status, told = inspect("packed", "--json", "--samples", "4")
    (dataset,) = json.loads(told)["datasets"]
    assert status == 0
    found = dataset["documents"]
    assert (found["row_kind"], found["documents"], found["lengths_of"]) == ("packed", 60, 60)
    assert found["kept"] == {"url": "string"}
    lengths = sorted(len(text) + 1 for text in TEXTS)
    assert (found["lengths"]["min"], found["lengths"]["max"]) == (lengths[0], lengths[-1])
    assert found["lengths"]["median"] == (lengths[29] + lengths[30]) / 2


def test_a_packed_sample_shows_its_documents_with_borders(inspect):
    """The pieces fill the sample, and the text of each is that part of its document."""
    (dataset,) = json.loads(inspect("packed", "--json", "--samples", "4")[1])["datasets"]
    assert len(dataset["samples_shown"]) == 4
    for sample in dataset["samples_shown"]:
        pieces = sample["documents"]
        assert sum(piece["tokens"] for piece in pieces) == SEQ_LEN
        assert [piece["token"] for piece in pieces] == [
            sum(piece["tokens"] for piece in pieces[:at]) for at in range(len(pieces))
        ]
        for piece in pieces:
            text = TEXTS[piece["record"]]
            whole = [*text, "<end>"]
            assert piece["text"] == "".join(whole[piece["begin"] : piece["begin"] + piece["tokens"]])
            assert (piece["kept"], piece["length"]) == ({"url": f"u{piece['record']}"}, len(whole))


def test_a_terminal_shows_them_too(inspect):
    told = inspect("documents", "--samples", "2")[1]
    assert "documents of web/train: 60, one in a sample; tokens: min 5, p10 9, median 23, p90" in told
    assert "token 0: document 0, all of its 5 tokens; web.jsonl record 0, id " in told


def test_without_samples_only_the_index_is_read(inspect):
    told = inspect("documents", "--samples", "0", "--json")[1]
    assert "documents" not in json.loads(told)["datasets"][0]
