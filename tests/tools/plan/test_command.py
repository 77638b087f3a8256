"""`mixstream plan`: what it tells of logs, states, checkpoints and mixtures to come, and that a run reads that."""

import json
import re
import socket

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixing_logs import open_log
from selections import buckets, keep

import mixstream as ms
from mixstream.errors import ExhaustedError
from mixstream.plan.weights import WEIGHT_UNIT, quantise
from mixstream_tools.cli import main
from mixstream_tools.plan.course import Course, look_ahead

SIZES = {"code": 60, "law": 20, "web": 320}
NAMES = tuple(SIZES)
WIDTH, BATCH = 8, 16
OPTIONS = {
    *("--data", "--split", "--mixer", "--weights", "--temperature", "--max-epochs", "--steps", "--tokens"),
    *("--batch-size", "--points", "--json", "--selection"),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three domains as `mixstream convert` lays them out: DIR/DOMAIN/train, 8 tokens a row."""
    root = tmp_path_factory.mktemp("shards")
    for name, rows in SIZES.items():
        out = str(root / name / "train")
        with ms.MDSWriter(columns={"tokens": f"ndarray:uint16:{WIDTH}"}, out=out) as writer:
            for row in range(rows):
                writer.write({"tokens": np.full(WIDTH, row, np.uint16)})
    (root / "domains.json").write_text("{}")
    return root


def write_log(path, steps=40, *, first=0, validation=False):
    """A log whose weights move from web to code; every loss falls from 6 to 2."""
    with open_log(path, NAMES) as journal:
        journal.begin(
            step=first,
            mixer="ADO",
            lag=4,
            global_batch_size=BATCH,
            samples_K=np.array([*SIZES.values()]),
            row_tokens=WIDTH,
        )
        for step in range(first, steps):
            weights_K = np.array([4 + step // 10, 1, 11 - step // 10]) / 16
            rows_K = weights_K * BATCH
            journal.write(
                step,
                weights_K=quantise(weights_K),
                rows_K=rows_K,
                loss_sum_K=rows_K * WIDTH * (6 - 4 * step / (steps - 1)),
                count_K=rows_K * WIDTH,
            )
            if validation and step in (0, 5):
                journal.write_validation(step, np.full(3, 9.0 - step))
    return journal.file


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path / "run")


@pytest.fixture
def plan(capsys):
    """Run `mixstream plan … --json`; returns status, document, stderr."""

    def run(*arguments):
        status = main(["plan", *map(str, arguments), "--json"])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


def test_options_of_plan_are_frozen(capsys, monkeypatch):
    """A new option is a promise: add it here, and to docs/ where its page lists options, on purpose."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plan", "--help"]) == 0
    told = capsys.readouterr().out
    assert set(re.findall(r"(?<![\w-])--[a-z-]+(?= )", told[told.index("Parameters") :])) == OPTIONS
    assert "mixstream plan runs/x/mixture.jsonl" in told


def by_name(document, key):
    return {told["name"]: told[key] for told in document["domains"]}


# --- a log ------------------------------------------------------------------------------------------------------------


def test_a_log_tells_rows_tokens_epochs_losses_and_weights_by_step(plan, log):
    status, told, _ = plan(log, "--points", 4)
    run = told["source"]
    assert (status, told["status"], told["preview"]) == (0, "ok", None)
    assert (run["kind"], run["mixer"], run["step"], run["global_batch_size"]) == ("log", "ADO", 40, BATCH)
    rows = {"code": 10 * (4 + 5 + 6 + 7), "law": 40, "web": 10 * (11 + 10 + 9 + 8)}
    assert by_name(run, "rows") == rows
    assert by_name(run, "tokens") == {name: count * WIDTH for name, count in rows.items()}
    assert by_name(run, "epochs") == {name: count / SIZES[name] for name, count in rows.items()}
    assert by_name(run, "share") == {name: count / 640 for name, count in rows.items()}
    assert by_name(run, "loss_first")["web"] == pytest.approx(6 - 4 * 1.5 / 39)
    assert by_name(run, "loss_last")["web"] == pytest.approx(2 + 4 * 1.5 / 39)
    assert [point["step"] for point in run["weights"]] == [0, 13, 26, 39]
    assert [point["weights"]["code"] for point in run["weights"]] == [4 / 16, 5 / 16, 6 / 16, 7 / 16]


def test_a_log_is_shown_as_tables(log, capsys):
    write_log(log, 45, first=30, validation=True)
    assert main(["plan", str(log.parent), "--points", "3"]) == 0
    told = capsys.readouterr().out
    head = told.splitlines()[0]
    assert str(log) in head
    assert "ADO, 45 steps of 16 rows, resumed at step 30" in head
    assert "weight at step" in told
    assert "44" in told
    assert "validation" not in told


