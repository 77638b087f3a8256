"""`mixstream attribute`: what the commands write equals what the library gives, and refusals are by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import mixstream as ms
from mixstream.selection import FAILED, SCORED, TOO_SHORT, Scores
from mixstream.selection.datamodels import Proxy, attribute, member_key, unit_norm
from mixstream_tools.cli import main

pytestmark = pytest.mark.usefixtures("warm_spawn")  # the commands have worker processes

MODELS = """
import torch
from torch import nn

class Bigram(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(40, 8), nn.Linear(8, 40)

    def forward(self, tokens):
        return self.head(self.embed(tokens).tanh())

def one():
    return Bigram(0)

def two():
    return [Bigram(0), Bigram(1)]

def equal():
    return {"a": Bigram(0), "b": Bigram(0)}

def wrong():
    return 3

def broken():
    model = Bigram(0)
    model.embed.weight.data[7] = float("nan")
    return model

def huge():
    model = Bigram(0)
    model.embed.weight.data *= 1e6
    model.embed.weight.data[:, 1:] = 0
    model.head.weight.data *= 1e6
    return model

def hopeless():
    model = Bigram(0)
    model.head.weight.data.fill_(float("nan"))
    return model
"""
ROWS = {"code": 70, "web": 130}
Run = Callable[..., tuple[int, dict, str]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two domains of token rows in several shards each, a module of models, and targets."""
    generator = np.random.default_rng(0)
    for domain, count in ROWS.items():
        columns = {"tokens": "ndarray:uint16", "text": "str"}
        with ms.MDSWriter(out=str(tmp_path / "shards" / domain / "train"), columns=columns, size_limit=900) as writer:
            for row in range(count):
                length = 1 if row % 50 == 7 else int(generator.integers(5, 12))
                writer.write({"tokens": generator.integers(0, 40, length).astype(np.uint16), "text": f"row {row}"})
    (tmp_path / "attribute_models.py").write_text(MODELS)
    lines = [{"tokens": generator.integers(0, 40, 9).tolist()} for _ in range(5)]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `mixstream attribute … --json`; returns status, document, stderr."""

    def run(*arguments: object) -> tuple[int, dict, str]:
        capsys.readouterr()
        status = main(["attribute", *map(str, arguments), "--json"])
        told = capsys.readouterr()
        return status, json.loads(told.out), told.err

    return run


FEATURES = (
    "features",
    "shards",
    "--model",
    "attribute_models:two",
    "--project-dim",
    16,
    "--dtype",
    "f4",
    "--workers",
    1,
)


def proxies(members: int = 2, **options: object) -> list[Proxy]:
    """The proxies of `FEATURES`, made by the library."""
    import attribute_models  # pyright: ignore[reportMissingImports] - written by the fixture

    return [
        Proxy(attribute_models.Bigram(member), dims=16, key=member_key(0, member), **options)  # pyright: ignore
        for member in range(members)
    ]


def rows_of(place: Path, domain: str) -> list[np.ndarray]:
    dataset = ms.StreamingDataset(local=str(place / "shards" / domain / "train"), batch_size=1, shuffle=False)
    return [dataset[row]["tokens"] for row in range(ROWS[domain])]


def test_features_are_those_of_the_library(place: Path, run: Run) -> None:
    status, document, _ = run(*FEATURES, "--out", "feat")
    assert status == 0
    assert document["status"] == "ok"
    assert document["domains"]["web"] == {"rows": 130, "scored": 127, "too_short": 3, "failed": 0}
    for domain, count in ROWS.items():
        scores = Scores.open(place / "feat" / domain)
        rows = rows_of(place, domain)
        assert scores.rows == count
        assert scores.column("n_tokens").tolist() == [len(row) if len(row) > 1 else 0 for row in rows]
        for member, proxy in enumerate(proxies()):
            expected = proxy.features(rows)
            np.testing.assert_allclose(scores.column(f"phi.{member}"), expected.phi_NF, atol=1e-5)
            np.testing.assert_allclose(scores.column(f"one_minus_p.{member}"), expected.one_minus_p_N, atol=1e-6)
            assert np.array_equal(scores.flags, expected.flags_N)
        assert set(np.unique(scores.flags)) == {SCORED, TOO_SHORT}
        made = scores.made
        assert made["inputs"]["seed"] == 0
        assert len(set(made["inputs"]["models"])) == 2
        assert all(shard.fingerprint for shard in scores.table.shards)


@pytest.mark.parametrize("options", [("--parts", 3), ("--parts", 2, "--workers", 2)])
def test_features_have_the_same_bits_for_any_number_of_parts(place: Path, run: Run, options: tuple) -> None:
    without_workers = FEATURES[:-2] if "--workers" in options else FEATURES
    assert run(*FEATURES, "--parts", 1, "--out", "one")[0] == 0
    assert run(*without_workers, *options, "--out", "more")[0] == 0
    for domain in ROWS:
        one, more = Scores.open(place / "one" / domain), Scores.open(place / "more" / domain)
        assert one.id == more.id


def test_parts_of_a_job_array_are_merged_by_the_run_after_them(place: Path, run: Run) -> None:
    options = FEATURES[:-2]
    for part in (2, 0):
        status, document, _ = run(*options, "--part", f"{part}/3", "--out", "feat")
        assert (status, document["parts"]) == (0, {"made": 2, "of": 2})
    assert run(*options, "--part", "0/3", "--out", "feat")[1]["status"] == "nothing to do"
    assert not (place / "feat" / "web" / "manifest.json").exists()
    run(*options, "--part", "1/3", "--out", "feat")
    status, document, _ = run("score", "feat", "--target", "qa=qa.jsonl", "--out", "scores")
    assert status == 2
    assert "was not merged" in document["error"]["message"]
    _, document, _ = run(*FEATURES, "--parts", 3, "--out", "feat")
    assert document["parts"] == {"made": 0, "of": 6}
    assert Scores.open(place / "feat" / "web").merged
    assert run(*FEATURES, "--parts", 3, "--out", "feat")[1]["status"] == "nothing to do"


def test_more_parts_than_shards_leave_some_empty(place: Path, run: Run) -> None:
    status, document, _ = run(*FEATURES, "--parts", 40, "--out", "feat")
    assert status == 0
    assert document["domains"]["code"]["rows"] == 70


def test_other_options_do_not_mix_with_features_that_exist(place: Path, run: Run) -> None:
    assert run(*FEATURES, "--out", "feat")[0] == 0
    status, document, _ = run(*FEATURES, "--seed", 1, "--out", "feat")
    assert status == 2
    assert "overwrite" in document["error"]["message"]
    before = Scores.open(place / "feat" / "web").column("phi.0").copy()
    assert run(*FEATURES, "--seed", 1, "--out", "feat", "--overwrite")[0] == 0
    assert not np.array_equal(Scores.open(place / "feat" / "web").column("phi.0"), before)


def expected_scores(place: Path, *, unit: bool = False, damping: float = 1.0, output: str = "log-odds") -> dict:
    """The scores of every domain for qa.jsonl, by the library."""
    targets = [np.array(json.loads(line)["tokens"]) for line in (place / "qa.jsonl").read_text().split("\n") if line]
    norm = unit_norm if unit else lambda phi: phi
    phis, means, weights, flags = [], [], [], None
    rows = [row for domain in sorted(ROWS) for row in rows_of(place, domain)]
    for proxy in proxies(output=output):
        made = proxy.features(rows)
        flags = made.flags_N == SCORED
        phis.append(norm(made.phi_NF[flags]))
        weights.append(made.one_minus_p_N[flags])
        means.append(norm(proxy.features(targets).phi_NF).mean(axis=0, keepdims=True))
    score, spread = attribute(phis, means, weights if output == "log-odds" else None, damping=damping)
    assert flags is not None
    whole = np.zeros((2, len(rows)))
    whole[:, flags] = score[0], spread[0]
    bounds = np.cumsum([ROWS[domain] for domain in sorted(ROWS)])[:-1]
    return dict(zip(sorted(ROWS), np.split(whole, bounds, axis=1)))


@pytest.mark.parametrize("damping", ["auto", "0.1", "0", "inf"])
@pytest.mark.parametrize("unit", [False, True])
def test_scores_are_those_of_the_library(place: Path, run: Run, damping: str, unit: bool) -> None:
    run(*FEATURES, "--out", "feat")
    flag = ["--unit-norm"] if unit else []
    status, document, _ = run(
        "score", "feat", "--target", "qa=qa.jsonl", "--damping", damping, *flag, "--out", "scores"
    )
    assert status == 0
    used = 1.0 if damping == "auto" else float(damping)
    assert document["damping"] == (used if damping != "inf" else "inf")
    assert document["targets"] == {"qa": {"samples": 5, "cut": 0, "left_out": 0}}
    for domain, (score, spread) in expected_scores(place, unit=unit, damping=used).items():
        scores = Scores.open(place / "scores" / domain)
        scale = np.abs(score).max()
        np.testing.assert_allclose(scores.column("score.qa"), score, atol=1e-4 * scale)
        np.testing.assert_allclose(scores.column("score_std.qa"), spread, atol=1e-4 * scale)
        assert np.array_equal(scores.column("score"), scores.column("score.qa"))
        assert np.array_equal(scores.flags, Scores.open(place / "feat" / domain).flags)
        assert scores.columns["score"].higher_is_better
        assert scores.columns["score_std.qa"].higher_is_better is None


def test_the_loss_is_scored_without_weights(place: Path, run: Run) -> None:
    run(*FEATURES, "--output-function", "loss", "--out", "feat")
    assert "one_minus_p.0" not in Scores.open(place / "feat" / "web").columns
    assert run("score", "feat", "--target", "qa=qa.jsonl", "--damping", 0.5, "--out", "scores")[0] == 0
    expected = expected_scores(place, damping=0.5, output="loss")["web"][0]
    found = Scores.open(place / "scores" / "web").column("score")
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_several_targets_from_files_datasets_and_features(place: Path, run: Run) -> None:
    run(*FEATURES, "--out", "feat")
    targets = ("--target", "qa=qa.jsonl", "--target", "code=shards/code/train", "--target", "same=feat/code")
    status, document, error = run("score", "feat", *targets, "--aggregate", "max", "--out", "scores")
    assert status == 0
    assert document["targets"]["code"] == document["targets"]["same"] == {"samples": 68, "cut": 0, "left_out": 2}
    assert "2 targets of code have nothing to predict" in error
    scores = Scores.open(place / "scores" / "web")
    one, same = scores.column("score.code"), scores.column("score.same")
    np.testing.assert_allclose(one, same, atol=1e-5 * np.abs(one).max())
    each = np.stack([scores.column(f"score.{name}") for name in ("qa", "code", "same")])
    np.testing.assert_allclose(scores.column("score"), each.max(axis=0), rtol=1e-6)
    # Rows of a domain that is the target itself are better for it than those of another one.
    own = Scores.open(place / "scores" / "code")
    assert own.column("score.code")[own.scored].mean() > one[scores.scored].mean()


def test_scores_are_made_once_and_others_are_refused(place: Path, run: Run) -> None:
    run(*FEATURES, "--out", "feat")
    arguments = ("score", "feat", "--target", "qa=qa.jsonl", "--out", "scores")
    assert run(*arguments)[1]["status"] == "ok"
    made = Scores.open(place / "scores" / "web").made
    assert made["damping_used"] == 1.0
    assert made["inputs"]["features"]["web"] == Scores.open(place / "feat" / "web").id
    assert run(*arguments)[1]["status"] == "nothing to do"
    status, document, _ = run(*arguments, "--damping", 2)
    assert status == 2
    assert "--overwrite" in document["error"]["message"]
    (place / "qa.jsonl").write_text('{"tokens": [1, 2, 3]}\n')
    assert run(*arguments)[0] == 2, "other targets, too"
    assert run(*arguments, "--overwrite")[1]["status"] == "ok"
    status, document, _ = run(*arguments[:-1], "feat", "--overwrite")
    assert (status, "holds the features" in document["error"]["message"]) == (2, True)
    assert "phi.0" in Scores.open(place / "feat" / "web").columns


def test_features_are_stored_in_half_precision_by_default(place: Path, run: Run) -> None:
    run(*FEATURES, "--out", "full")
    options = [each for each in FEATURES if each not in ("--dtype", "f4")]
    run(*options, "--out", "half")
    full, half = (Scores.open(place / name / "web").column("phi.1") for name in ("full", "half"))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, full, rtol=2e-3, atol=1e-6)


def test_rows_whose_gradients_are_not_finite_are_flagged_and_left_out(place: Path, run: Run) -> None:
    options = ("features", "shards", "--project-dim", 4, "--workers", 1)
    _, document, _ = run(*options, "--model", "attribute_models:broken", "--out", "feat")
    rows = rows_of(place, "web")
    has_seven = [len(row) > 1 and 7 in row.tolist() for row in rows]
    assert document["domains"]["web"]["failed"] == sum(has_seven) > 0
    assert ((Scores.open(place / "feat" / "web").flags == FAILED) == has_seven).all()
    status, document, _ = run("score", "feat", "--target", "qa=qa.jsonl", "--out", "scores")
    assert status == 0
    assert document["targets"]["qa"]["left_out"] > 0
    scores = Scores.open(place / "scores" / "web")
    assert (scores.column("score")[np.array(has_seven)] == 0).all()
    assert not scores.scored[np.array(has_seven)].any()


def test_features_that_half_precision_cannot_hold_are_flagged(place: Path, run: Run) -> None:
    options = ("features", "shards", "--model", "attribute_models:huge", "--project-dim", 4, "--workers", 1)
    failed = {}
    for dtype in ("f2", "f4"):
        _, document, _ = run(*options, "--dtype", dtype, "--out", dtype)
        failed[dtype] = document["domains"]["web"]["failed"]
    assert failed["f2"] > failed["f4"] == 0


def test_nothing_is_written_by_a_dry_run(place: Path, run: Run) -> None:
    _, document, _ = run(*FEATURES, "--out", "feat", "--dry-run")
    assert document["parameters"] == 40 * 8 + 8 * 40 + 40
    assert document["feature_bytes"] == 200 * (2 * (16 * 4 + 4) + 4 + 1)
    assert document["parts"] == {"to_make": 2, "of": 2}
    assert not (place / "feat").exists()
    run(*FEATURES, "--out", "feat")
    assert run("score", "feat", "--target", "qa=qa.jsonl", "--out", "scores", "--dry-run")[1]["status"] == "dry run"
    assert not (place / "scores").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "nowhere"), "--model nowhere: there is no such directory"),
        (("--model", "attribute_models:three"), "has no attribute 'three'"),
        (("--model", "attribute_models:wrong"), "returned int: it must return a torch.nn.Module"),
        (("--model", "attribute_models:equal"), "its weights are those of another --model"),
        (("--model", "shards"), r"it has no \*.safetensors"),
        (("--model", "attribute_models:one", "--column", "text"), "holds texts"),
        (("--model", "attribute_models:one", "--max-tokens", 1), "--max-tokens 1: give 2 or more"),
        (("--model", "attribute_models:one", "--parameters", "attention.*"), "no trainable parameter matches"),
        (("--model", "attribute_models:one", "--project-dim", 0), "a projection of"),
    ],
)
def test_wrong_uses_of_features_are_refused_by_name(place: Path, run: Run, options: tuple, message: str) -> None:
    status, document, _ = run("features", "shards", *options, "--workers", 1, "--out", "feat")
    assert status == 2
    assert re.search(message, document["error"]["message"])
    assert not list((place / "feat").rglob("*.npy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "qa"), "--target qa: give NAME=PATH"),
        (("--target", "qa=qa.jsonl", "--target", "qa=other.jsonl"), "--target qa is given twice"),
        (("--target", "qa=qa.jsonl", "--damping", "-1"), "--damping -1: give auto"),
        (("--target", "qa=qa.jsonl", "--damping", "nan"), "--damping nan: give auto"),
        (("--target", "qa=bad.jsonl"), "bad.jsonl, line 2: not JSON"),
        (("--target", "qa=odd.jsonl"), "odd.jsonl, line 1: give"),
        (("--target", "qa=short.jsonl"), "none of its 1 samples has a token to predict"),
        (("--target", "qa=text.jsonl"), "give `bytes` or a tokenizer.json"),
        (("--target", "qa=large.jsonl"), "it was trained with another tokenizer"),
        (("--target", "qa=qa.jsonl", "--model", "attribute_models:one"), "name the same"),
        (("--target", "qa=feat-other/web"), r"other settings than those of the rows \(seed\)"),
    ],
)
def test_wrong_uses_of_score_are_refused_by_name(place: Path, run: Run, options: tuple, message: str) -> None:
    run(*FEATURES, "--out", "feat")
    if "feat-other" in options[1]:
        run(*FEATURES, "--seed", 5, "--out", "feat-other")
    for name, text in {
        "bad": '{"tokens": [1, 2]}\n{"tok',
        "odd": '{"words": []}',
        "short": '{"tokens": [4]}',
        "text": '{"text": "how"}',
        "large": '{"tokens": [1, 40]}',
    }.items():
        (place / f"{name}.jsonl").write_text(text)
    status, document, _ = run("score", "feat", *options, "--out", "scores")
    assert status == 2
    assert re.search(message, document["error"]["message"])
    assert not (place / "scores").exists()


def test_no_damping_with_fewer_rows_than_features_is_refused(place: Path, run: Run) -> None:
    run("features", "shards", "--model", "attribute_models:one", "--project-dim", 300, "--workers", 1, "--out", "feat")
    status, document, _ = run("score", "feat", "--target", "qa=qa.jsonl", "--damping", 0, "--out", "scores")
    assert status == 2
    assert "damping 0 with 195 rows and 300 features" in document["error"]["message"]


def test_weights_that_changed_are_refused(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained("proxy")
    options = ("features", "shards", "--project-dim", 8, "--workers", 1)
    assert run(*options, "--model", "proxy", "--out", "feat")[0] == 0
    assert run("score", "feat", "--target", "qa=qa.jsonl", "--out", "scores")[0] == 0
    transformers.GPT2LMHeadModel(config).save_pretrained("proxy")
    status, document, _ = run("score", "feat", "--target", "qa=qa.jsonl", "--out", "other")
    assert status == 2
    assert "the weights of" in document["error"]["message"]


def test_texts_are_tokenised_with_the_models_tokenizer(place: Path, run: Run) -> None:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {"<s>": 0, **{f"w{at}": at for at in range(1, 40)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=12,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained("proxy")
    tokenizer.save("proxy/tokenizer.json")
    assert run("features", "shards", "--model", "proxy", "--project-dim", 8, "--workers", 1, "--out", "feat")[0] == 0
    (place / "text.jsonl").write_text('{"text": "w3 w4 w5 w6"}')
    (place / "ids.jsonl").write_text('{"tokens": [3, 4, 5, 6]}')
    (place / "pair.jsonl").write_text('{"prompt": "w3 w4", "completion": "w5 w6"}')
    long = " ".join(f"w{1 + at % 39}" for at in range(30))
    (place / "long.jsonl").write_text(json.dumps({"prompt": long, "completion": "w5 w6"}))
    names = ("text", "ids", "pair", "long")
    targets = [each for name in names for each in ("--target", f"{name}={name}.jsonl")]
    status, document, error = run("score", "feat", *targets, "--out", "scores")
    assert status == 0
    assert document["targets"]["long"]["cut"] == 1
    assert "1 targets of long are longer" in error
    scores = Scores.open(place / "scores" / "web")
    assert np.array_equal(scores.column("score.text"), scores.column("score.ids"))
    assert not np.array_equal(scores.column("score.text"), scores.column("score.pair"))
    assert not np.array_equal(scores.column("score.long"), scores.column("score.pair"))


def test_rows_longer_than_the_context_are_refused_with_the_remedy(place: Path, run: Run) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=40, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained("proxy")
    options = ("features", "shards", "--model", "proxy", "--project-dim", 8, "--workers", 1, "--out", "feat")
    status, document, _ = run(*options)
    assert status == 2
    assert "--max-tokens 8" in document["error"]["message"]
    assert run(*options, "--max-tokens", 8)[0] == 0
    assert Scores.open(place / "feat" / "web").column("n_tokens").max() == 8


def test_the_tables_for_people(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*map(str, ("attribute", *FEATURES, "--out", "feat"))])
    assert "too short" in capsys.readouterr().out
    main(["attribute", "score", "feat", "--target", "qa=qa.jsonl", "--out", "scores"])
    shown = capsys.readouterr().out
    assert "median" in shown
    assert "scores: 200 rows" in shown
    main(["attribute", "--help"])
    assert "features" in capsys.readouterr().out


def test_a_domain_of_which_all_gradients_fail_is_a_fault(place: Path, run: Run) -> None:
    arguments = ("features", "shards/web", "--model", "attribute_models:hopeless", "--project-dim", 8, "--workers", 1)
    status, document, told = run(*arguments, "--out", "feat")
    assert (status, document["domains"]["web"]["scored"]) == (1, 0)
    assert "rows have no features, since their gradients are not finite as f2" in told
