"""`convert --out URL`: what the store holds in the end, in which order it came there, and what a restart does again."""

import json
import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from shelf import Shelf, raising

import mixstream as ms
from mixstream.errors import ConfigError, StateError, StoreAccessError, StoreFaultError
from mixstream.formats import INDEX_HASHES, check_index_hash
from mixstream.storage import Retry
from mixstream.storage.stores.local import LocalStore
from mixstream_tools.cli import main
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.publish import options
from mixstream_tools.convert.publish.remote import Remote, default_work
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer

FAST = Retry(attempts=3, unit=0.001)


def recipe(**options) -> Recipe:
    fixed = {"tokenizer": describe_tokenizer("bytes"), "fields": Fields(text="text"), "seq_len": 16, "part_bytes": 4000}
    return Recipe(**{**fixed, **options})


def convert(source, work, store=None, made=None, *, keep_work=False, **options):
    """Convert everything in `source`; to a store, if one is given."""
    remote = Remote(store=store, keep_work=keep_work, retry=FAST) if store is not None else None
    sources = [str(path) for path in sorted(source.iterdir())]
    return run_conversion(sources, out=work, recipe=made or recipe(), remote=remote, **options)


def expected(local: Path) -> dict[str, bytes]:
    """The objects that a local conversion is, once uploaded: what its indexes name, they, their cards, three more."""
    names = [".convert/run.json", "card.json", "domains.json"]
    for index in local.glob("*/*/index.json"):
        below = index.parent.relative_to(local).as_posix()
        names += [f"{below}/index.json", f"{below}/card.json"]
        content = json.loads(index.read_bytes())
        files = [shard["zip_data"] or shard["raw_data"] for shard in content["shards"]]
        files += content["mixstream"]["documents_files"]
        names += [f"{below}/{file['basename']}" for file in files]
    return {name: (local / name).read_bytes() for name in names}


def shards(names):
    return [name for name in names if ".mds" in name]


def change(source, letter, at):
    """Make domain `web` a file of the same size and of another content and time."""
    for path in (source / "web").iterdir():
        path.unlink()
    (source / "web/a.txt").write_text(letter * 3000)
    os.utime(source / "web/a.txt", ns=(at, at))


@pytest.fixture
def source(write_tree):
    lines = "".join(json.dumps({"text": f"{at} " * (at % 40 + 1)}) + "\n" for at in range(150))
    texts = {f"code/{at:02}.py": f"x = {at}\n" * 300 for at in range(6)}
    return write_tree({"web/lines.jsonl": lines, **texts})


@pytest.fixture
def whole(source, tmp_path) -> dict[str, bytes]:
    convert(source, tmp_path / "whole")
    return expected(tmp_path / "whole")


# What is there in the end


@pytest.mark.parametrize("options", [{}, {"val_fraction": 0.2, "compression": "zstd"}])
def test_a_store_gets_what_a_directory_gets_indexes_behind_shards_and_the_summary_last(source, tmp_path, options):
    store = Shelf()
    told = convert(source, tmp_path / "work", store, recipe(**options))
    convert(source, tmp_path / "whole", None, recipe(**options))
    assert store.objects == expected(tmp_path / "whole")
    assert told["status"] == "converted"
    assert told["uploaded_bytes"] == sum(map(len, store.objects.values())) - len(store.objects[".convert/run.json"])
    written = store.acts("write")
    assert written[0] == ".convert/run.json"
    assert written[-2:] == ["card.json", "domains.json"]
    is_index = [name.endswith("/index.json") for name in written[1:-2]]
    assert is_index == sorted(is_index)
    assert len(written) == len(set(written)) == len(store.objects)


def test_the_index_carries_its_hash(source, tmp_path, whole):
    index = whole["web/train/index.json"]
    assert json.loads(index)[INDEX_HASHES].keys() == {"xxh3_64"}
    check_index_hash(index, "xxh3_64", where="")
    convert(source, tmp_path / "plain", None, recipe(hashes=()))
    assert INDEX_HASHES not in json.loads((tmp_path / "plain/web/train/index.json").read_bytes())


@pytest.mark.parametrize("keep_work", [False, True])
def test_shards_leave_the_work_directory_unless_they_are_to_stay(source, tmp_path, whole, keep_work):
    store = Shelf()
    convert(source, tmp_path / "work", store, keep_work=keep_work)
    left = shards(path.name for path in (tmp_path / "work").rglob("*"))
    assert bool(left) == keep_work
    store.log.clear()
    again = convert(source, tmp_path / "work", store, keep_work=keep_work)
    assert again["status"] == "nothing to do"
    assert (again["converted_bytes"], again["uploaded_bytes"]) == (0, 0)
    assert store.acts("write") == store.acts("remove") == []
    assert store.objects == whole