def test_validation_losses_are_shown_where_there_were_any(plan, tmp_path):
    _, told, _ = plan(write_log(tmp_path, validation=True))
    assert by_name(told["source"], "validation_first") == dict.fromkeys(NAMES, 9.0)
    assert by_name(told["source"], "validation_last") == dict.fromkeys(NAMES, 4.0)


def test_a_log_that_begins_in_mid_run_says_so(plan, tmp_path):
    _, told, err = plan(write_log(tmp_path, first=30))
    assert "begins at step 30" in told["warnings"][0]
    assert "begins at step 30" in err


def test_a_log_with_a_header_alone_is_shown(plan, tmp_path):
    file = write_log(tmp_path, steps=2)
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    status, told, _ = plan(file)
    assert status == 0
    assert told["source"]["weights"] == []
    assert by_name(told["source"], "rows") == dict.fromkeys(NAMES, 0)
    assert plan(file, "--steps", 10)[0] == 2


def test_a_log_is_continued_with_its_last_weights(plan, log, capsys):
    _, told, _ = plan(log, "--steps", 100)
    assert by_name(told["preview"], "rows") == {"code": 220 + 60 * 7, "law": 100, "web": 380 + 60 * 8}
    main(["plan", str(log), "--steps", "100"])
    assert "from step 39 on, the last known weights are assumed" in capsys.readouterr().out


def test_logged_weights_on_other_data(plan, log, tmp_path):
    for name in NAMES:
        with ms.MDSWriter(columns={"tokens": "ndarray:uint16:4"}, out=str(tmp_path / "more" / name)) as writer:
            for _ in range(10):
                writer.write({"tokens": np.zeros(4, np.uint16)})
    _, told, _ = plan(log, "--data", tmp_path / "more", "--steps", 10)
    assert by_name(told["preview"], "epochs") == {"code": 4.0, "law": 1.0, "web": 11.0}
    assert by_name(told["preview"], "tokens")["law"] == 40
    assert len(told["warnings"]) == 1
    assert "'web' is read 11.0 times" in told["warnings"][0]


# --- a state ----------------------------------------------------------------------------------------------------------


def state_of(shards, steps, **kw):
    streams = [ms.Stream(name=name, remote=str(shards / name), split="train") for name in NAMES]
    return ms.StreamingDataset(streams=streams, batch_size=BATCH, shuffle=True, **kw).state_dict(steps * BATCH)


def learning_state(shards):
    """A state with the part that a learning mixer adds."""
    state = state_of(shards, 3)
    log = [[step, quantise(weights).tolist()] for step, weights in ((3, [1, 1, 2]), (4, [1, 1, 2]), (5, [2, 1, 1]))]
    mixing = {"lag": 2, "origin": 0, "reported": 3, "state": {}, "log": log, "drawn": []}
    return {**state, "mixing": mixing, "settings": {**state["settings"], "mixer": "ADO 1f", "lag": 2}}


def test_a_state_tells_where_its_run_is(plan, shards, tmp_path):
    state = state_of(shards, 7, mixer=ms.mixers.Static({"web": 2, "code": 1, "law": 1}))
    (tmp_path / "state.json").write_text(json.dumps(state))
    status, told, _ = plan(tmp_path / "state.json")
    run = told["source"]
    assert (status, run["kind"], run["step"], run["epoch"], run["learns"]) == (0, "state", 7, 0, False)
    assert by_name(run, "rows") == {"code": 28, "law": 28, "web": 56}
    assert by_name(run, "epochs") == {"code": 28 / 60, "law": 28 / 20, "web": 56 / 320}
    assert by_name(run, "tokens") == dict.fromkeys(NAMES)
    assert run["weights"] == [{"step": 7, "weights": {"code": 0.25, "law": 0.25, "web": 0.5}}]
    _, told, _ = plan(tmp_path / "state.json", "--data", shards)
    assert by_name(told["source"], "tokens") == {"code": 28 * WIDTH, "law": 28 * WIDTH, "web": 56 * WIDTH}


@pytest.mark.parametrize("place", [(), ("data",), ("callbacks", "mixstream")])
def test_a_state_is_found_in_a_checkpoint(plan, shards, tmp_path, place):
    held = state_of(shards, 2)
    for key in reversed(place):
        held = {"step": 2, key: held}
    torch.save({"model": {"weight": torch.zeros(3)}, "it": held} if not place else held, tmp_path / "checkpoint.pt")
    status, told, _ = plan(tmp_path / "checkpoint.pt")
    assert (status, told["source"]["step"]) == (0, 2)
    assert told["source"]["where"].endswith("".join(f"[{key!r}]" for key in place or ("it",)))


