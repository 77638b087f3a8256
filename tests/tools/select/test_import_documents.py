"""`mixstream select import --key document`: scores of documents become scores of rows of both kinds."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mixstream.documents import Documents
from mixstream.selection import Scores, Selection
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion

SEQ_LEN = 16
COUNT = 70


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Domains `web` and `code` of several parts; `packed` and `documents`."""
    top = tmp_path_factory.mktemp("documents")
    (top / "src").mkdir()
    for domain in ("web", "code"):
        lines = [{"text": f"{domain}{at} " * (at * 7 % 13 + 1), "id": f"{domain}-{at}"} for at in range(COUNT)]
        (top / "src" / f"{domain}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for rows in ("packed", "documents"):
        made = Recipe(
            tokenizer=describe_tokenizer("bytes"),
            rows=rows,
            seq_len=SEQ_LEN,
            fields=Fields(text="text", id="id"),
            part_bytes=900,
        )
        run_conversion([str(top / "src" / f"{name}.jsonl") for name in ("web", "code")], out=top / rows, recipe=made)
    return top


def pieces_of(dataset: Path) -> dict[int, Counter[str]]:
    """Row → id of a document → how many of the row's tokens it has."""
    found: dict[int, Counter[str]] = defaultdict(Counter)
    documents = Documents.open(str(dataset))
    for line in pa.Table.from_batches(documents.blocks()).to_pylist():
        if line["row"] is not None:
            seq_len = documents.seq_len or 1 << 30
            for at in range(line["token"], line["token"] + line["tokens"]):
                found[line["row"] + at // seq_len][line["id"]] += 1
    return found


def table(tmp_path: Path, records: list[dict]) -> Path:
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path / "table.jsonl"


SCORED = {f"{domain}-{at}": at / 8 + (domain == "code") for domain in ("web", "code") for at in range(COUNT) if at % 5}


@pytest.mark.parametrize("how", ["mean", "max", "min"])
def test_a_packed_row_has_the_scores_of_its_documents(select, corpus, tmp_path, how):
    """Weighted by tokens, over rows that a document crosses, tails and several domains."""
    records = [{"id": name, "score": score} for name, score in SCORED.items()] + [{"id": "gone", "score": 1.0}]
    options = ["--key", "document", "--documents", how, "--out", tmp_path / "s"]
    status, told = select("import", table(tmp_path, records), "--dataset", corpus / "packed", *options)
    assert status == 0
    assert (told["unmatched_lines"], told["documents_without_a_line"]) == (1, 2 * COUNT // 5)
    for domain in ("web", "code"):
        scores = Scores.open(tmp_path / "s" / domain)
        scores.verify()
        values, scored = scores.column("score"), scores.scored
        rows = pieces_of(corpus / "packed" / domain / "train")
        assert sorted(rows) == list(range(len(values)))
        for row, pieces in rows.items():
            known = {name: tokens for name, tokens in pieces.items() if name in SCORED}
            assert scored[row] == bool(known)
            if known and how == "mean":
                mean = sum(SCORED[name] * tokens for name, tokens in known.items()) / sum(known.values())
                assert values[row] == pytest.approx(mean)
            elif known:
                assert values[row] == {"max": max, "min": min}[how](SCORED[name] for name in known)


def test_a_row_of_a_document_has_its_score(select, corpus, tmp_path):
    """Whole numbers stay whole, whatever --documents says."""
    records = [{"doc": f"web-{at}", "n": at, "lang": "en" if at % 2 else "de"} for at in range(0, COUNT, 2)]
    path = table(tmp_path, records)
    options = ["--key", "document:doc", "--columns", "n,lang", "--out", tmp_path / "s"]
    status, _ = select("import", path, "--dataset", corpus / "documents/web", *options)
    assert status == 0
    scores = Scores.open(tmp_path / "s")
    assert scores.columns["n"].dtype == "|i1"
    assert scores.column("n").tolist() == [0 if at % 2 else at for at in range(COUNT)]
    assert scores.scored.tolist() == [at % 2 == 0 for at in range(COUNT)]


def test_a_packed_row_has_the_text_that_most_of_its_tokens_have(select, corpus, tmp_path):
    records = [{"id": f"web-{at}", "lang": "abc"[at % 3]} for at in range(COUNT) if at % 7]
    options = ["--key", "document", "--columns", "lang", "--out", tmp_path / "s"]
    assert select("import", table(tmp_path, records), "--dataset", corpus / "packed/web", *options)[0] == 0
    scores = Scores.open(tmp_path / "s")
    names = scores.made["categories"]["lang"]
    for row, pieces in pieces_of(corpus / "packed/web/train").items():
        tokens: Counter[str] = Counter()
        for name, count in pieces.items():
            if int(name[4:]) % 7:
                tokens["abc"[int(name[4:]) % 3]] += count
        best = [name for name in sorted(tokens) if tokens[name] == max(tokens.values())]
        assert scores.scored[row] == bool(best)
        assert not best or names[int(scores.column("lang")[row])] == best[0]


def test_file_and_record_name_a_document(select, corpus, tmp_path):
    records = [{"path": "web.jsonl", "line": at, "score": at} for at in range(COUNT)]
    records.append({"path": "web.jsonl", "line": COUNT, "score": 0})
    options = ["--key", "document:path,line", "--columns", "score", "--out", tmp_path / "s"]
    status, told = select("import", table(tmp_path, records), "--dataset", corpus / "documents/web", *options)
    assert (status, told["unmatched_lines"]) == (0, 1)
    assert Scores.open(tmp_path / "s").column("score").tolist() == list(range(COUNT))


@pytest.mark.parametrize("how", ["mean", "max", "min"])
def test_a_list_of_documents_drops_rows_of_them(select, corpus, tmp_path, how):
    listed = {f"web-{at}" for at in range(0, COUNT, 3)}
    options = ["--key", "document", "--documents", how, "--drop-listed", "--selection", tmp_path / "kept"]
    path = table(tmp_path, [{"id": name} for name in sorted(listed)])
    assert select("import", path, "--dataset", corpus / "packed/web", *options)[0] == 0
    least = {"mean": SEQ_LEN // 2, "max": 1, "min": SEQ_LEN}[how]
    rows = pieces_of(corpus / "packed/web/train")
    expected = [row for row in sorted(rows) if sum(rows[row][name] for name in listed) < least]
    assert Selection.open(tmp_path / "kept").ordinals().tolist() == expected
    assert 0 < len(expected) < len(rows)


def test_two_lines_about_one_document_are_refused(select, corpus, tmp_path):
    path = table(tmp_path, [{"id": "web-1", "score": 1.0}, {"id": "web-1", "score": 2.0}])
    options = ["--dataset", corpus / "packed/web", "--key", "document", "--out", tmp_path / "s"]
    status, told = select("import", path, *options)
    assert status == 1
    assert "--duplicates first or last" in told["error"]["message"]
    assert select("import", path, *options, "--duplicates", "last")[0] == 0
    assert np.nanmax(Scores.open(tmp_path / "s").column("score")) == 2.0


def test_a_dataset_without_documents_is_refused_by_name(select, write_texts, tmp_path):
    path = table(tmp_path, [{"id": "web-1", "score": 1.0}])
    dataset = write_texts("plain", ["a", "b"])
    status, told = select("import", path, "--dataset", dataset, "--key", "document", "--out", tmp_path / "s")
    assert status == 2
    assert "keeps no documents" in told["error"]["message"]
    status, told = select("import", path, "--dataset", dataset, "--key", "document:a,b,c", "--out", tmp_path / "s")
    assert (status, "document:FILE,RECORD" in told["error"]["message"]) == (2, True)
