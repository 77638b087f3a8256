"""The value of `--tokenizer` → what is on disk.

    bytes              no file                         DIR                 what lies there, tokenizer.json first
    FILE.json          a tokenizer.json                FILE.model          SentencePiece, or tiktoken's lines
    FILE.tiktoken      an encoding that is known by its name or its SHA-256
    ENCODING=PATH      a tiktoken file whose encoding is ENCODING

What a file holds decides, not its suffix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError

from .byte_pairs import looks_like_ranks, read_ranks
from .encodings import ENCODINGS, by_hash
from .model_config import ADDED, CONFIG, MAP, ModelConfig, read_model_config
from .sentence_pieces import piece_types, spelled_pieces
from .source import BYTES, DESCRIPTION, TRAINING, StoredFile, TokenizerSource, hash_of

_MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model")
_MERGES = (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json"))
_BESIDE = (CONFIG, MAP, ADDED, "chat_template.jinja", "chat_template.json", TRAINING)
_UNNAMED = ("tokenizer", "tiktoken", "spiece", "sentencepiece.bpe", "vocab", "merges")
_HELP = (
    "give `bytes` or a tokenizer.json, a SentencePiece .model, a .tiktoken file, or a directory that has one (`hf "
    "download MODEL tokenizer.json` fetches a model's)"
)


def find_tokenizer(name: str) -> TokenizerSource:
    """Return the tokenizer that a user names.

    Raises:
        ConfigError: there is no such file, it is of no known kind, or it does not say which encoding it is.
    """
    if name == BYTES:
        return TokenizerSource(kind="bytes", name=BYTES, hash=BYTES)
    encoding, found, given = name.partition("=")
    if not (found and encoding in ENCODINGS):
        encoding, given = "", name
    path = Path(given)
    if path.is_dir():
        if (path / DESCRIPTION).is_file() and not encoding:
            return _described(path, _json_of(_read(path / DESCRIPTION, name), path / DESCRIPTION))
        files = _files_of(path)
    else:
        files = (path,)
    contents = [_read(file, name) for file in files]
    stored = tuple(StoredFile.of(file, content) for file, content in zip(files, contents))
    beside = files[0].parent if path.is_dir() else None
    source = TokenizerSource(kind="tokenizer.json", name=_name_of(files[0]), files=stored, companions=_beside(beside))
    config = ModelConfig() if beside is None else read_model_config(beside)
    source = replace(source, eos=config.eos, bos=config.bos, puts_first=config.puts_first)
    if len(files) == 2 or looks_like_ranks(contents[0]):
        return _tiktoken(source, contents, config, encoding)
    if encoding:
        raise ConfigError(f"--tokenizer {name}: {files[0]} is not a tiktoken file, so it has no encoding {encoding!r}.")
    if files[0].suffix == ".json" or contents[0].lstrip()[:1] == b"{":
        return replace(source, hash=stored[0].hash)
    return _sentencepiece(source, contents[0], config)


def _files_of(directory: Path) -> tuple[Path, ...]:
    """The files of the tokenizer in a directory."""
    if (directory / "tokenizer.json").is_file():
        return (directory / "tokenizer.json",)
    found = [path for name in _MODELS if (path := directory / name).is_file()]
    found = found or sorted(directory.glob("*.tiktoken"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(
            f"--tokenizer {directory}: it has several tokenizers ({names}). Give the path of one of them."
        )
    if found:
        return (found[0],)
    pairs = [(directory / merges, directory / words) for merges, words in _MERGES]
    known = [pair for pair in pairs if all(path.is_file() for path in pair)]
    if known:
        return known[0]
    models = sorted(directory.glob("*.model"))  # other programs' models may be called so, too: the last choice
    return (models[0],) if len(models) == 1 else (directory / "tokenizer.json",)


def _tiktoken(source: TokenizerSource, contents: list[bytes], config: ModelConfig, given: str) -> TokenizerSource:
    """A tiktoken file, or GPT-2's two files."""
    main = source.files[0]
    pair = len(contents) == 2
    name = given or ("gpt2" if pair else Path(main.name).stem)
    if name not in ENCODINGS or (pair and config.tokenizer_class not in {"", "GPT2Tokenizer"} and not given):
        name = by_hash(main.hash) or ""
    if not name:
        raise ConfigError(
            f"--tokenizer {main.path}: a tiktoken file does not say how a text is cut into words, and this one is not "
            f"known by its name or its SHA-256 ({main.hash[:16]}…). Say which encoding it is: --tokenizer "
            f"ENCODING={main.path}, with ENCODING one of {', '.join(ENCODINGS)}; or make a tokenizer.json of it: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), of the package transformers"
        )
    encoding = ENCODINGS[name]
    if not given and encoding.hashes and main.hash not in encoding.hashes:
        raise ConfigError(
            f"--tokenizer {main.path}: its SHA-256 is {main.hash[:16]}…, which is not that of {name}: it is damaged or "
            f"another file. Get it again, or say that it is cut into words as {name} is: --tokenizer {name}={main.path}"
        )
    ranks = read_ranks(contents, main.path)
    special = dict(encoding.special)
    if pair:
        words: dict[str, int] = json.loads(contents[1])
        special = {word: at for word, at in words.items() if at not in {*ranks.values()}}
    said = {**config.special, **config.added}
    special = {word: at for word, at in special.items() if at not in said.values()} | dict(config.special)
    eos = config.eos if config.eos in special else encoding.eos
    return _hashed(
        replace(
            source,
            kind="tiktoken",
            name=name if source.name != Path(main.path).parent.name or given else source.name,
            pattern=encoding.pattern,
            special=tuple(special.items()),
            added=tuple(config.added.items()),
            eos=eos if eos in special else None,
            bos=config.bos if config.bos in special else encoding.bos,
            puts_first=config.puts_first if config.bos in special else encoding.bos,
        )
    )