def test_of_a_learning_mixer_the_state_knows_the_coming_weights(plan, shards, tmp_path, capsys):
    (tmp_path / "state.json").write_text(json.dumps(learning_state(shards)))
    _, told, _ = plan(tmp_path / "state.json", "--data", shards, "--steps", 13)
    assert told["source"]["learns"]
    assert [point["step"] for point in told["source"]["weights"]] == [3, 4, 5]
    drawn = by_name(told["source"], "rows")
    ahead = {"code": 2 * 4 + 8 * 8, "law": 10 * 4, "web": 2 * 8 + 8 * 4}
    assert by_name(told["preview"], "rows") == {name: drawn[name] + ahead[name] for name in NAMES}
    main(["plan", str(tmp_path / "state.json"), "--steps", "13"])
    shown = capsys.readouterr().out
    assert "weights are known up to step 5; later ones depend on losses that are to come" in shown
    assert "from step 5 on, the last known weights are assumed" in shown


def test_weights_that_the_state_does_not_hold_are_said_to_be_missing(plan, shards, tmp_path, capsys):
    state = state_of(shards, 2, mixer=ms.mixers.Schedule({0: {"web": 1, "code": 1, "law": 1}}))
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert main(["plan", str(tmp_path / "state.json")]) == 0
    assert "Schedule's, which the state does not hold" in capsys.readouterr().out
    status, told, _ = plan(tmp_path / "state.json", "--steps", 10)
    assert status == 2
    assert "has no weights" in told["error"]["message"]


# --- a mixture to come ------------------------------------------------------------------------------------------------


def test_data_alone_is_one_natural_epoch(plan, shards):
    status, told, _ = plan("--data", shards)
    assert (status, told["source"]) == (0, None)
    assert by_name(told["preview"], "rows") == SIZES
    assert by_name(told["preview"], "epochs") == dict.fromkeys(NAMES, 1.0)


@pytest.fixture
def selections(shards, tmp_path):
    """A quarter of the rows of "web", and the rows of "code" in two buckets."""
    keep(tmp_path / "sel/web", shards / "web/train", np.arange(320) % 4 == 0)
    buckets(tmp_path / "sel/code", shards / "code/train", np.arange(60) % 3 - 1, ["low", "high"], domain="code")
    return tmp_path / "sel"


def test_selections_make_the_sizes_of_a_preview(plan, shards, selections):
    status, told, _ = plan("--data", str(shards), "--selection", str(selections))
    assert status == 0
    assert by_name(told["preview"], "rows") == {"web": 80, "code/low": 20, "code/high": 20, "law": 20}


def test_the_data_of_a_selected_run_need_its_selection(plan, shards, selections, tmp_path, capsys):
    options = {"web": {"selection": selections}, "code": {"split_by": selections}, "law": {}}
    each = [ms.Stream(remote=str(shards / name), split="train", **given) for name, given in options.items()]
    state = tmp_path / "state.json"
    state.write_text(json.dumps(ms.StreamingDataset(streams=each, batch_size=BATCH).state_dict()))
    _, told, _ = plan(str(state), "--data", str(shards), "--selection", str(selections))
    assert by_name(told["source"], "samples") == {"web": 80, "code/low": 20, "code/high": 20, "law": 20}
    assert main(["plan", str(state), "--data", str(shards)]) == 2
    assert "by a selection, and --data has all of their samples: give that --selection" in capsys.readouterr().err
    with ms.Loader(ms.StreamingDataset(streams=each, batch_size=BATCH), log=tmp_path / "log") as loader:
        for _, batch in zip(range(3), loader):
            loader.report(batch, torch.ones(len(batch.domain)))
    assert main(["plan", str(tmp_path / "log"), "--data", str(shards)]) == 2
    assert "log/mixture.jsonl reads the domains ['" in (told := capsys.readouterr().err)
    assert "'code/high'] by a selection, and --data has all" in told


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (["--mixer", "stratified"], {"code": 400, "law": 400, "web": 400}),
        (["--mixer", "natural"], {"code": 180, "law": 60, "web": 960}),
        (["--mixer", "temperature", "--temperature", "1"], {"code": 180, "law": 60, "web": 960}),
        (["--mixer", "unimax", "--max-epochs", "4"], {"code": 240, "law": 80, "web": 880}),
        (["--weights", "web=2", "code=1", "law=0"], {"code": 400, "law": 0, "web": 800}),
    ],
)
def test_static_mixtures_by_name(plan, shards, options, rows):
    _, told, _ = plan("--data", shards, *options, "--steps", 75, "--batch-size", BATCH)
    assert by_name(told["preview"], "rows") == rows
    assert told["preview"]["end_step"] == 75
    _, told, _ = plan("--data", shards, *options, "--tokens", 75 * BATCH * WIDTH)
    assert by_name(told["preview"], "rows") == rows
    assert told["preview"]["end_step"] is None


