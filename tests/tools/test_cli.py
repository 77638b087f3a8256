"""How every command starts and ends: help, exit status, errors in words and as JSON."""

import json
import multiprocessing.popen_spawn_posix
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from selections import score

from mixstream.errors import ShardCorruptError
from mixstream_tools import cli
from mixstream_tools.cli import COMMANDS, GROUPS, main

OPTIONS_OF_CONVERT = {
    *("--out", "--tokenizer", "--seq-len", "--text-key", "--domain-key", "--format", "--include", "--exclude"),
    *("--eos", "--val-fraction", "--seed", "--on-bad-document", "--compression", "--hashes", "--size-limit"),
    *("--workers", "--overwrite", "--work", "--keep-work", "--json"),
    *("--as-text", "--document-separator", "--bos", "--special-tokens", "--remove"),
    *("--extract", "--from-tokenizer"),
    *("--part", "--parts", "--engine", "--ray-address"),
    *("--train-bpe", "--rows", "--id-key", "--keep"),
    *("--text-join", "--text-template", "--messages-key", "--chat-template", "--loss-mask"),
    *("--domain-map", "--domain-default", "--domain-function"),
    *("--filter", "--filter-ids", "--drop-ids", "--filter-function", "--max-rejects", "--config"),
}


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for name, (summary, _) in {**{n: (s, "") for n, (_, s) in COMMANDS.items() if " " not in n}, **GROUPS}.items():
        assert name in told
        assert summary.split()[0] in told