def test_shards_are_uploaded_side_by_side(source, tmp_path):
    store, together = Shelf(), threading.Barrier(4)
    (source / "web/lines.jsonl").write_text("".join(json.dumps({"text": "x" * 900}) + "\n" for _ in range(40)))
    store.before["write web/train/part-0*"] = lambda name: together.wait(30)
    convert(source, tmp_path / "work", store, recipe(part_bytes=10_000))
    assert sum(name.startswith("web/train/part-0") for name in store.objects) == 4


# Restarts


def test_a_fault_that_passes_is_not_noticed(source, tmp_path, whole):
    store, met = Shelf(), set()

    def fault(name):
        if name not in met:
            met.add(name)
            raise StoreFaultError("reset")

    store.before = dict.fromkeys(["write *", "info *", "names *", "remove *", "read *"], fault)
    convert(source, tmp_path / "work", store)
    assert store.objects == whole
    assert set(whole) <= met


def test_one_that_does_not_keeps_what_is_uploaded_and_a_restart_uploads_the_rest(source, tmp_path, whole, capsys):
    store = Shelf()
    victim = next(name for name in whole if "web/train/part-00001/" in name)
    store.before[f"write {victim}"] = raising(*[StoreAccessError("403 for you")] * 2)
    with pytest.raises(StoreAccessError, match="403 for you") as caught:
        convert(source, tmp_path / "work", store)
    assert f"writing s3://bucket/prefix/{victim}" in caught.value.__notes__[0]
    assert "the same command goes on" in caught.value.__notes__[-1]
    assert not [name for name in store.objects if name.endswith(("index.json", "domains.json"))]
    before = shards(store.objects)
    store.log.clear()
    told = convert(source, tmp_path / "work", store)
    assert told["converted_bytes"] == 0
    assert store.objects == whole
    assert sorted(shards(store.acts("write"))) == sorted(set(shards(whole)) - set(before))


@pytest.mark.parametrize("keep_work", [False, True])
@pytest.mark.parametrize(
    "lost", ["code/train/part-00001/shard.00000.mds", "web/train/part-tail/shard.00000.mds", "web/train/index.json"]
)
@pytest.mark.parametrize("how", ["gone", "cut", "another"])
def test_what_the_store_lost_is_uploaded_again_and_made_again_if_need_be(source, tmp_path, whole, keep_work, lost, how):
    store = Shelf()
    convert(source, tmp_path / "work", store, keep_work=keep_work)
    store.objects[lost] = store.objects[lost][:-1] if how == "cut" else bytes(len(store.objects[lost]))
    if how == "gone":
        del store.objects[lost]
    store.log.clear()
    told = convert(source, tmp_path / "work", store, keep_work=keep_work)
    assert store.objects == whole
    index = f"{lost.rpartition('/part')[0] or 'web/train'}/index.json"
    assert set(store.acts("write")) - {".convert/published.json"} == {lost, index, "card.json", "domains.json"}
    assert store.log.index(("remove", "domains.json")) < store.log.index(("write", lost))
    assert bool(told["converted_bytes"]) == (not keep_work and "part-0" in lost)


@pytest.mark.parametrize("part", ["part-tail", "part-00000"])
def test_documents_that_the_store_lost_are_made_and_uploaded_again(source, tmp_path, whole, part):
    """Nothing is converted again: what the parts noted stays in the work directory."""
    store, lost = Shelf(), f"web/train/documents/{part}.parquet"
    convert(source, tmp_path / "work", store)
    assert not list((tmp_path / "work").rglob("*.parquet"))
    del store.objects[lost]
    store.log.clear()
    assert convert(source, tmp_path / "work", store)["converted_bytes"] == 0
    assert store.objects == whole
    again = {lost, "web/train/index.json", "card.json", "domains.json"}
    assert set(store.acts("write")) - {".convert/published.json"} == again


def test_another_work_directory_finds_all_of_it_there(source, tmp_path, whole):
    store = Shelf()
    convert(source, tmp_path / "work", store)
    store.log.clear()
    assert convert(source, tmp_path / "other", store)["status"] == "nothing to do"
    assert store.acts("write") == []
    del store.objects["web/train/part-tail/shard.00000.mds"]
    told = convert(source, tmp_path / "other", store)
    assert told["converted_bytes"] > 0  # nothing is known of what was uploaded from elsewhere, so all of it is made
    assert store.objects == whole


