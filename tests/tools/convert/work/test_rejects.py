"""Documents that cannot be read: listed with reasons, counted, limited, and the same for any number of workers."""

import json
import os

import pytest

from mixstream.documents import Documents
from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer
from mixstream_tools.convert.work.rejects import MaxRejects, Rejects, TooManyRejectsError

GOOD = json.dumps({"text": "a good document of some length"}).encode()
LINES = [GOOD, b"{not json", b'{"text": 7}', b'{"body": "x"}', b'{"text": "\xff"}', b"[1]", GOOD]
REASONS = {"missing-field": 1, "not-an-object": 1, "not-json": 1, "not-utf8": 1, "wrong-type": 1}


def convert(source, out, *, workers=1, most=None, fields=Fields(text="text"), **options):  # noqa: B008  # frozen
    recipe = Recipe(
        tokenizer=describe_tokenizer("bytes"), fields=fields, seq_len=8, part_bytes=200,
        on_bad_document="skip", **options,
    )  # fmt: skip
    limit = None if most is None else MaxRejects.parse(most)
    return run_conversion([str(source)], out=out, recipe=recipe, workers=workers, max_rejects=limit)


@pytest.fixture
def web(write_tree):
    lines = [*LINES, *[GOOD] * 10, b"\xfe", *[GOOD] * 10, b"nothing", GOOD]
    return write_tree({"web.jsonl": b"\n".join(lines) + b"\n"}) / "web.jsonl"


def test_each_reject_is_listed_with_its_reason(web, tmp_path):
    summary = convert(web, tmp_path / "out")
    assert summary["skipped"]["documents"] == 7
    assert summary["skipped"]["reasons"] == {**REASONS, "not-json": 2, "not-utf8": 2}
    assert summary["skipped"]["files"] == ["web/rejects.jsonl"]
    rejects = [json.loads(line) for line in (tmp_path / "out/web/rejects.jsonl").read_text().splitlines()]
    assert [(each["reason"], each["fact"].split(", ")[1].split(":")[0]) for each in rejects] == [
        ("not-json", "line 2"), ("wrong-type", "line 3"), ("missing-field", "line 4"), ("not-utf8", "line 5"),
        ("not-an-object", "line 6"), ("not-utf8", "line 18"), ("not-json", "line 29"),
    ]  # fmt: skip
    assert {each["file"] for each in rejects} == {"web.jsonl"}
    assert rejects[0]["excerpt"] == "{not json\n"


def test_rejects_do_not_depend_on_workers_and_restarts(web, tmp_path):
    convert(web, tmp_path / "one")
    convert(web, tmp_path / "two", workers=2)
    whole = (tmp_path / "one/web/rejects.jsonl").read_bytes()
    assert (tmp_path / "two/web/rejects.jsonl").read_bytes() == whole
    (tmp_path / "two/web/rejects.jsonl").unlink()
    assert convert(web, tmp_path / "two")["status"] == "converted"
    assert (tmp_path / "two/web/rejects.jsonl").read_bytes() == whole
    assert convert(web, tmp_path / "two")["status"] == "nothing to do"


def test_a_reject_is_found_again_by_file_and_record(write_tree, tmp_path):
    """Files are cut into parts, and two have one name: a reject is named as its neighbours in the sidecar are."""
    lines = {name: [GOOD if at % 7 else f"bad {name} {at}".encode() for at in range(40)] for name in ("a", "b")}
    root = write_tree({f"{name}/x.jsonl": b"\n".join(each) + b"\n" for name, each in lines.items()})
    recipe = Recipe(
        tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text"), seq_len=8, part_bytes=200,
        on_bad_document="skip",
    )  # fmt: skip
    run_conversion([f"web={root / name}" for name in lines], out=tmp_path / "out", recipe=recipe)
    rejects = [json.loads(line) for line in (tmp_path / "out/web/rejects.jsonl").read_text().splitlines()]
    found = [(each["file"], each["record"], each["excerpt"].strip()) for each in rejects]
    assert found == [(f"{name}/x.jsonl", at, f"bad {name} {at}") for name in lines for at in range(0, 40, 7)]


def test_a_part_whose_rejects_are_lost_is_converted_again(web, tmp_path):
    convert(web, tmp_path / "out")
    whole = (tmp_path / "out/web/rejects.jsonl").read_bytes()
    first = min((tmp_path / "out/.convert/parts/web").glob("*.rejects"))
    first.unlink()
    convert(web, tmp_path / "out")
    assert first.exists()
    assert (tmp_path / "out/web/rejects.jsonl").read_bytes() == whole


def test_more_rejects_than_allowed_stop_the_run_and_are_kept(web, tmp_path):
    with pytest.raises(TooManyRejectsError, match="more than --max-rejects 6") as caught:
        convert(web, tmp_path / "out", most="6")
    assert ".convert/parts/" in str(caught.value)
    assert sorted((tmp_path / "out/.convert/parts/web").glob("*.rejects"))
    assert not (tmp_path / "out/web/train/index.json").exists()
    assert convert(web, tmp_path / "out", most="7")["skipped"]["documents"] == 7