def _sentencepiece(source: TokenizerSource, content: bytes, config: ModelConfig) -> TokenizerSource:
    """A SentencePiece model, with what a tokenizer_config.json adds behind its pieces."""
    path = source.files[0].path
    types = piece_types(content, path)
    if not types:
        raise ConfigError(f"--tokenizer {path}: not a tokenizer of a kind that is known; {_HELP}.")
    said = {**config.special, **config.added}
    if other := [word for word, at in said.items() if at < len(types) and types[at][0] != word]:
        raise ConfigError(
            f"--tokenizer {path}: {CONFIG} says that the id of {other[0]!r} is {said[other[0]]}, which in the model is "
            f"{types[said[other[0]]][0]!r}: this model numbers its pieces otherwise than the file. Make a "
            "tokenizer.json: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), of the package transformers"
        )
    ids = {word: at for at, (word, _) in enumerate(types)}
    special = {word: ids[word] for word in config.names if word in ids} | dict(config.special)
    added = {word: at for word, at in config.added.items() if at >= len(types)}
    order = sorted(special.items(), key=lambda item: item[1])
    return _hashed(replace(source, kind="sentencepiece", special=tuple(order), added=tuple(added.items())), content)


def _hashed(source: TokenizerSource, content: bytes = b"") -> TokenizerSource:
    """The source with the hash of its files and of the facts that decide the ids of ordinary text."""
    facts: dict[str, Any] = {"pattern": source.pattern, "added": source.added}
    if source.kind == "sentencepiece":
        special = dict(source.special)
        facts["hidden"] = [word for word in spelled_pieces(content, source.path) if word in special]
    return replace(source, hash=hash_of(source.files, **facts))


def _described(directory: Path, said: Mapping[str, Any]) -> TokenizerSource:
    """The tokenizer of a description, as `TokenizerSource.copy_to` writes it."""
    where = directory / DESCRIPTION
    try:
        kind, named = said["kind"], said.get("files") or {}
        if kind == BYTES:
            return TokenizerSource(kind="bytes", name=BYTES, hash=BYTES)
        if kind not in {"tokenizer.json", "sentencepiece", "tiktoken"}:
            raise ValueError(f"no kind {kind!r}")
        names = list(named)
        if any(Path(name).name != name for name in names) or not names:
            raise ValueError("its files have to lie beside it")
        contents = [_read(directory / name, str(directory)) for name in names]
        files = tuple(StoredFile.of(directory / name, content) for name, content in zip(names, contents))
        if isinstance(named, dict) and [file.hash for file in files] != [*named.values()]:
            raise _changed(directory)
        source = TokenizerSource(
            kind=kind,
            name=str(said.get("name") or _name_of(directory / names[0])),
            files=files,
            companions=_beside(directory),
            hash=files[0].hash,
            pattern=said.get("pattern"),
            special=tuple((str(word), int(at)) for word, at in (said.get("special_tokens") or {}).items()),
            added=tuple((str(word), int(at)) for word, at in (said.get("added_tokens") or {}).items()),
            **{role: said.get(role) for role in ("eos", "bos", "puts_first")},
        )
        source = source if kind == "tokenizer.json" else _hashed(source, contents[0])
    except ConfigError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where}: not a description of a tokenizer: {error!r}.") from error
    if said.get("hash", source.hash) != source.hash:
        raise _changed(directory)
    return source


def _changed(directory: Path) -> ConfigError:
    return ConfigError(
        f"--tokenizer {directory}: its files are not those that {DESCRIPTION} was written for: another program changed "
        "one. Get the files again."
    )


def _beside(directory: Path | None) -> tuple[StoredFile, ...]:
    if directory is None:
        return ()
    paths = [path for name in _BESIDE if (path := directory / name).is_file()]
    return tuple(StoredFile.of(path, path.read_bytes()) for path in paths)


def _name_of(path: Path) -> str:
    """`llama` for llama/tokenizer.json, `cl100k_base` for cl100k_base.tiktoken."""
    if path.name == "tokenizer.json" or (path.suffix != ".json" and path.stem in _UNNAMED):
        return path.resolve().parent.name
    return path.stem if path.suffix in {".json", ".model", ".tiktoken"} else path.name


def _json_of(content: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--tokenizer {name}: {path} cannot be read ({error.strerror}); {_HELP}.") from None
