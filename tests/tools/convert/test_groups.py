"""Commands that add, replace and remove domains of one output: what the others hold stays, whatever kills them."""

import json
import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from threading import Lock

import pytest
from shelf import Shelf

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.storage import Retry
from mixstream_tools.cli import main
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.files.source_files import SourceError
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.ledger import ledger as ledger_module
from mixstream_tools.convert.publish.remote import Remote
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer


def recipe(key: str | None = None, **options) -> Recipe:
    fixed = {"tokenizer": describe_tokenizer("bytes"), "fields": Fields(text="text", domain=key), "seq_len": 16}
    return Recipe(**{**fixed, "part_bytes": 4000, **options})


@pytest.fixture
def source(write_tree):
    lines = "".join(json.dumps({"text": f"{at} " * (at % 40 + 1)}) + "\n" for at in range(100))
    return write_tree(
        {
            "web/lines.jsonl": lines,
            **{f"code/{at:02}.py": f"x = {at}\n" * 300 for at in range(4)},
            "books/one.txt": "once upon a time " * 400,
            "keyed/a.jsonl": keyed("Wiki", "Law"),
            "keyed/b.jsonl": keyed("Law", "Art"),
            "keyed/c.jsonl": keyed("Sea", "Sky"),
            "keyed/web.jsonl": keyed("Sky2", "web"),
        }
    )


def keyed(*domains: str) -> str:
    texts = [(domain, f"{domain} {at} " * 30) for at in range(20) for domain in domains]
    return "".join(json.dumps({"text": text, "of": domain}) + "\n" for domain, text in texts)


def convert(source, out, *names, made=None, store=None, **options):
    remote = Remote(store=store, retry=Retry(attempts=1)) if store is not None else None
    paths = [str(source / name) for name in names]
    return run_conversion(paths, out=out, recipe=made or recipe(), remote=remote, **options)


def by_key(source, out, *names, **options):
    return convert(source, out, *(f"keyed/{name}.jsonl" for name in names), **{"made": recipe("of"), **options})


def below(files: dict[str, bytes], *domains: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.partition("/")[0] in domains}


def domains(out: Path) -> list[str]:
    return [*json.loads((out / "domains.json").read_bytes())["domains"]]


def test_a_new_domain_is_added_and_the_result_is_that_of_one_command(source, tmp_path, snapshot):
    for name in ("web", "code", "books"):
        assert convert(source, tmp_path / "out", name)["faults"] == []
    convert(source, tmp_path / "whole", "web", "code", "books")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")
    assert convert(source, tmp_path / "out", "code")["status"] == "nothing to do"


def test_overwrite_replaces_the_domains_that_are_named_alone(source, tmp_path, snapshot):
    out = tmp_path / "out"
    convert(source, out, "web", "code", "books")
    before = snapshot(out)
    with pytest.raises(StateError, match=r"--seq-len was 16, is 32.*rebuilds web and leaves books, code as it is"):
        convert(source, out, "web", made=recipe(seq_len=32))
    assert snapshot(out) == before
    told = convert(source, out, "web", made=recipe(seq_len=32), overwrite=True)
    assert sorted(told["domains"]) == domains(out) == ["books", "code", "web"]
    convert(source, tmp_path / "other", "web", made=recipe(seq_len=32))
    assert below(snapshot(out), "web") == below(snapshot(tmp_path / "other"), "web")
    assert below(snapshot(out), "books", "code") == below(before, "books", "code")
    # the others are still known by their own options
    assert convert(source, out, "web", made=recipe(seq_len=32))["status"] == "nothing to do"
    assert convert(source, out, "code")["status"] == "nothing to do"
    convert(source, out, "web", "code", overwrite=True)
    assert below(snapshot(out), "web", "books", "code") == below(before, "web", "books", "code")


def test_other_options_for_a_new_domain_are_refused_and_overwrite_adds_it(source, tmp_path):
    convert(source, tmp_path / "out", "web")
    with pytest.raises(StateError, match="--seq-len was 16, is 32"):
        convert(source, tmp_path / "out", "code", made=recipe(seq_len=32))
    assert domains(tmp_path / "out") == ["web"]
    convert(source, tmp_path / "out", "code", made=recipe(seq_len=32), overwrite=True)
    assert domains(tmp_path / "out") == ["code", "web"]


