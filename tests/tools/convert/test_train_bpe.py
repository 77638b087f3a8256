"""`--train-bpe`: one tokenizer for an output, the same whatever is interrupted and however many workers there are."""

import json
import os
import random

import pytest

from mixstream.errors import ConfigError
from mixstream.storage.stores.local import LocalStore
from mixstream_tools.cli import main
from mixstream_tools.convert import train_bpe
from mixstream_tools.convert.documents.fields import Fields
from mixstream_tools.convert.job import run_conversion
from mixstream_tools.convert.publish.remote import Remote
from mixstream_tools.convert.recipe import Recipe
from mixstream_tools.convert.tokens.tokenizer import describe_tokenizer
from mixstream_tools.convert.train_bpe import BpeTraining
from mixstream_tools.shared.console import Console

tokenizers = pytest.importorskip("tokenizers")
SIZE = 300
WORDS = ["alpha", "beta", "gamma", "delta", "<|endoftext|>", "naïve", "1234", "\n", "  ", "don't"]


def texts(seed: int, count: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=60)) for _ in range(count)]


def lines(documents) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in documents)


@pytest.fixture
def source(write_tree):
    return write_tree({"web/a.jsonl": lines(texts(0)), "code/b.txt": "def f(x): return x\n" * 100})


@pytest.fixture
def run(source, convert_json):
    def convert(out, *options):
        named = () if "--remove" in options else (source / "web", source / "code")
        return convert_json(*named, "--out", out, "--train-bpe", SIZE, "--seq-len", 16, *options)

    return convert


