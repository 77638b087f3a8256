"""Names, signatures and command line of the version before a rebuild: this version has them all, as they were.

tests/data/previous/names.json and help/*.txt have them, made by the make.py beside. Annotations and prose may change;
arguments, their kinds and their defaults may not. New names are welcome.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import re
from hashlib import blake2s
from pathlib import Path
from typing import Any

import pytest
from previous import PREVIOUS, alike, stored

import mixstream as ms
from mixstream.formats import INDEX_HASHES, dump_index, parse_index
from mixstream.mixers.settings import former_versions, settings_text
from mixstream_tools.cli import main

COMMANDS = ("", "convert", "demo", "inspect", "plan", "verify")
# Public by their letters alone: how the loaders and the dataset are wired, in no document. They may go.
WIRING = {
    "StreamingDataset": {"begin_at", "find", "forget_run", "next_epoch", "number", "position", "run"},
    "Stream": {"open"},
    "ValidationSet": {"__init__", "fields"},
    "errors": {"bad"},
    "losses": {"indexed_sums", "masked_sums"},
}
INSTANCES: dict[str, tuple[Any, ...]] = {
    "Static": ({"web": 0.5, "code": 0.25, "law": 0.25},),
    "Schedule": ({0: {"web": 1, "code": 2}, 7: {"web": 2, "code": 1}}, "linear"),
    "Temperature": (3.3,),
}
KEYWORDS: dict[str, dict[str, Any]] = {
    "UniMax": {"budget": 100, "max_epochs": 4},
    "SkillIt": {"graph": [[1.0, 0.5], [0.25, 1.0]]},
}


def signature_of(function: Any) -> list[list[str]]:
    """Return name, kind and default of each argument."""
    found = inspect.signature(function).parameters.values()
    return [[p.name, p.kind.name, "" if p.default is p.empty else f"= {p.default!r}"] for p in found]


def described(name: str, value: Any) -> Any:
    """Return what users rely on of a public name."""
    if not inspect.isclass(value):
        return signature_of(value) if callable(value) else type(value).__name__
    wiring = WIRING.get(name.partition(".")[0], set())
    members: dict[str, Any] = {"bases": [base.__name__ for base in value.__mro__ if base.__module__ == "builtins"]}
    for key in sorted(set(dir(value)) - wiring):
        item = inspect.getattr_static(value, key)
        own = any(key in base.__dict__ and base.__module__.startswith("mixstream") for base in value.__mro__)
        if key.startswith("_") or not own:
            continue
        function = item.__func__ if isinstance(item, classmethod | staticmethod) else item
        members[key] = signature_of(function) if inspect.isfunction(function) else "attribute"
    if "__init__" not in wiring and not issubclass(value, BaseException) and not getattr(value, "_is_protocol", False):
        members["__init__"] = signature_of(value.__init__)
    if dataclasses.is_dataclass(value) and "fields" not in wiring:
        members["fields"] = [field.name for field in dataclasses.fields(value)]
        assert isinstance(value, type)
        members["frozen"] = value.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return members


def surface() -> dict[str, Any]:
    """Return all public names and what they are."""
    found = {name: described(name, getattr(ms, name)) for name in ms.__all__}
    modules = {"mixers": ms.mixers.__all__, "errors": names_of(ms.errors), "losses": names_of(ms.losses)}
    for module, names in modules.items():
        for name in names:
            found[f"{module}.{name}"] = described(name, getattr(getattr(ms, module), name))
    return json.loads(json.dumps(found))


def names_of(module: Any) -> list[str]:
    """Return the public names of a module: those that it lists, or else defines itself."""
    own = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    return [name for name in own if name[0] != "_" and name not in WIRING["losses"]]


def reprs() -> dict[str, str]:
    """Return how mixers are printed, which is a part of what tells runs apart."""
    found = {}
    for name in ms.mixers.__all__:
        value = getattr(ms.mixers, name)
        if getattr(value, "_is_protocol", False) or inspect.ismodule(value):
            continue
        found[name] = settings_of(value(*INSTANCES.get(name, ()), **KEYWORDS.get(name, {})))
    named: dict[str, Any] = {"reference": ms.mixers.ADO.reference()}
    named["released"] = ms.mixers.ODM(form="smoothed", smoothing=0.5, warmup=9)
    named["reference losses"] = ms.mixers.DoReMi(reference={"web": 3.0, "code": 2.5})
    named["targets"] = ms.mixers.MatrixMixer(lmo=ms.mixers.LMO(targets={"web": 1, "law": 2}, ema=0.5))
    return found | {name: settings_of(value) for name, value in named.items()}


def settings_of(mixer: Any) -> str:
    """Return the settings of a mixer in a state, with the defaults of the version before."""
    former = next(former_versions(mixer), None)
    return settings_text(mixer if former is None else former[0], as_typed=True)


ADDED = {
    "forgetting",
    "loss_parts",
    "mixed_rows",
    "nodes",
    "order",
    "transforms",
    "selection",
    "split_by",
    "on_selection_mismatch",
    "unlisted_shards",
    "seq_len",
    "overlap",
    "dtype",
    "eos_id",
    "packing",
    "column",
    "bos_id",
    "documents",
    "labels",
    "durable",
}
"""Arguments that came later; each is optional and has to be named, or is a field of a record."""
CHANGED = {
    ("ADO", "subsample"): "= 10",
    ("Aioli", "ema"): "= None",
    ("StreamingDataset", "validate_hash"): "= None",
}
"""Defaults of before that have changed."""


def without_additions(described: Any) -> Any:
    """Return a description without the arguments that came later."""
    if isinstance(described, dict):
        return {key: without_additions(value) for key, value in described.items()}
    if isinstance(described, list):
        kept = [item for item in described if (item[0] if isinstance(item, list) else item) not in ADDED]
        gone = [item for item in described if item not in kept and isinstance(item, list)]
        assert all(kind == "KEYWORD_ONLY" and default for _, kind, default in gone)
        return kept
    return described


def with_defaults_of_before(name: str, described: Any) -> Any:
    """Return the description of a public name with the defaults that have changed as they were."""
    for (owner, option), default in CHANGED.items():
        if isinstance(described, dict) and name.rpartition(".")[2] == owner and "__init__" in described:
            changed = [[*p[:2], default] if p[0] == option else p for p in described["__init__"]]
            described = {**described, "__init__": changed}
    return described


ARGUMENTS_CHANGED = {("StreamingDataset", "state_dict"): [["num_samples", "POSITIONAL_OR_KEYWORD", "= None"]]}
"""Arguments whose defaults were changed on purpose: without `num_samples`, a dataset counts what it handed out."""


PARENTS_ADDED = {"errors.IndexNotFoundError": "RuntimeError"}
"""Parents that came later, as programs of mosaicml-streaming catch the error."""


def test_every_public_name_is_as_it_was():
    found = surface()
    for (name, method), arguments in ARGUMENTS_CHANGED.items():
        before = stored("names.json")["surface"][name][method]
        known = {argument: [argument, *rest] for argument, *rest in arguments}
        assert found[name][method] == [known.get(argument[0], argument) for argument in before]
        found[name][method] = before
    for name, expected in stored("names.json")["surface"].items():
        assert name in found, name
        now = with_defaults_of_before(name, without_additions(found[name]))
        if name in PARENTS_ADDED:
            now = {**now, "bases": [parent for parent in now["bases"] if parent != PARENTS_ADDED[name]]}
        if isinstance(expected, dict):
            assert {key: now.get(key) for key in expected} == expected, name
        else:
            assert now == expected, name


def test_mixers_are_printed_as_they_were():
    """A run's state has a hash of these settings: with others, every state that was saved is refused."""
    assert reprs() == stored("names.json")["reprs"]