def test_a_domain_is_removed_by_its_name_alone(source, tmp_path, snapshot, capsys):
    out = tmp_path / "out"
    convert(source, out, "web", "code")
    with pytest.raises(ConfigError, match=r"--remove nope: .* It has code, web\."):
        convert(source, out, remove=("nope",))
    assert main(["convert", "--out", str(out), "--remove", "code"]) == 0
    capsys.readouterr()
    convert(source, tmp_path / "whole", "web")
    assert snapshot(out) == snapshot(tmp_path / "whole")
    convert(source, out, "books", remove=("web",))
    assert domains(out) == ["books"]


def test_domains_that_lines_name_are_added_and_never_replaced_unasked(source, tmp_path, snapshot):
    out = tmp_path / "out"
    by_key(source, out, "a")
    first = snapshot(out)
    by_key(source, out, "c")
    assert domains(out) == ["Law", "Sea", "Sky", "Wiki"]
    assert below(snapshot(out), "Law", "Wiki") == below(first, "Law", "Wiki")
    assert by_key(source, out, "a")["status"] == by_key(source, out, "c")["status"] == "nothing to do"
    before = snapshot(out)
    with pytest.raises(StateError, match=r"domain 'Law' is there already.*--overwrite"):
        by_key(source, out, "b")
    assert snapshot(out) == before
    by_key(source, out, "b", overwrite=True)
    assert domains(out) == ["Art", "Law", "Sea", "Sky", "Wiki"]
    assert below(snapshot(out), "Sea", "Sky", "Wiki") == below(before, "Sea", "Sky", "Wiki")
    by_key(source, tmp_path / "b", "b")
    for name in ("Art", "Law"):
        assert rows(out, name) == rows(tmp_path / "b", name)
    convert(source, out, remove=("Law", "Art"))
    assert domains(out) == ["Sea", "Sky", "Wiki"]
    by_key(source, out, "b")
    assert rows(out, "Law") == rows(tmp_path / "b", "Law")


def test_a_job_that_lost_a_domain_keeps_the_others_when_it_runs_again(source, tmp_path, snapshot):
    out = tmp_path / "out"
    by_key(source, out, "a")  # Wiki, Law
    by_key(source, out, "b", overwrite=True)  # Law, Art
    before = snapshot(out)
    with pytest.raises(StateError, match=r"domain 'Law' is there already, of other sources\. Nothing that was there"):
        by_key(source, out, "a")
    assert snapshot(out) == before
    by_key(source, out, "a", overwrite=True)
    assert domains(out) == ["Art", "Law", "Wiki"]


def test_a_conversion_that_met_a_bad_file_goes_on_once_it_is_mended(source, tmp_path, snapshot):
    out = tmp_path / "out"
    (source / "code/03.py").write_bytes(b"caf\xe9 " * 600)
    with pytest.raises(SourceError, match="not UTF-8"):
        convert(source, out, "web", "code")
    (source / "code/03.py").write_text("café " * 600)
    convert(source, out, "web", "code")
    convert(source, tmp_path / "whole", "web", "code")
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_finished_parts_are_not_thrown_away_for_other_options(source, tmp_path):
    out = tmp_path / "out"
    (source / "code/03.py").write_bytes(b"caf\xe9 " * 600)
    with pytest.raises(SourceError, match="not UTF-8"):
        convert(source, out, "code")
    with pytest.raises(StateError, match="--seq-len was 16, is 32"):
        convert(source, out, "code", made=recipe(seq_len=32))
    (source / "books/one.txt").write_bytes(b"caf\xe9 " * 600)
    with pytest.raises(SourceError, match="not UTF-8"):
        convert(source, tmp_path / "none", "books")  # a single part
    (source / "books/one.txt").write_text("once upon a time " * 400)
    assert convert(source, tmp_path / "none", "books", made=recipe(seq_len=32))["faults"] == []


def rows(out: Path, domain: str) -> list[list[int]]:
    dataset = ms.StreamingDataset(remote=str(out / domain), split="train", batch_size=1)
    return [dataset[at]["tokens"].tolist() for at in range(dataset.epoch_size)]