@pytest.fixture
def group(monkeypatch, tmp_path):
    """A group `things` of two commands, of which `things good` returns 0 and `things absent` cannot be imported."""
    (tmp_path / "mixstream_things.py").write_text(
        'def good(*, n: int):\n    """Do it.\n\n    mixstream things good"""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(cli.GROUPS, "things", ("Handle things.", "Handle things in many ways."))
    monkeypatch.setitem(cli.COMMANDS, "things good", ("mixstream_things:good", "Do good."))


@pytest.mark.usefixtures("group")
def test_a_group_lists_its_commands_without_importing_them(capsys, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "things absent", ("mixstream_things_absent:absent", "Be absent."))
    assert main(["things", "--help"]) == 0
    told = capsys.readouterr().out
    assert "in many ways" in told
    assert "Do good." in told
    assert "Be absent." in told
    assert main(["--help"]) == 0
    assert "Handle things." in capsys.readouterr().out


@pytest.mark.usefixtures("group")
def test_a_command_of_a_group_runs_and_has_its_own_help(capsys):
    assert main(["things", "good", "--n", "1"]) == 0
    assert main(["things", "good", "--help"]) == 0
    assert "mixstream things good" in capsys.readouterr().out
    assert main(["things", "good"]) == 2
    assert "`mixstream things good --help`" in capsys.readouterr().err
    assert main(["things", "nonsense"]) == 2
    assert "`mixstream things --help`" in capsys.readouterr().err


def test_help_imports_no_command_and_no_torch():
    """The test of `mixstream --help` being fast that does not depend on the machine."""
    script = (
        "import sys; from mixstream_tools.cli import main; status = main(['--help']);"
        "heavy = [m for m in sys.modules if m in ('torch', 'numpy') or m.startswith('mixstream_tools.convert')];"
        "sys.exit(status or (str(heavy) if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("mixstream-data")


def test_options_of_convert_are_frozen(capsys, monkeypatch):
    """A new option is a promise: add it here, and to docs/ where its page lists options, on purpose."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["convert", "--help"]) == 0
    told = capsys.readouterr().out
    shown = set(re.findall(r"(?<![\w-])--[a-z-]+(?= )", told[told.index("Parameters") :]))
    assert shown == OPTIONS_OF_CONVERT
    assert "mixstream convert corpus/ --out shards/" in told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["convret"], "convert"),
        (["convert", "x", "--uot", "y"], "--uot"),
        (["convert", "x"], "--out"),
        (["convert", "x", "--out", "y", "--seq-len", "many"], "--seq-len"),
        (["convert", "x", "--out", "y", "--on-bad-document", "ignore"], "skip"),
        (["convert", "--out", "y"], "no SRC"),
        (["convert", "/nowhere/at/all", "--out", "y"], "/nowhere/at/all"),
    ],
)
def test_wrong_use_is_told_in_a_line_with_status_2(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert expected in told.err
    assert "Traceback" not in told.err
    assert not told.out


@pytest.fixture(scope="module")
def odd_place(library, tmp_path_factory):
    """A directory with what the commands below read."""
    place = tmp_path_factory.mktemp("odd")
    (place / "text.txt").write_text("words " * 50)
    (place / "web").symlink_to(library / "web")
    score(place / "scores", library / "web", quality=np.arange(150.0))
    return place


ODD_OPTIONS = {
    "convert text.txt --out out": {
        "--train-bpe": "huge -1 nan", "--workers": "huge 0 -1", "--seq-len": "0 -1 huge nan",
        "--val-fraction": "nan -1 2 inf", "--domain-function": "none", "--filter-function": "none",
        "--size-limit": "-1 none nan", "--part": "-1 none 1/0",
        "--tokenizer": "none",
    },
    "reshard web --out out": {"--size-limit": "-1 none nan", "--workers": "0 huge", "--parts": "-1 huge"},
    "merge web --out out": {"--download-timeout": "nan -1"},
    "verify web": {"--samples": "-1 nan", "--download-timeout": "nan inf -1 0"},
    "inspect web": {"--samples": "-1 nan", "--html": "none", "--seq-len": "-1 0"},
    "pack web --out out": {"--seq-len": "-1 0 nan"},
    "select where scores quality>3 --out out": {"--row-tokens": "-1 huge nan"},
    "select top scores --out out": {"--fraction": "nan -1 2 inf", "--rows": "-1 nan"},
    "select random web --out out": {"--fraction": "nan -1 2 inf", "--rows": "-1 huge", "--seed": "nan none"},
    "prune run --emb emb --side hard --out out": {"--fraction": "nan -1 2 inf"},
    "prune d4 --emb emb --out out": {"--r": "nan -1 2"},
    "prune domains --emb emb --out out": {"--k": "0 -1 nan"},
    "demo": {"--steps": "-1 0 nan"},
}  # fmt: skip
"""A command → an option → odd values of it; `huge` is a number of 30 digits, and `none` is empty."""


@pytest.mark.parametrize("command", ODD_OPTIONS)
def test_odd_values_of_options_are_wrong_use(command, odd_place, capsys, monkeypatch):
    """And they are found before anything is started: no process, and no second of work."""
    monkeypatch.chdir(odd_place)
    for starts in (subprocess.Popen, multiprocessing.popen_spawn_posix.Popen):
        monkeypatch.setattr(starts, "__init__", lambda *args, **kw: pytest.fail("a process is started"))
    found = []
    for option, values in ODD_OPTIONS[command].items():
        for value in values.split():
            status = main([*command.split(), option, {"huge": "9" * 30, "none": ""}.get(value, value)])
            told = capsys.readouterr()
            if status != 2 or not told.err.strip() or "Traceback" in told.err:
                found.append((option, value, status, told.err[-200:]))
    assert not found
    assert not (odd_place / "out").exists()


def test_wrong_use_points_to_the_help_of_the_command(capsys):
    main(["convert", "x"])
    assert "`mixstream convert --help`" in capsys.readouterr().err


@pytest.fixture
def failing(monkeypatch):
    """Register a command that raises what it is given."""

    def register(error: BaseException) -> None:
        def fail(*, as_json: bool = False) -> int:
            """Fail."""
            raise error

        module = type(sys)("mixstream_failing")
        module.fail = fail
        monkeypatch.setitem(sys.modules, "mixstream_failing", module)
        monkeypatch.setitem(cli.COMMANDS, "fail", ("mixstream_failing:fail", "Fail."))

    return register


def test_a_failure_has_status_1_and_tells_its_notes(failing, capsys):
    error = ShardCorruptError("shard 3 has 7 bytes")
    error.add_note("domain 'web'")
    failing(error)
    assert main(["fail"]) == 1
    assert capsys.readouterr().err == "mixstream: error: shard 3 has 7 bytes\n  domain 'web'\n"


def test_an_os_error_is_a_failure_not_a_traceback(failing, capsys):
    failing(OSError(28, "No space left on device", "shard.00000.mds"))
    assert main(["fail"]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_an_interrupt_has_status_130(failing, capsys):
    interrupt = KeyboardInterrupt()
    interrupt.add_note("go on with the same command")
    failing(interrupt)
    assert main(["fail"]) == 130
    assert capsys.readouterr().err == "mixstream: interrupted\n  go on with the same command\n"


def test_a_bug_keeps_its_traceback(failing):
    failing(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


def test_with_json_a_failure_is_one_document_on_stdout(capsys, tmp_path):
    assert main(["convert", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--json"]) == 2
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["status"] == "error"
    assert document["error"]["type"] == "ConfigError"
    assert str(tmp_path / "none") in document["error"]["message"]
    assert "mixstream: error:" in told.err


def test_the_installed_command_runs(tmp_path: Path):
    (tmp_path / "a.txt").write_text("hello " * 100)
    command = [sys.executable, "-m", "mixstream_tools.cli", "convert", "a.txt", "--out", "out", "--seq-len", "64"]
    done = subprocess.run([*command, "--workers", "1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a" in done.stdout
    assert (tmp_path / "out" / "a" / "train" / "index.json").is_file()


def test_a_command_may_have_commands_of_its_name_below_it(capsys, monkeypatch, tmp_path):
    (tmp_path / "mixstream_pairs.py").write_text(
        'def one(*, out: str = ""):\n    """Do one."""\n    print("one", out)\n\n\n'
        'def two(*, n: int):\n    """Do two."""\n    print("two", n)\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(cli.COMMANDS, "pair", ("mixstream_pairs:one", "One."))
    monkeypatch.setitem(cli.COMMANDS, "pair two", ("mixstream_pairs:two", "Two."))
    assert main(["pair", "--out", "two"]) == main(["pair", "two", "--n", "3"]) == main(["pair"]) == 0
    assert capsys.readouterr().out.split() == ["one", "two", "two", "3", "one"]
    assert main(["pair", "two"]) == 2
    assert "`mixstream pair two --help`" in capsys.readouterr().err