# --- the command line -------------------------------------------------------------------------------------------------


def ran(*arguments: str) -> tuple[int, str]:
    """Return exit status and output of a command; "@" in an argument is the directory of the stored files."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main([word.replace("@", f"{PREVIOUS}/") for word in arguments])
    return status, out.getvalue().replace(f"{PREVIOUS}/", "@")


def help_of(command: str) -> str:
    """Return what `mixstream COMMAND --help` says; COLUMNS says how wide."""
    status, told = ran(*command.split(), "--help")
    assert status == 0
    return "".join(f"{line.rstrip()}\n" for line in told.splitlines())


def options_in(told: str) -> dict[str, list[str]]:
    """Return options, commands and arguments of a help text: name -> value, defaults and choices."""
    found: dict[str, list[str]] = {}
    for row in re.findall(r"^│(.*)│$", told, re.MULTILINE):
        if entry := re.match(r"[ *]{1,4}(\S+(?: [(A-Z]\S*)*)", row):  # else it goes on with the entry above
            name, *value = entry[1].split(" ")
            facts = found[name] = value
        facts.extend(re.findall(r"\[(?:default|choices): [^\]]*\]|\[required\]", row))
    return found


MORE_CHOICES = {("convert", "--format"): "json, parquet, arrow, csv, tsv, tar, webdataset, zip, warc, mds"}
"""Options that take more words than before."""


@pytest.mark.parametrize("command", COMMANDS)
def test_options_and_their_defaults_are_as_they_were(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    expected = (PREVIOUS / "help" / f"{command or 'mixstream'}.txt").read_text()
    found, before = help_of(command), options_in(expected)
    assert len(before) >= 4
    for (of, name), words in MORE_CHOICES.items():
        if of == command:
            before[name] = [re.sub(r"^(\[choices: .*)\]$", rf"\1, {words}]", fact) for fact in before[name]]
    assert {name: options_in(found).get(name) for name in before} == before
    assert found.splitlines()[0] == expected.splitlines()[0]  # the usage


STATES = ("weighted", "max_epochs", "ado", "aioli_waiting")
MIX = ["plan", "--data", "@library"]
COMMANDS_RUN = {
    **{f"state {name}": ["plan", f"@states/{name}.json"] for name in STATES},
    "state on": ["plan", "@states/max_epochs.json", "--data", "@library", "--steps", "40", "--points", "3"],
    "log": ["plan", "@logs/ado.jsonl", "--points", "3"],
    "log on": ["plan", "@logs/aioli_probing.jsonl", "--data", "@library", "--steps", "60", "--points", "2"],
    "data": [*MIX, "--mixer", "unimax", "--max-epochs", "3", "--batch-size", "8", "--steps", "30"],
    "ends": [*MIX, "--weights", "web=1", "law=3", "code=2", "--max-epochs", "1", "--tokens", "2k"],
    "inspect": ["inspect", "@library", "--samples", "1"],
    "verify": ["verify", "@packed"],
    "verify spoiled": ["verify", "@spoiled"],
}


PROSE = {"notes", "todo", "warnings", "what"}


def document_of(name: str) -> list[Any]:
    """Return the exit status of a command, and its document without prose and time."""
    status, told = ran(*COMMANDS_RUN[name], "--json")
    return [status, facts(json.loads(told))]


def facts(value: Any) -> Any:
    """Return a document without what is worded for people, and without how long it took."""
    if isinstance(value, dict):
        return {key: facts(item) for key, item in value.items() if key not in PROSE | {"seconds"}}
    return [facts(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", COMMANDS_RUN)
def test_a_command_says_the_same_of_stored_files(name):
    assert document_of(name) == alike(stored("commands.json")[name])


def converted(root: Path) -> dict[str, str]:
    """Convert two domains of text; return each file that comes out, and its content."""
    for domain, words in {"web": "lorem ipsum ", "code": "int main() "}.items():
        (root / "texts" / domain).mkdir(parents=True)
        for number in range(9):
            (root / "texts" / domain / f"{number}.txt").write_text(words * (number + 5))
    out = root / "out"
    options = ("--seq-len", "16", "--val-fraction", "0.3", "--workers", "1", "--hashes", "xxh64", "--size-limit", "2kb")
    status, told = ran("convert", str(root / "texts"), "--out", str(out), *options, "--json")
    assert status == 0, told
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {path.relative_to(out).as_posix(): content_of(path) for path in files}


NEW_FILES = re.compile(r"(^|/)card\.json$|/documents/part-\w+\.parquet$|\.(documents|stats)$")


def without_sidecar(index: bytes) -> bytes:
    """Return an index as it was before it named the documents."""
    content = json.loads(index)
    for key in ("row_kind", "documents_files"):
        del content["mixstream"][key]
    hashes = tuple(content.pop(INDEX_HASHES, {}))
    return dump_index(parse_index(json.dumps(content).encode(), where=""), hashes=hashes)


def content_of(path: Path) -> str:
    """Return a hash of a file; of a JSON document that says where the texts were, its keys."""
    if path.suffix == ".json" and path.name != "index.json":
        return " ".join(json.loads(path.read_bytes()))
    if path.name == "index.json":
        return blake2s(without_sidecar(path.read_bytes()), digest_size=16).hexdigest()
    return blake2s(path.read_bytes(), digest_size=16).hexdigest()


def test_convert_writes_the_same_files(tmp_path):
    """On purpose, parts have no index of their own, and what is known of a group is in two more places.

    Shards are as they were, and so are indexes but for what they say of the sidecar; sidecars and data cards are new.
    """
    expected, found = stored("converted.json"), converted(tmp_path)
    expected = {name: content for name, content in expected.items() if not re.search(r"/part-\w+/index\.json$", name)}
    expected["domains.json"] = expected["domains.json"].replace(" skipped", " groups skipped")
    for name in [name for name in expected if name.startswith(".convert/parts/") and name.endswith(".json")]:
        expected[name] += " sidecar statistics hashes"
    assert found.pop(".convert/published.json") == "code web"
    found = {name: content for name, content in found.items() if not NEW_FILES.search(name)}
    assert {**found, ".convert/lock": expected[".convert/lock"]} == expected  # it says which process has it