def test_lines_and_sources_that_name_one_domain(source, tmp_path, snapshot):
    out = tmp_path / "out"
    convert(source, out, "web")
    before = snapshot(out)
    with pytest.raises(StateError, match="domain-key was null"):
        by_key(source, out, "web")
    assert snapshot(out) == before
    by_key(source, out, "web", overwrite=True)
    by_key(source, tmp_path / "keyed", "web")
    assert domains(out) == ["Sky2", "web"]
    assert rows(out, "web") == rows(tmp_path / "keyed", "web")
    convert(source, out, "web", overwrite=True)
    assert domains(out) == ["Sky2", "web"]
    assert below(snapshot(out), "web") == below(before, "web")
    assert rows(out, "Sky2") == rows(tmp_path / "keyed", "Sky2")


def test_a_dataset_of_another_program_is_left_alone(source, tmp_path, snapshot):
    out = tmp_path / "out"
    convert(source, out, "code")
    with ms.MDSWriter(out=out / "web/train", columns={"x": "int"}) as writer:
        writer.write({"x": 1})
    before = snapshot(out)
    with pytest.raises(ConfigError, match="which convert did not write"):
        convert(source, out, "web", overwrite=True)
    with pytest.raises(StateError, match="that convert did not write"):
        by_key(source, out, "web", overwrite=True)
    convert(source, out, "books")
    assert below(snapshot(out), "web", "code") == below(before, "web", "code")


def test_an_interrupted_domain_is_named_until_its_command_ran_to_its_end(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    convert(source, out, "web")
    kill_at(monkeypatch, out, source, at=4)
    told = convert(source, out, "books")
    assert [fault for fault in told["faults"] if "domain 'code' is unfinished" in fault and "--remove code" in fault]
    assert not (out / "domains.json").exists()
    assert convert(source, out, "code")["faults"] == []
    assert domains(out) == ["books", "code", "web"]


def kill_at(monkeypatch, out, source, *, at: int) -> None:
    """Convert `code` in a child that kills itself before its change number `at` of a file."""
    pid = os.fork()
    if not pid:
        left = [at]

        def kill(path):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            before_changes(monkeypatch, kill)
            convert(source, out, "code")
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def before_changes(monkeypatch, act) -> None:
    """Call `act` with the name of a change and its path before each change of a file."""
    for module, name in ((Path, "unlink"), (Path, "rmdir"), (Path, "replace"), (ledger_module.shutil, "rmtree")):
        change = getattr(module, name)

        def changed(path, *rest, change=change, name=name, **named):
            act(f"{name} {path}")
            return change(path, *rest, **named)

        monkeypatch.setattr(module, name, changed)


def copies_before_changes(monkeypatch, out, run) -> list[Path]:
    """Copies of `out` as a kill before each change leaves it; of changes that differ in numbers, first and last."""
    copies: dict[str, list[Path]] = {}
    one_at_a_time = Lock()  # writers have threads
    remove_tree = shutil.rmtree  # the one that is not watched

    def copy(change):
        kind = re.sub(r"\d+", "N", change.replace(str(out), ""))
        with one_at_a_time:
            alike = copies.setdefault(kind, [])
            if len(alike) == 2:
                remove_tree(alike.pop())
            to = out.with_name(f"{[*copies].index(kind)}-{len(alike)}")
            alike.append(shutil.copytree(out, to, copy_function=copy_if_there))

    with monkeypatch.context() as patched:
        before_changes(patched, copy)
        run(out)
    return [path for alike in copies.values() for path in alike]


def copy_if_there(path: str, to: str) -> None:
    """Writing threads go on meanwhile."""
    with suppress(FileNotFoundError):
        shutil.copy2(path, to)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"names": ["web"], "made": recipe(seq_len=32), "overwrite": True},
        {"names": [], "remove": ("web",)},
        {"names": [], "remove": ("Wiki",)},
        {"names": [], "remove": ("Wiki", "Law")},
        {"names": ["keyed/web.jsonl"], "made": recipe("of"), "overwrite": True},
    ],
    ids=["add", "replace", "remove", "remove-one-of-a-job", "remove-a-job", "keyed"],
)
def test_killed_before_any_change_of_a_file_it_goes_on(source, tmp_path, snapshot, monkeypatch, options):
    def run(out):
        convert(source, out, *options.get("names", ["code"]), **{k: v for k, v in options.items() if k != "names"})

    out = tmp_path / "out"
    by_key(source, out, "a")
    convert(source, out, "web", "books", overwrite=True)
    books = snapshot(out / "books")
    copies = copies_before_changes(monkeypatch, out, run)
    whole = snapshot(out)
    assert len(copies) > 5
    for copy in copies:
        assert snapshot(copy / "books") == books
        run(copy)
        assert {name: data for name, data in snapshot(copy).items() if not name.endswith(".tmp")} == whole


