"""`mixstream rows`: what it tells of the steps of a run and of samples is what the run had, or it refuses by name."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from harness import FIRST, SIZES, Tilt, losses, make_dataset, row_ids
from selections import keep
from token_files import megatron_pair  # pyright: ignore[reportMissingImports] - conftest.py sets the path

import mixstream as ms
from mixstream_tools.cli import main
from mixstream_tools.convert import Fields, Recipe, describe_tokenizer, run_conversion

OPTIONS = {
    *("--step", "--row", "--log", "--state", "--rank", "--domain", "--split", "--selection", "--text", "--chars"),
    *("--tokenizer", "--allow-unsafe-types", "--json", "--packing", "--seq-len", "--overlap", "--dtype"),
    *("--token-column", "--eos-id"),
}
SKIPPED = range(5, 8)


@pytest.fixture(scope="module")
def run(library, tmp_path_factory):
    """A run of a mixer that learns: its directory, and its batches by step."""
    place, batches = tmp_path_factory.mktemp("run"), {}
    with ms.Loader(make_dataset(library, mixer=Tilt(), lag=4), log=place) as loader:
        loader.skip(SKIPPED)
        for batch in loader:
            batches[batch.step] = row_ids(batch)
            loader.report(batch, torch.from_numpy(losses(row_ids(batch))))
            if batch.step == 9:
                state = loader.state_dict()
                (place / "state.json").write_text(json.dumps(state))
                torch.save({"model": {}, "data": state}, place / "checkpoint.pt")
                torch.save({"data": {"state": json.dumps(state).encode()}}, place / "packed.pt")
            if batch.step == 20:
                break
    return place, batches


@pytest.fixture
def rows(capsys):
    """Run `mixstream rows … --json`; returns status, document, stderr."""

    def call(*arguments):
        capsys.readouterr()
        status = main(["rows", *map(str, arguments), "--json"])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return call


def ids(document):
    return [FIRST[row["domain"]] + row["sample"] for row in document["rows"]]


def test_a_step_of_a_log_or_a_checkpoint(library, run, rows):
    place, batches = run
    for step in (0, 4, 8, 20):
        status, found, _ = rows(library, "--step", step, "--log", place)
        assert status == 0
        assert ids(found) == batches[step]
        assert not found["skipped"]
        assert found["mixer"] == "Tilt"
    for name in ("state.json", "checkpoint.pt", "packed.pt"):
        status, found, told = rows(library, "--step", 12, "--state", place / name)
        assert (status, ids(found), told) == (0, batches[12], "")
    status, found, told = rows(library, "--step", 6, "--log", place / "mixture.jsonl")
    assert (status, found["skipped"], len(found["rows"])) == (0, True, 8)
    assert "does not list samples that were set aside" in told.replace("\n", " ").replace("a log ", "")
    first = rows(library, "--step", 20, "--log", place, "--rank", "0/2")[1]
    second = rows(library, "--step", 20, "--log", place, "--rank", "1/2")[1]
    assert ids(first) + ids(second) == batches[20]
    assert [row["row"] for row in second["rows"]] == [4, 5, 6, 7]
    one = rows(library, "--step", 20, "--log", place, "--row", 3)[1]["rows"]
    assert one == [first["rows"][3]]
    assert one[0].keys() >= {"domain", "epoch", "lane", "draw", "sample", "shard", "row_in_shard", "stand_in"}


def test_domains_of_other_names_and_selections(library, tmp_path, rows):
    keep(tmp_path / "kept" / "books", library / "law", range(0, 19, 2), domain="books")
    streams = [
        ms.Stream(remote=str(library / "law"), name="books", selection=str(tmp_path / "kept" / "books")),
        ms.Stream(remote=str(library / "web")),
    ]
    with ms.Loader(ms.StreamingDataset(streams=streams, batch_size=8, shuffle=True)) as loader:
        batch = next(iter(loader))
        (tmp_path / "state.json").write_text(json.dumps(loader.state_dict()))
    given = (f"books={library / 'law'}", f"web={library / 'web'}", "--selection", tmp_path / "kept")
    _, found, _ = rows(*given, "--step", 0, "--state", tmp_path / "state.json")
    assert [{"books": 3000, "web": 1000}[row["domain"]] + row["sample"] for row in found["rows"]] == row_ids(batch)
    status, found, _ = rows(*given[:2], "--step", 0, "--state", tmp_path / "state.json")
    assert status == 1
    assert "'books' was read by the selection" in found["error"]["message"]
    status, found, _ = rows(library, "--step", 0, "--state", tmp_path / "state.json")
    assert status == 2
    assert "NAME=URL" in found["error"]["message"]


def test_shards_in_a_store_are_read_there(library, run, rows, s3):
    place, batches = run
    for file in library.rglob("*"):
        if file.is_file():
            s3.put(f"corpus/{file.relative_to(library)}", file.read_bytes())
    _, found, _ = rows(f"{s3.url}/corpus", "--step", 9, "--log", place, "--text")
    assert ids(found) == batches[9]
    assert [row["text"].split()[0] for row in found["rows"]] == [*map(str, batches[9])]


def test_a_sample_and_the_steps_that_it_was_in(library, run, rows):
    place, _ = run
    whole = {}
    for step in range(21):
        document = rows(library, "--step", step, "--log", place)[1]
        whole[step] = [(row["domain"], row["sample"], row["row"], row["draw"]) for row in document["rows"]]
    for number in (0, 7, 18):
        status, found, _ = rows(library, "--row", number, "--domain", "law", "--log", place)
        assert status == 0
        assert found["sample"]["sample"] == number
        assert found["looked"] == [0, 21]
        expected = [(s, row, draw) for s in whole for d, n, row, draw in whole[s] if (d, n) == ("law", number)]
        assert [(each["step"], each["row"], each["draw"]) for each in found["steps"]] == expected
        assert [each["skipped"] for each in found["steps"]] == [step in SKIPPED for step, _, _ in expected]
    status, found, _ = rows(library / "law", "--row", 18)
    assert (status, found["steps"], found["sample"]["domain"]) == (0, None, "law")
    with ms.Loader(make_dataset(library)) as loader:
        state = place / "static.json"
        state.write_text(json.dumps(loader.state_dict()))
    found = rows(library, "--row", 149, "--domain", "web", "--state", state)[1]
    assert found["looked"] == [0, 28]
    assert [each["epoch"] for each in found["steps"][:1]] == [0]  # an epoch reads it once


def test_documents_and_text(tmp_path, rows, capsys):
    for name in ("web", "code"):
        lines = [json.dumps({"id": f"{name}-{n}", "text": f"{name} document {n} " + "x" * (5 * n)}) for n in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        recipe = Recipe(tokenizer=describe_tokenizer("bytes"), seq_len=64, fields=Fields(text="text", id="id"))
        run_conversion([f"{name}={tmp_path / name}.jsonl"], out=tmp_path / "out" / name, recipe=recipe)
    urls = [f"{name}={tmp_path / 'out' / name / name / 'train'}" for name in ("web", "code")]
    streams = [ms.Stream(remote=url.partition("=")[2], name=url.partition("=")[0]) for url in urls]
    with ms.Loader(ms.StreamingDataset(streams=streams, batch_size=4, shuffle=True), log=tmp_path) as loader:
        for batch in loader:
            loader.report(batch, torch.ones(4))
            if batch.step == 3:
                break
    status, found, _ = rows(*urls, "--step", 3, "--log", tmp_path, "--text", "--chars", 40)
    assert status == 0
    for row, tokens in zip(found["rows"], batch["tokens"].numpy()):
        text = bytes(tokens[tokens < 256].astype(np.uint8)).decode()
        assert row["text"].rstrip("…").replace("<end>", "")[:30] == text[:30]
        assert row["documents"]
        assert set(re.findall(r"(?:web|code) document \d+ ", text)) <= {
            f"{each.replace('-', ' document ')} " for each in row["documents"]
        }
    assert main(["rows", *urls, "--step", "3", "--log", str(tmp_path), "--text", "--row", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 4 rows" in shown
    assert found["rows"][1]["documents"][0] in shown


@pytest.mark.filterwarnings("ignore:.* is set aside")
def test_rows_that_cannot_be_read_and_what_takes_their_place(library, tmp_path, rows):
    for name, size in SIZES.items():
        with ms.MDSWriter(columns={"tokens": "ndarray:uint16:8"}, out=str(tmp_path / name), size_limit=500) as writer:
            for number in range(size):
                writer.write({"tokens": np.full(8, FIRST[name] + number, np.uint16)})
    broken = sorted((tmp_path / "web").glob("*.mds"))[1]
    broken.write_bytes(broken.read_bytes()[:100])
    batches = {}
    state = tmp_path / "state.json"
    with ms.Loader(make_dataset(tmp_path, on_bad_sample="quarantine"), log=tmp_path / "log") as loader:
        for batch in loader:
            batches[batch.step] = row_ids(batch)
            loader.report(batch, torch.ones(8))
        state.write_text(json.dumps(loader.state_dict()))
    stood_in = 0
    for step, batch in [*batches.items()][:9]:
        found = rows(tmp_path, "--step", step, "--state", state)[1]
        assert ids(found) == batch
        stood_in += sum(row["stand_in"] for row in found["rows"])
    assert stood_in
    step = next(
        s for s in batches if any(r["stand_in"] for r in rows(tmp_path, "--step", s, "--state", state)[1]["rows"])
    )
    status, found, told = rows(tmp_path, "--step", step, "--log", tmp_path / "log", "--text")
    assert status == 1
    assert found["status"] == "faults"
    assert any("shard" in row.get("trouble", "") for row in found["rows"])
    assert "give a --state from after that too" in told


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--step", "21", "--log", "RUN"], 1, "step 21 is not known: the last step that it knows is 20"),
        (
            ["--step", "15", "--state", "RUN/state.json"],
            1,
            "knows is 14; the state does not hold the other weights of T",
        ),
        (["--step", "3", "--state", "RUN/state.json"], 1, "step 3 is not known.*give the log, with --log"),
        (["--step", "3"], 2, "--step needs the run"),
        ([], 2, "nothing to show"),
        (["--step", "-1", "--log", "RUN"], 2, "--step -1: give 0 or more"),
        (["--step", "3", "--log", "RUN", "--row", "8"], 2, "the global batch has 8 rows"),
        (["--step", "3", "--log", "RUN", "--rank", "2/2"], 2, "write R/W"),
        (["--step", "3", "--log", "RUN", "--rank", "1/3"], 2, "W divides the 8 rows"),
        (["--step", "3", "--log", "RUN", "--rank", "0/2", "--row", "1"], 2, "both choose rows"),
        (["--step", "3", "--log", "RUN", "--domain", "web"], 2, "--domain goes with --row alone"),
        (["--row", "3"], 2, r"give --domain, one of \['code', 'law', 'web'\]"),
        (["--row", "3", "--domain", "pix"], 2, "--domain pix"),
        (["--row", "19", "--domain", "law"], 2, "domain 'law' has 19 samples"),
        (["--row", "3", "--rank", "0/2"], 2, "--rank goes with --step"),
        (["--step", "3", "--log", "RUN/none"], 2, "does not exist"),
        (["--step", "3", "--log", "RUN/state.json"], 2, "not a mixing log"),
        (["--step", "3", "--state", "RUN/mixture.jsonl"], 2, "cannot be parsed"),
        (["--step", "3", "--log", "s3://x/y"], 2, "copy it here first"),
        (["--step", "3", "--log", "RUN", "--text", "--chars", "0"], 2, "--chars 0"),
    ],
)
def test_what_is_not_known_is_refused(library, run, rows, arguments, status, said):
    found = rows(library, *(word.replace("RUN", str(run[0])) for word in arguments))
    assert found[0] == status
    assert re.search(said, found[1]["error"]["message"])


def test_the_help_names_every_option(capsys):
    assert main(["rows", "--help"]) == 0
    told = capsys.readouterr().out
    assert set(re.findall(r"--[a-z-]+", told)) >= OPTIONS
    assert "mixstream rows shards/ --step 18204 --log runs/x/ --text" in told


@pytest.mark.filterwarnings("ignore:packed rows of .* have padding")
def test_packed_rows_and_token_files(tmp_path, rows):
    lines = [json.dumps({"text": f"web document {n} " + "x" * (7 * n % 31)}) for n in range(40)]
    (tmp_path / "web.jsonl").write_text("\n".join(lines))
    recipe = Recipe(tokenizer=describe_tokenizer("bytes"), rows="documents", fields=Fields(text="text"))
    run_conversion([f"web={tmp_path}/web.jsonl"], out=tmp_path / "out", recipe=recipe)
    assert (
        main(["pack", str(tmp_path / "out"), "--seq-len", "64", "--out", str(tmp_path / "packs"), "--workers", "1"])
        == 0
    )
    np.save(tmp_path / "flat.npy", np.arange(1, 2001, dtype=np.uint16))
    streams = [
        ms.Stream(remote=str(tmp_path / "out" / "web" / "train"), name="web", packing=str(tmp_path / "packs")),
        ms.Stream(remote=str(tmp_path / "flat.npy"), name="flat", seq_len=64),
    ]
    with ms.Loader(ms.StreamingDataset(streams=streams, batch_size=4, shuffle=True)) as loader:
        for batch in loader:
            if batch.step == 4:
                break
        (tmp_path / "state.json").write_text(json.dumps(loader.state_dict()))
    urls = (f"web={tmp_path}/out/web/train", f"flat={tmp_path}/flat.npy", "--state", tmp_path / "state.json")
    given = (*urls, "--step", 4, "--packing", tmp_path / "packs", "--seq-len", 64)
    status, found, _ = rows(*given, "--text", "--chars", 30)
    assert status == 0
    for row, tokens in zip(found["rows"], batch["tokens"].tolist(), strict=True):
        assert "documents" not in row
        if row["domain"] == "flat":
            assert tokens[0] == 1 + 64 * row["sample"]
            assert row["text"].startswith(" ".join(map(str, tokens[:5])))
        else:
            assert row["text"][:12] == bytes(tokens[:12]).decode()
    one = next(row for row in found["rows"] if row["domain"] == "web")
    status, found, _ = rows(*given[:2], "--row", one["sample"], "--domain", "web", *given[2:4], *given[6:], "--text")
    assert status == 0
    assert found["sample"]["text"][:12] == one["text"][:12]
    assert 4 in [each["step"] for each in found["steps"]]
    status, found, _ = rows(*urls, "--step", 4, "--seq-len", 64)
    assert status == 1
    assert "packing" in found["error"]["message"]


def test_steps_in_the_order_of_megatron_are_refused(tmp_path, rows):
    for name, data in megatron_pair([list(range(100))] * 4).items():
        (tmp_path / name).write_bytes(data)
    stream = ms.Stream(remote=str(tmp_path / "web.idx"), seq_len=8, overlap=1)
    with ms.Loader(ms.StreamingDataset(streams=[stream], batch_size=4, order="megatron", shuffle_seed=1)) as loader:
        (tmp_path / "state.json").write_text(json.dumps(loader.state_dict()))
    status, found, _ = rows(tmp_path / "web.idx", "--seq-len", 8, "--state", tmp_path / "state.json", "--step", 0)
    assert status == 2
    assert "order='megatron', whose rows this command does not compute" in found["error"]["message"]


def test_rows_of_another_length_are_refused(tmp_path, rows):
    for name, data in megatron_pair([list(range(100))]).items():
        (tmp_path / name).write_bytes(data)
    dataset = ms.StreamingDataset(
        streams=[ms.Stream(remote=str(tmp_path / "web.idx"), seq_len=8, overlap=1)],
        batch_size=4,
        mixer=ms.mixers.Schedule({0: {"web": 1}}),
    )
    with ms.Loader(dataset, log=tmp_path / "run") as loader:
        batch = next(iter(loader))
        loader.report(batch, torch.ones(4))
    given = (tmp_path / "web.idx", "--seq-len", 8, "--log", tmp_path / "run", "--step", 0)
    status, found, _ = rows(*given)
    assert status == 2
    assert "rows of the run had 9 tokens, and here they have 8" in found["error"]["message"]
    assert rows(*given, "--overlap", 1)[0] == 0


def test_files_that_are_read_by_a_column_or_packed_by_a_token(tmp_path, rows):
    pq.write_table(pa.table({"ids": [[1, 2, 3], [4, 5]]}), tmp_path / "lists.parquet")
    status, found, _ = rows(tmp_path / "lists.parquet", "--token-column", "ids", "--row", 1, "--text")
    assert (status, found["sample"]["text"]) == (0, "4 5")
    np.array([1, 2, 7, 3, 7, 4, 5, 7], "<u2").tofile(tmp_path / "raw.bin")
    options = ("--dtype", "uint16", "--seq-len", "4", "--eos-id", "7")
    made = [
        "pack",
        str(tmp_path / "raw.bin"),
        *options,
        "--pad-id",
        "7",
        "--out",
        str(tmp_path / "p"),
        "--workers",
        "1",
    ]
    assert main(made) == 0
    status, found, _ = rows(tmp_path / "raw.bin", *options, "--packing", tmp_path / "p", "--row", 0, "--text")
    assert status == 0
    assert found["sample"]["text"] in {"1 2 7 7", "3 7 4 5", "1 2 7 3"}