def files(out) -> dict[str, bytes]:
    """All files but the lock."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_the_rows_are_the_documents_in_the_trained_tokens(run, tmp_path, read_rows):
    status, told, log = run(tmp_path / "out")
    assert status == 0
    assert "trained a tokenizer of 300 tokens on " in log
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer/tokenizer.json"))
    library.encode_special_tokens = True
    assert (library.get_vocab_size(), library.token_to_id("<|endoftext|>")) == (SIZE, 0)
    rows = read_rows(tmp_path / "out/web/train").ravel().tolist()
    expected = [token for text in texts(0) for token in (*library.encode(text).ids, 0)]
    assert rows == expected[: len(expected) // 16 * 16]
    documents = [[]]
    for token in rows:
        documents.append([]) if token == 0 else documents[-1].append(token)
    assert [library.decode(ids) for ids in documents[:-1]] == texts(0)[: len(documents) - 1]
    assert told["tokenizer"]["name"] == f"bpe-{SIZE}"
    assert told["tokenizer"] == describe_tokenizer(str(tmp_path / "out/tokenizer")).describe()


def test_the_same_command_does_nothing_more(run, tmp_path):
    run(tmp_path / "out")
    before = files(tmp_path / "out")
    status, told, log = run(tmp_path / "out")
    assert (status, told["status"]) == (0, "nothing to do")
    assert "trained" not in log
    assert files(tmp_path / "out") == before


def test_threads_and_order_of_sources_change_nothing(run, source, convert_json, tmp_path, monkeypatch):
    run(tmp_path / "one")
    monkeypatch.setenv("RAYON_NUM_THREADS", "3")
    options = ["--out", tmp_path / "two", "--train-bpe", SIZE, "--seq-len", 16]
    assert convert_json(source / "code", source / "web", *options)[0] == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_an_interruption_at_any_write_changes_nothing(run, tmp_path, monkeypatch):
    run(tmp_path / "whole")
    write = train_bpe.write_durably
    for stop in range(4):
        left = [stop]

        def broken(path, content, left=left):
            if not left[0]:
                raise OSError(28, "No space left on device", str(path))
            left[0] -= 1
            write(path, content)

        out = tmp_path / str(stop)
        monkeypatch.setattr(train_bpe, "write_durably", broken)
        assert run(out)[0] == 1
        monkeypatch.setattr(train_bpe, "write_durably", write)
        if stop == 2:
            (out / f".convert/tokenizers/bpe-{SIZE}/tokenizer.json").write_text("{}")
        assert run(out)[0] == 0
        assert files(out) == files(tmp_path / "whole")


def test_other_sources_train_another_one_only_while_none_is_made_with_it(run, source, convert_json, tmp_path):
    out, options = tmp_path / "out", ["--train-bpe", SIZE, "--seq-len", 16]
    # Nothing was converted yet: the document is bad.
    (source / "web/a.jsonl").write_text(lines(["wrong text"] * 50) + '{"x": 1}\n')
    assert run(out)[0] == 1
    (source / "web/a.jsonl").write_text(lines(texts(0)))
    _, told, _ = run(out)
    first = told["tokenizer"]["hash"]
    # A domain that is added is tokenised as those that are there.
    (source / "more.jsonl").write_text(lines(texts(9)))
    status, told, log = convert_json(source / "more.jsonl", "--out", out, *options)
    assert (status, told["tokenizer"]["hash"]) == (0, first)
    assert "was trained on other sources, when this output was begun, and is kept" in log
    # Rebuilding one of them keeps it too, since others need it; rebuilding all trains another one.
    os.utime(source / "more.jsonl", ns=(1, 1))
    status, told, _ = convert_json(source / "more.jsonl", "--out", out, *options, "--overwrite")
    assert (status, told["tokenizer"]["hash"]) == (0, first)
    everything = [source / name for name in ("more.jsonl", "web", "code")]
    status, told, log = convert_json(*everything, "--out", out, *options, "--overwrite")
    assert status == 0
    assert told["tokenizer"]["hash"] != first
    assert json.loads((out / "tokenizer/training.json").read_bytes())["hash"] == told["tokenizer"]["hash"]


def test_another_size_is_another_option(run, source, convert_json, tmp_path):
    run(tmp_path / "out")
    copy = files(tmp_path / "out/tokenizer")
    status, told, _ = convert_json(source / "web", source / "code", "--out", tmp_path / "out", "--train-bpe", 290)
    assert status == 1
    assert "other options" in told["error"]["message"]
    assert files(tmp_path / "out/tokenizer") == copy
    assert run(tmp_path / "out", "--remove", "code")[0] == 0


def test_the_sample_is_bounded_and_takes_of_every_part(source, tmp_path):
    words = ["zebra" if at > 310 else "ostrich" if at < 20 else "x" for at in range(400)]
    (source / "web/a.jsonl").write_text(lines([f"{at:04} {f' {word}' * 12}"[:100] for at, word in enumerate(words)]))
    recipe = Recipe(tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text"), seq_len=16, part_bytes=4000)
    train = BpeTraining(vocab_size=SIZE, sample_chars=5000)
    sources = [str(source / "web"), str(source / "code")]
    run_conversion(sources, out=tmp_path / "out", recipe=recipe, train=train, console=Console(as_json=True))
    made = json.loads((tmp_path / "out/tokenizer/training.json").read_bytes())
    assert made["characters"] == 5000
    assert 20 < made["texts"] < 200
    vocabulary = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer/tokenizer.json")).get_vocab()
    assert {"Ġzebra", "Ġostrich", "Ġreturn"} <= vocabulary.keys()  # of the last part, the first, and another domain


def test_documents_of_the_validation_split_are_not_trained_on(source, tmp_path, convert_json):
    (source / "web/a.jsonl").write_text(lines([f"{at} secret{at}" * 20 for at in range(60)]))
    options = ["--train-bpe", SIZE, "--seq-len", 16, "--val-fraction", 0.5]
    status, told, _ = convert_json(source / "web", "--out", tmp_path / "out", *options)
    assert status == 0
    made = json.loads((tmp_path / "out/tokenizer/training.json").read_bytes())
    counts = told["domains"]["web"]
    assert counts["val"]["documents"] > 10
    assert made["texts"] == counts["train"]["documents"]


def test_another_work_directory_takes_it_from_the_store(source, tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    recipe = Recipe(tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text"), seq_len=16)
    train = BpeTraining(vocab_size=SIZE)

    def convert(work, *names):
        remote = Remote(store=LocalStore(tmp_path / "store"))
        sources = [str(source / name) for name in names]
        quiet = Console(as_json=True)
        return run_conversion(sources, out=work, recipe=recipe, remote=remote, train=train, console=quiet)

    first = convert(tmp_path / "work", "web", "code")["tokenizer"]
    monkeypatch.setattr(BpeTraining, "_train", None)
    assert convert(tmp_path / "other", "web", "code")["status"] == "nothing to do"
    (source / "more.jsonl").write_text(lines(texts(9)))
    added = convert(tmp_path / "third", "more.jsonl")
    assert (added["tokenizer"], sorted(added["domains"])) == (first, ["code", "more", "web"])


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--train-bpe", "256"], "give more than 257, such as 32000"),
        (["--train-bpe", "300", "--tokenizer", "x.json"], "leave out --tokenizer x.json"),
        (["--train-bpe", "300", "--eos", "17"], "17 is a number"),
    ],
)
def test_what_cannot_be(source, tmp_path, capsys, options, fact):
    assert main(["convert", str(source / "web"), "--out", str(tmp_path / "out"), *options]) == 2
    assert fact in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_text_and_no_sources(tmp_path, write_tree, convert_json):
    empty = write_tree({"e/a.jsonl": "\n\n"}) / "e"
    status, told, _ = convert_json(empty, "--out", tmp_path / "out", "--train-bpe", 300)
    assert (status, "hold no text to train on" in told["error"]["message"]) == (2, True)
    recipe = Recipe(tokenizer=describe_tokenizer("bytes"), fields=Fields(text="text"))
    train, quiet = BpeTraining(vocab_size=300), Console(as_json=True)
    with pytest.raises(ConfigError, match="needs sources to train on"):
        run_conversion([], out=tmp_path / "out", recipe=recipe, train=train, remove=["x"], console=quiet)


def test_its_own_ends(run, tmp_path, read_rows):
    status, told, _ = run(tmp_path / "out", "--eos", "<end>", "--bos", "<begin>")
    assert (status, told["tokenizer"]["eos"], told["tokenizer"]["bos"]) == (0, 0, 1)
    assert read_rows(tmp_path / "out/web/train").ravel()[0] == 1
    status, told, log = run(tmp_path / "none", "--eos", "none")
    assert (status, told["tokenizer"]["eos"]) == (0, None)
    assert "nothing stands between documents" in log