def with_rejects(source, out, **options):
    """Domains Wiki and Law of a job, and books and web, with bad lines among those of the job and of web."""
    for name in ("keyed/a", "web/lines"):
        with (source / f"{name}.jsonl").open("a") as file:
            file.write("no JSON\n" * 2)
    by_key(source, out, "a", **{**options, "made": recipe("of", on_bad_document="skip")})
    convert(source, out, "web", "books", made=recipe(on_bad_document="skip"), overwrite=True, **options)


def test_a_job_is_gone_with_its_last_domain_whatever_numbers_the_parts_of_others_have(source, tmp_path):
    out = tmp_path / "out"
    with_rejects(source, out)
    assert (out / "rejects.jsonl").exists()
    told = convert(source, out, remove=("Wiki", "Law"))
    assert told["faults"] == []
    assert told["skipped"]["files"] == ["web/rejects.jsonl"]
    assert domains(out) == ["books", "web"]
    assert not (out / "rejects.jsonl").exists()


def test_a_removal_that_is_killed_leaves_no_rejects(source, tmp_path, snapshot, monkeypatch):
    out = tmp_path / "out"
    with_rejects(source, out)
    copies = copies_before_changes(monkeypatch, out, lambda out: convert(source, out, remove=("web",)))
    assert len(copies) > 2
    for copy in copies:
        convert(source, copy, remove=("web",))
        assert snapshot(copy) == snapshot(out)


# At a store


def test_rejects_leave_a_store_with_the_job_that_had_them(source, tmp_path):
    store = Shelf()
    with_rejects(source, tmp_path / "work", store=store)
    assert {"rejects.jsonl", "web/rejects.jsonl"} <= {*store.objects}
    convert(source, tmp_path / "elsewhere", store=store, remove=("Wiki", "Law"))  # another machine
    assert [name for name in store.objects if "rejects" in name] == ["web/rejects.jsonl"]
    convert(source, tmp_path / "elsewhere", store=store, remove=("web",))
    assert not [name for name in store.objects if "rejects" in name]


def test_a_store_keeps_what_no_command_names(source, tmp_path):
    store = Shelf()
    convert(source, tmp_path / "work", "web", store=store)
    web = below(store.objects, "web")
    convert(source, tmp_path / "work", "code", store=store)
    convert(source, tmp_path / "elsewhere", "books", store=store)  # another machine
    convert(source, tmp_path / "whole", "web", "code", "books")
    made = {name: (tmp_path / "whole" / name).read_bytes() for name in store.objects}
    assert store.objects == made
    assert below(store.objects, "web") == web
    convert(source, tmp_path / "third", "code", made=recipe(seq_len=32), store=store, overwrite=True)
    assert [*json.loads(store.objects["domains.json"])["domains"]] == ["books", "code", "web"]
    assert below(store.objects, "web", "books") == below(made, "web", "books")
    convert(source, tmp_path / "work", store=store, remove=("code",))
    assert not below(store.objects, "code")
    assert [*json.loads(store.objects["domains.json"])["domains"]] == ["books", "web"]
    assert convert(source, tmp_path / "work", "web", store=store)["status"] == "nothing to do"


def test_a_machine_that_comes_second_does_not_drop_the_domains_of_the_first(source, tmp_path):
    store = Shelf()
    convert(source, tmp_path / "work", "web", store=store)
    done = []

    def meanwhile(name):
        if not done:
            done.append(convert(source, tmp_path / "other", "code", store=store))

    store.before["write books/train/index.json"] = meanwhile
    with pytest.raises(StateError, match="has begun to change it"):
        convert(source, tmp_path / "elsewhere", "books", store=store)
    convert(source, tmp_path / "elsewhere", "books", store=store)
    assert [*json.loads(store.objects["domains.json"])["domains"]] == ["books", "code", "web"]
    assert convert(source, tmp_path / "other", "code", store=store)["faults"] == []