@pytest.mark.parametrize("lost", ["web/rejects.jsonl", "card.json"])
def test_another_work_directory_makes_what_the_store_lost_beside_the_datasets(write_tree, tmp_path, lost):
    source = write_tree({"web/lines.jsonl": json.dumps({"text": "a text of one line"}) + "\nno JSON\n"})
    store, made = Shelf(), recipe(on_bad_document="skip")
    convert(source, tmp_path / "work", store, made)
    whole = dict(store.objects)
    del store.objects[lost]
    assert convert(source, tmp_path / "elsewhere", store, made)["status"] == "converted"
    assert store.objects == whole


def test_a_record_that_was_cut_short_is_read_up_to_there(source, tmp_path, whole):
    store = Shelf()
    convert(source, tmp_path / "work", store, keep_work=True)
    record = tmp_path / "work/.convert/uploads.jsonl"
    record.write_bytes(record.read_bytes()[:-200])
    store.log.clear()
    convert(source, tmp_path / "work", store)
    assert 0 < len(store.acts("write")) < 5
    assert store.objects == whole


def test_an_upload_of_which_the_store_has_less_is_made_again(source, tmp_path, whole):
    class Lossy(Shelf):
        cuts = 2

        def write(self, name, data):
            super().write(name, data)
            if name.endswith("domains.json") and self.cuts:
                self.cuts -= 1
                self.objects[name] = self.objects[name][:-1]

    store = Lossy()
    convert(source, tmp_path / "work", store)
    assert store.objects == whole


# A single-threaded process forks runs, each of which kills itself around another act of the store.
KILLER = """
import os, signal, sys, threading
from pathlib import Path
from mixstream.storage import Retry
from mixstream.storage.stores.local import LocalStore
from test_remote import convert

class Deadly(LocalStore):
    last = [10**9]
    lock = threading.Lock()
    def act(self, act, *arguments):
        with self.lock:
            self.last[0] -= 1
            left = self.last[0]
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        act(*arguments)
        if left == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    def write(self, *arguments):
        self.act(super().write, *arguments)
    def remove(self, *arguments):
        self.act(super().remove, *arguments)

source, base, instants = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
def run(name, last):
    pid = os.fork()
    if not pid:
        (base / name / "store").mkdir(parents=True, exist_ok=True)
        store = Deadly(base / name / "store")
        store.last[0] = last
        convert(source, base / name / "work", store)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
killed = 0
for at in instants:
    for last in (at, at // 2 + 1):
        killed += run(str(at), last) == signal.SIGKILL
    assert run(str(at), 10**9) == 0
print(killed)
"""


def test_kill_at_any_instant_of_an_upload(source, tmp_path, whole, warm_programs):
    instants = [2, 9, len(whole) - 1, len(whole) + 2]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3] / "mixstream")])
    environ = {**os.environ, "PYTHONPATH": path}
    script = "import json\n" + KILLER
    call = [warm_programs / "python", "-c", script, str(source), str(tmp_path), json.dumps(instants)]
    done = subprocess.run(call, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 6
    for at in instants:
        store = LocalStore(tmp_path / str(at) / "store")
        assert {name: bytes(store.read(name).data) for name in store.names()} == whole


# Who else is there


def test_a_place_with_something_else_in_it_is_left_alone(source, tmp_path):
    store = Shelf({"thesis.tex": b"years of work"})
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"s3://bucket/prefix: it holds 'thesis\.tex'"):
            convert(source, tmp_path / "work", store, overwrite=overwrite)
    assert store.objects == {"thesis.tex": b"years of work"}
    assert not (tmp_path / "work").exists()


def test_another_conversion_is_refused_and_overwrite_replaces_it(source, tmp_path):
    store = Shelf()
    convert(source, tmp_path / "work", store)
    store.objects["mine.txt"] = b"not convert's"
    before = dict(store.objects)
    for work in ("work", "other"):
        with pytest.raises(StateError, match="--seq-len was 16, is 32"):
            convert(source, tmp_path / work, store, recipe(seq_len=32))
    assert store.objects == before
    (source / "web/lines.jsonl").unlink()
    (source / "web/other.txt").write_text("other " * 100)
    (source / "code").rename(source / "more")
    convert(source, tmp_path / "work", store, recipe(seq_len=32), overwrite=True)
    assert store.objects.pop("mine.txt") == b"not convert's"
    convert(source, tmp_path / "whole", None, recipe(seq_len=32))
    made = expected(tmp_path / "whole")
    assert {name: store.objects[name] for name in made if name.startswith(("web/", "more/"))} == {
        name: data for name, data in made.items() if name.startswith(("web/", "more/"))
    }
    kept = [name for name in before if name.startswith("code/")]
    assert {name: store.objects[name] for name in kept} == {name: before[name] for name in kept}
    assert [*json.loads(store.objects["domains.json"])["domains"]] == ["code", "more", "web"]