def test_shards_in_a_store_are_planned_as_those_on_disk(plan, shards, s3):
    s3.upload(shards)
    s3.put("web/val/index.json", b"not asked for")
    options = ("--mixer", "temperature", "--temperature", "2", "--tokens", "4k")
    assert plan("--data", s3.url, *options) == plan("--data", shards, *options)


def test_a_store_that_cannot_be_read_is_a_failure_that_names_the_endpoint(s3, monkeypatch, capsys):
    monkeypatch.setattr("mixstream.storage.retry.Retry.pause", lambda self, number: 0.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("S3_ENDPOINT_URL", endpoint)
    assert main(["plan", "--data", s3.url]) == 1
    assert f"the connection to {endpoint} was refused" in capsys.readouterr().err


def test_a_damaged_index_in_the_data_is_a_failure_that_names_its_place(plan, shards, tmp_path, capsys):
    (tmp_path / "web" / "train").mkdir(parents=True)
    (tmp_path / "web" / "train" / "index.json").write_text("{")
    assert main(["plan", "--data", str(tmp_path)]) == 1
    assert str(tmp_path / "web" / "train") in capsys.readouterr().err


def test_repeating_too_often_is_warned_of(plan, shards, capsys):
    _, told, err = plan("--data", shards, "--mixer", "stratified", "--steps", 20, "--batch-size", 12)
    assert by_name(told["preview"], "epochs")["law"] == 4.0
    assert not told["warnings"]
    _, told, err = plan("--data", shards, "--mixer", "stratified", "--steps", 21, "--batch-size", 12)
    assert "'law' is read 4.2 times" in told["warnings"][0]
    assert "2305.16264" in err
    assert main(["plan", "--data", str(shards), "--mixer", "stratified"]) == 0
    shown = capsys.readouterr()
    assert "warning: domain 'law'" in shown.err
    assert "preview: a run of 400 rows" in shown.out


def test_a_domain_leaves_at_its_limit_and_the_others_take_its_part(plan, shards, capsys):
    arguments = ["--data", shards, "--mixer", "stratified", "--max-epochs", 1, "--steps", 20, "--batch-size", 12]
    status, told, _ = plan(*arguments)
    assert status == 0
    assert by_name(told["preview"], "rows") == {"code": 60, "law": 20, "web": 160}
    assert by_name(told["preview"], "leaves_at") == {"code": 11, "law": 5, "web": None}
    main(["plan", *map(str, arguments)])
    assert "in step 11" in capsys.readouterr().out


def test_a_run_that_cannot_reach_its_end_has_status_1(plan, shards):
    status, told, err = plan("--data", shards, "--max-epochs", 1, "--steps", 30, "--batch-size", BATCH)
    assert (status, told["status"], told["preview"]["end_step"]) == (1, "ends early", 25)
    assert by_name(told["preview"], "rows") == SIZES
    assert "ends at step 25, of 30" in err


# --- the preview and the run ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=3), min_size=1, max_size=4),
    lanes=st.sampled_from([1, 2]),
    steps=st.integers(0, 30),
    cap=st.none() | st.integers(1, 3),
)
def test_a_preview_is_what_the_plan_draws(shards, weights, lanes, steps, cap):
    """To 2 rows a lane where weights change by step (law 4); limits and their redistribution add a row for each."""
    changes = {7 * at: dict(zip(NAMES, entry)) for at, entry in enumerate(weights)}
    streams = [ms.Stream(name=name, remote=str(shards / name), split="train", max_epochs=cap) for name in NAMES]
    mixer = ms.mixers.Schedule(changes)
    run = ms.StreamingDataset(streams=streams, batch_size=BATCH, mixer=mixer, num_canonical_nodes=lanes).run
    walk = run.walk(run.start(), run.weights(None))
    done = 0
    while done < steps and walk.advance() is not None:
        done += 1
    drawn_K = walk.cursor.drawn_LK.sum(axis=0)
    course = Course(
        step_C=np.array([*changes]),
        weights_CK=np.stack([quantise(mixer.weights_at(step, NAMES)) / WEIGHT_UNIT for step in changes]),
    )
    room_K = np.array([np.inf if cap is None else cap * size for size in SIZES.values()])
    outlook = look_ahead(course, first=0, end=steps, batch=BATCH, room_K=room_K)
    slack = 2 * lanes if cap is None else 5 * lanes + BATCH * (done < steps)
    assert abs(outlook.end - done) <= (done < steps)
    assert np.abs(outlook.rows_K - drawn_K).max() < slack