def test_rejects_of_one_reason_are_all_counted(tmp_path):
    rejects = Rejects(tmp_path / "part.rejects", skip=True, most=MaxRejects.parse("2"))
    for record in range(2):
        rejects("no JSON", record=record, reason="not-json")
    assert (rejects.count, rejects.reasons) == (2, {"not-json": 2})
    with pytest.raises(TooManyRejectsError, match=r"3 of 3 documents"):
        rejects("no JSON", record=2, reason="not-json")


def test_a_share_is_of_all_documents(web, tmp_path):
    with pytest.raises(TooManyRejectsError, match=r"7 of 30 documents"):
        convert(web, tmp_path / "out", most="23%")
    assert convert(web, tmp_path / "out", most="24%")["status"] == "converted"
    with pytest.raises(TooManyRejectsError):
        convert(web, tmp_path / "again", most="0%")


def test_rejects_of_lines_that_name_their_domains(write_tree, tmp_path):
    line = json.dumps({"text": "some words of one document", "set": "web"})
    source = write_tree({"a.jsonl": f"{line}\n" * 3 + '{"text": "no set"}\n'}) / "a.jsonl"
    by_key = Fields(text="text", domain="set")
    summary = convert(source, tmp_path / "out", fields=by_key)
    assert summary["skipped"]["files"] == ["rejects.jsonl"]
    assert len((tmp_path / "out/rejects.jsonl").read_text().splitlines()) == 1


def test_removing_a_domain_removes_its_rejects(web, write_tree, tmp_path):
    other = write_tree({"code.txt": "some text that is long enough"}) / "code.txt"
    convert(web, tmp_path / "out")
    convert(other, tmp_path / "out")
    recipe = Recipe(tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text"), seq_len=8, part_bytes=200)
    run_conversion([], out=tmp_path / "out", recipe=recipe, remove=["web"])
    assert not (tmp_path / "out/web").exists()


def test_without_skip_the_first_one_stops_the_run(web, tmp_path):
    recipe = Recipe(tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text"), seq_len=8)
    with pytest.raises(SourceError, match="line 2: not a JSON document"):
        run_conversion([str(web)], out=tmp_path / "out", recipe=recipe)


@pytest.mark.parametrize("typed", ["", "x", "-1", "1.5", "101%", "1e3", "5 %%"])
def test_a_limit_that_is_none_is_refused(typed):
    with pytest.raises(ConfigError, match="--max-rejects"):
        MaxRejects.parse(typed)


def test_the_option_means_skip(web, tmp_path, convert_json):
    status, told, err = convert_json(web, "--out", tmp_path / "out", "--seq-len", 8, "--max-rejects", "50%")
    assert status == 0
    assert told["skipped"]["documents"] == 7
    assert f"listed in {tmp_path / 'out'}/web/rejects.jsonl" in err
    assert "not-json 2" in err


def test_records_and_files_are_named_as_the_sidecar_names_them(web, tmp_path, write_tree):
    more = write_tree({"more/web.jsonl": b"\n" + GOOD + b"\nno\n"}) / "more/web.jsonl"
    recipe = Recipe(
        tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text"), seq_len=8, part_bytes=200,
        on_bad_document="skip",
    )  # fmt: skip
    run_conversion([f"web={web}", f"web={more}"], out=tmp_path / "out", recipe=recipe)
    rejects = [json.loads(line) for line in (tmp_path / "out/web/rejects.jsonl").read_text().splitlines()]
    found = {(each["file"], each["record"]) for each in rejects}
    documents = Documents.open(str(tmp_path / "out/web/train"))
    kept = {(line["file"], line["record"]) for block in documents.blocks() for line in block.to_pylist()}
    (long,) = {file for file, record in kept if record == 6}
    (short,) = {file for file, _ in kept} - {long}
    assert sorted(record for file, record in found | kept if file == long) == list(range(30))
    assert {(file, record) for file, record in found if file == short} == {(short, 2)}
    assert all(each["fact"].startswith(f"{each['file']}, line {each['record'] + 1}:") for each in rejects)


def test_neither_rejects_nor_cards_say_where_the_sources_lay(tmp_path):
    for place, time in (("one", 1e9), ("another", 2e9)):
        (tmp_path / place).mkdir()
        source = tmp_path / place / "web.jsonl"
        source.write_bytes(b"\n".join(LINES))
        os.utime(source, (time, time))
        convert(source, tmp_path / place / "out")
    names = ("web/rejects.jsonl", "web/train/card.json", "card.json", "web/train/documents/part-00000.parquet")
    for name in names:
        assert (tmp_path / "one/out" / name).read_bytes() == (tmp_path / "another/out" / name).read_bytes(), name


def test_a_finished_output_with_more_rejects_than_allowed_is_not_taken_for_good(web, tmp_path):
    convert(web, tmp_path / "out")
    with pytest.raises(TooManyRejectsError, match="7 of 30 documents"):
        convert(web, tmp_path / "out", most="6")
    assert convert(web, tmp_path / "out", most="7")["status"] == "nothing to do"