def test_what_is_no_run_file_of_ours_is_refused(source, tmp_path):
    for found in (b"not JSON", b"[]", b"{}"):
        store = Shelf({".convert/run.json": found})
        with pytest.raises(ConfigError, match="was not written by convert"):
            convert(source, tmp_path / "work", store)
        assert store.objects == {".convert/run.json": found}


def test_what_another_machine_made_of_the_place_is_not_taken_for_ours(source, tmp_path):
    """Both machines' shards have the same names and sizes, and the second one gives up half-way."""
    store = Shelf()
    change(source, "a", 1)
    convert(source, tmp_path / "work", store)
    change(source, "b", 2)
    convert(source, tmp_path / "theirs", store, overwrite=True)
    change(source, "a", 1)
    store.before["remove domains.json"] = raising(StoreAccessError("403"), StoreAccessError("403"))
    with pytest.raises(StoreAccessError):
        convert(source, tmp_path / "theirs", store, overwrite=True)
    convert(source, tmp_path / "work", store)
    convert(source, tmp_path / "whole")
    assert store.objects == expected(tmp_path / "whole")


def test_an_object_that_was_replaced_but_not_noted_is_not_taken_for_the_old_one(source, tmp_path):
    """The store has no versions, and sizes are the same."""
    store = Shelf(versions=False)
    change(source, "a", 1)
    convert(source, tmp_path / "work", store)
    change(source, "b", 2)
    store.before["info web/*.mds"] = raising(None, *[StoreAccessError("403")] * 2)  # confirmed; stored, and then this
    with pytest.raises(StoreAccessError):
        convert(source, tmp_path / "work", store, overwrite=True)
    store.before.clear()
    assert b"b" * 16 in store.objects["web/train/part-00000/shard.00000.mds"].replace(b"\0", b"")
    change(source, "a", 1)
    convert(source, tmp_path / "work", store, overwrite=True)
    convert(source, tmp_path / "whole")
    assert store.objects == expected(tmp_path / "whole")


def test_an_old_upload_does_not_stand_in_for_a_new_shard_that_is_gone(source, tmp_path):
    store = Shelf(versions=False)
    change(source, "a", 1)
    convert(source, tmp_path / "work", store)
    change(source, "b", 2)
    store.before["remove domains.json"] = raising(*[StoreAccessError("403")] * 2)
    with pytest.raises(StoreAccessError):
        convert(source, tmp_path / "work", store, overwrite=True)
    (tmp_path / "work/web/train/part-00000/shard.00000.mds").unlink()
    assert convert(source, tmp_path / "work", store)["converted_bytes"] == 3000
    convert(source, tmp_path / "whole")
    assert store.objects == expected(tmp_path / "whole")


def change_all(source, letter):
    """Give the domain three files of new text, in the same sizes: their parts leave tails that make rows together."""
    for path in (source / "web").iterdir():
        path.unlink()
    for at in range(3):
        (source / f"web/{at}.txt").write_text(letter * 3005)


def test_joined_tails_of_other_sources_are_uploaded_again_though_name_and_size_are_those_of_the_old_ones(
    source, tmp_path
):
    store = Shelf(versions=False)
    change_all(source, "a")
    convert(source, tmp_path / "work", store)
    old = store.objects["web/train/part-tail/shard.00000.mds"]
    change_all(source, "b")
    convert(source, tmp_path / "work", store, overwrite=True)
    convert(source, tmp_path / "whole")
    new = store.objects["web/train/part-tail/shard.00000.mds"]
    assert len(new) == len(old)
    assert new != old
    assert store.objects == expected(tmp_path / "whole")


def test_an_old_upload_does_not_stand_in_for_joined_tails_that_are_gone(source, tmp_path):
    store = Shelf(versions=False)
    change_all(source, "a")
    convert(source, tmp_path / "work", store)
    change_all(source, "b")
    store.before["remove domains.json"] = raising(*[StoreAccessError("403")] * 2)
    with pytest.raises(StoreAccessError):
        convert(source, tmp_path / "work", store, overwrite=True)
    (tmp_path / "work/web/train/part-tail/shard.00000.mds").unlink()
    assert convert(source, tmp_path / "work", store)["converted_bytes"] == 0, "the tails are joined again"
    convert(source, tmp_path / "whole")
    assert store.objects == expected(tmp_path / "whole")