def test_a_long_run_is_previewed_at_once(plan, shards):
    """10 million steps of 1,024 rows; walked, they would take hours."""
    status, told, _ = plan("--data", shards, "--mixer", "stratified", "--steps", "10m", "--batch-size", 1024)
    assert status == 0
    assert sum(by_name(told["preview"], "rows").values()) == 10_000_000 * 1024


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to plan"),
        (["nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["."], "holds no mixture.jsonl"),
        (["LOG", "--mixer", "natural"], "has its own weights"),
        (["LOG", "--steps", "10", "--tokens", "10"], "twice"),
        (["LOG", "--steps", "ten"], "'ten' of `--steps`, a number of steps"),
        (["--data", "SHARDS", "--tokens", "nan"], "'nan' of `--tokens`, a number of tokens"),
        (["LOG", "--points", "0"], "--points"),
        (["s3://bucket/log/mixture.jsonl"], "copy it here first"),
        (["--data", "nowhere"], "no such directory"),
        (["--data", "LOG"], "it is a file: give the directory"),
        (["--data", "."], "no dataset is there"),
        (["--data", "ONE"], "no domain with train/index.json"),
        (["--data", "SHARDS", "--split", "val"], "no domain with val/index.json"),
        (["--data", "SHARDS", "--steps", "10"], "--batch-size"),
        (["--data", "SHARDS", "--mixer", "natural", "--weights", "web=1"], "twice"),
        (["--data", "SHARDS", "--weights", "web"], "NAME=WEIGHT"),
        (["--data", "SHARDS", "--weights", "web=much"], "NAME=WEIGHT"),
        (["--data", "SHARDS", "--weights", "web=1"], "gives no weight to the domains"),
        (["--data", "SHARDS", "--mixer", "temperature"], "--temperature"),
        (["--data", "SHARDS", "--mixer", "unimax"], "--max-epochs"),
        (["--data", "SHARDS", "--max-epochs", "0"], "above 0"),
        (["--data", "SHARDS", "--mixer", "ado"], "unimax"),
        (["STATE", "--tokens", "1000"], "give --steps"),
        (["STATE", "--steps", "1"], "at step 2 already"),
        (["OTHER", "--data", "SHARDS"], "mixes the domains"),
        (["LOG", "--selection", "sel"], "--selection goes with --data"),
        (["NEITHER"], "neither a mixing log"),
        (["BROKEN"], "begins like JSON"),
        (["EMPTY"], "holds no state"),
    ],
)
def test_wrong_use_is_told_with_status_2(arguments, said, shards, log, tmp_path, monkeypatch, capsys):
    state = state_of(shards, 2)
    texts = {
        "STATE": json.dumps(state),
        "OTHER": json.dumps(json.loads(json.dumps(state).replace('"web"', '"wiki"'))),
        "NEITHER": "a shopping list",
        "BROKEN": '{"mixstream": 1,',
        "EMPTY": '{"model": {}}',
    }
    (tmp_path / "here").mkdir()
    for name, text in texts.items():
        (tmp_path / "here" / name).write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    places = {"LOG": str(log), "SHARDS": str(shards), "ONE": str(shards / "web" / "train")}
    assert main(["plan", *(places.get(word, word) for word in arguments)]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out


def test_a_damaged_state_has_status_1(shards, tmp_path, capsys):
    state = state_of(shards, 2)
    (tmp_path / "state.json").write_text(json.dumps({**state, "total": []}))
    assert main(["plan", str(tmp_path / "state.json")]) == 1
    assert "damaged" in capsys.readouterr().err
    learning = learning_state(shards)
    learning["mixing"]["log"] = [[3, [1, 2]]]
    (tmp_path / "state.json").write_text(json.dumps(learning))
    assert main(["plan", str(tmp_path / "state.json")]) == 1
    assert "log of weights" in capsys.readouterr().err


def test_nothing_in_a_checkpoint_is_run(tmp_path, capsys):
    torch.save({"error": ExhaustedError("an object of a class")}, tmp_path / "checkpoint.pt")
    assert main(["plan", str(tmp_path / "checkpoint.pt")]) == 2
    assert "without running code" in capsys.readouterr().err