def test_overwrite_takes_the_old_datasets_down_first_and_keeps_what_has_not_changed(source, tmp_path):
    store = Shelf()
    convert(source, tmp_path / "work", store)
    (source / "web/lines.jsonl").write_text(json.dumps({"text": "new " * 100}) + "\n")
    with pytest.raises(StateError, match="domain 'web'"):
        convert(source, tmp_path / "work", store)
    store.log.clear()
    convert(source, tmp_path / "work", store, overwrite=True)
    convert(source, tmp_path / "whole", None)
    assert store.objects == expected(tmp_path / "whole")
    done = [entry for entry in store.log if entry[0] != "names"]
    assert done[:3] == [
        ("write", ".convert/published.json"),  # what domains.json said of the domain that stays
        ("write", ".convert/run.json"),
        ("remove", "domains.json"),
    ]
    first = min(at for at, (act, name) in enumerate(done) if ".mds" in name)
    assert done.index(("remove", "web/train/index.json")) < first
    assert done[-2:] == [("write", "domains.json"), ("remove", ".convert/published.json")]
    written = store.acts("write")
    assert "web/train/part-00000/shard.00000.mds" in written
    assert not [name for name in written if name.startswith("code/train/part-0")]


def test_a_work_directory_belongs_to_one_url(source, tmp_path):
    convert(source, tmp_path / "work", Shelf())
    with pytest.raises(ConfigError, match="belongs to --out s3://bucket/prefix"):
        convert(source, tmp_path / "work", Shelf(url="s3://bucket/other"))
    with pytest.raises(ConfigError, match="is the work directory of an upload"):
        convert(source, tmp_path / "work")


def test_a_local_conversion_is_no_work_directory(source, tmp_path, snapshot):
    convert(source, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(ConfigError, match="is the --out of a conversion"):
        convert(source, tmp_path / "out", Shelf())
    assert snapshot(tmp_path / "out") == before


# The command


def test_the_command_says_where_it_works_and_needs_no_more_to_go_on(source, tmp_path, monkeypatch, convert_json):
    store = Shelf()
    monkeypatch.setattr(options, "open_store", lambda url: store)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = [source / "web", source / "code", "--out", "s3://bucket/prefix", "--seq-len", "16"]
    status, told, log = convert_json(*arguments)
    assert status == 0
    work = default_work("s3://bucket/prefix")
    assert work.parent == tmp_path / "cache/mixstream/convert"
    assert f"work directory: {work}" in log
    assert (told["out"], told["status"]) == ("s3://bucket/prefix", "converted")
    assert told["uploaded_bytes"] > 0
    status, told, _ = convert_json(*arguments)
    assert (status, told["status"]) == (0, "nothing to do")
    store.objects.clear()
    status, told, log = convert_json(*arguments, "--work", tmp_path / "mine", "--keep-work")
    assert status == 0
    assert shards(path.name for path in (tmp_path / "mine").rglob("*"))


def test_the_default_work_directory_is_one_for_each_url():
    urls = ["s3://bucket/a", "s3://bucket/b", "gs://bucket/a", "s3://other/a"]
    assert len({default_work(url) for url in urls}) == 4
    assert default_work("s3://bucket/a/") == default_work("s3://bucket/a")
    assert default_work("s3://user:secret@bucket/a?sig=1") == default_work("s3://bucket/a")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--out", "out", "--work", "work"], "--work is for --out URL"),
        (["--out", "out", "--keep-work"], "--keep-work is for --out URL"),
        (["--out", "https://user:secret@host/x"], "plain http"),
    ],
)
def test_options_that_do_not_fit_are_refused(source, tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(source / "web"), *arguments]) == 2
    told = capsys.readouterr().err
    assert word in told
    assert "secret" not in told
    assert not (tmp_path / "out").exists()


# A real server


def test_a_real_store_and_what_is_read_from_it(source, tmp_path, s3, monkeypatch, convert_json, read_rows):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = [source / "web", source / "code", "--seq-len", "16"]
    assert convert_json(*arguments, "--out", s3.url)[0] == 0
    assert convert_json(*arguments, "--out", tmp_path / "whole")[0] == 0
    assert {name: s3.get(name) for name in s3.names()} == expected(tmp_path / "whole")
    assert convert_json(*arguments, "--out", s3.url)[1]["status"] == "nothing to do"
    stream = ms.Stream(remote=f"{s3.url}/web", local=str(tmp_path / "local"), split="train", name="web")
    dataset = ms.StreamingDataset(streams=[stream], batch_size=1, shuffle=False)
    rows = read_rows(tmp_path / "whole/web/train")
    np.testing.assert_array_equal([dataset[at]["tokens"] for at in range(len(rows))], rows)
