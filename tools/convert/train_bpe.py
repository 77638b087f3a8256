"""`--train-bpe N`: a byte-level BPE tokenizer, trained on a sample of the documents that are converted.

    DIR/.convert/tokenizers/bpe-32000/tokenizer.json            what the workers read
                                      tokenizer_config.json     so that transformers loads it too
                                      training.json             of what it was made; written last
    DIR/tokenizer/                                              its copy, beside the datasets

Rules. The sample depends on the names, sizes and text of the sources and on the options, never on workers: of every
group, parts at even distances are read from their start, each for its share of SAMPLE_CHARS. Documents of the split
`val` are left out. Training gives the same tokens on any number of threads. It is done once: the same command finds
training.json again after any interruption, also at the store of `--out URL`. Other sources train another one only
while no group of the output is made with this one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from mixstream.errors import ConfigError

from ..shared.console import Console
from ..shared.tokenizers import DESCRIPTION, TRAINING, find_tokenizer
from ..shared.tokenizers.encodings import LLAMA_3
from .ledger.durable import make_directory, write_durably
from .ledger.run_file import Run
from .parts import Part
from .recipe import Recipe
from .tokens.tokenizer import SpecialTokens, TokenizerSpec, describe_tokenizer
from .work.work import is_val, read_part

SAMPLE_CHARS = 128 << 20
"""Characters of text that a tokenizer is trained on, at most: about a minute on one core."""
_SAMPLED_PARTS = 1024
_END = "<|endoftext|>"
_NOT_OF_THE_TEXT = ("layout", "tokenizer", "seq-len", "compression", "hashes", "size-limit", "bos", "special-tokens")
_FILES = ("tokenizer.json", "tokenizer_config.json", TRAINING)


class Elsewhere(Protocol):
    """Where a copy of the tokenizer may be: the store of `--out URL`."""

    def read_tokenizer_file(self, name: str) -> bytes | None:
        """The content of a file of `OUT/tokenizer/`; None if it is not there."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BpeTraining:
    """A tokenizer to train.

    Args:
        vocab_size: tokens that it has in the end, at most, with the 256 bytes and its special tokens.
        eos: the token that ends a document; None for none.
        bos: the token that begins one; None for none.
        special_tokens: the value of `--special-tokens`.
        sample_chars: characters of text to train on, at most.

    Raises:
        ConfigError: `vocab_size` is too small.
    """

    vocab_size: int
    eos: str | None = _END
    bos: str | None = None
    special_tokens: SpecialTokens = "text"
    sample_chars: int = SAMPLE_CHARS

    def __post_init__(self) -> None:
        if self.vocab_size < (least := 256 + len(self.words)):
            raise ConfigError(
                f"--train-bpe {self.vocab_size}: the 256 bytes and {len(self.words)} special tokens come first; give "
                f"more than {least}, such as 32000."
            )
        if self.vocab_size > 1 << 31:
            raise ConfigError(f"--train-bpe {self.vocab_size}: token ids have 31 bits; give a number such as 32000.")
        if numbers := [word for word in self.words if word.isdecimal()]:
            raise ConfigError(f"--eos and --bos with --train-bpe name new tokens; {numbers[0]} is a number.")

    @classmethod
    def of_options(cls, size: int, *, eos: str | None, bos: str | None, special_tokens: SpecialTokens) -> BpeTraining:
        """Return the training that the options of the command line ask for."""
        return cls(
            vocab_size=size,
            eos={"none": None, "auto": _END, None: _END}.get(eos, eos),
            bos={"none": None, "auto": None}.get(bos, bos) if bos is not None else None,
            special_tokens=special_tokens,
        )

    @property
    def words(self) -> tuple[str, ...]:
        """Its special tokens, whose ids are 0, 1, …"""
        return tuple(dict.fromkeys(word for word in (self.eos, self.bos) if word is not None))

    @property
    def name(self) -> str:
        """`bpe-32000`; other special tokens or another sample have other names."""
        facts = [*self.words, self.sample_chars]
        other = facts != [_END, SAMPLE_CHARS]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
        return f"bpe-{self.vocab_size}" + (f"-{digest}" if other else "")

    def recipe(
        self,
        recipe: Recipe,
        *,
        out: Path,
        parts: Sequence[Part],
        runs: Sequence[Run | None],
        overwrite: bool,
        elsewhere: Elsewhere | None,
        console: Console,
    ) -> Recipe:
        """Return the recipe with the trained tokenizer, which is trained now if it is not there.

        Args:
            recipe: with any tokenizer.
            out: the output or its work directory, locked.
            parts: of all groups of the command.
            runs: what run.json says of this output, here and at the store.
            overwrite: whether groups of the command may become others.
            elsewhere: the store, with `--out URL`.
            console: for notes.

        Raises:
            ConfigError: the package `tokenizers` is missing, or there is no text to train on.
        """
        place = out / ".convert" / "tokenizers" / self.name
        sources = _identify(recipe, parts)
        made = _read_training(place) or _fetch(place, self.name, elsewhere)
        if made is not None and parts and made["sources"] != sources:
            users = {name for run in runs if run is not None for name in _users(run, made["hash"])}
            if users - ({part.group for part in parts} if overwrite else set()):
                console.note(
                    f"the tokenizer {self.name} was trained on other sources, when this output was begun, and is kept; "
                    "another --out trains another one"
                )
            else:
                made = None
        if made is None:
            if not parts:
                raise ConfigError("--train-bpe needs sources to train on: give SRC, or leave it out.")
            made = self._train(place, recipe, parts, sources, console)
        return replace(recipe, tokenizer=self._spec(place))

    def _spec(self, place: Path) -> TokenizerSpec:
        return describe_tokenizer(
            str(place), self.eos or "none", bos=self.bos or "none", special_tokens=self.special_tokens
        )

    def _train(
        self, place: Path, recipe: Recipe, parts: Sequence[Part], sources: str, console: Console
    ) -> dict[str, Any]:
        """Train and write the files; `training.json` last."""
        tokenizers = _import()
        kinds = tokenizers.pre_tokenizers
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = kinds.Sequence(
            [
                kinds.Split(tokenizers.Regex(LLAMA_3), behavior="isolated"),
                kinds.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=2,
            special_tokens=[tokenizers.AddedToken(word, special=True, normalized=False) for word in self.words],
            initial_alphabet=sorted(kinds.ByteLevel.alphabet()),
            show_progress=False,
        )
        taken = _Taken()
        total = sum(part.bytes for part in parts)
        with console.progress("sample", total=total) as advance:
            tokenizer.train_from_iterator(taken.count(self._sample(recipe, parts, advance)), trainer)
        if not taken.chars:
            raise ConfigError("--train-bpe: the sources hold no text to train on.")
        size = tokenizer.get_vocab_size()
        text = f"{taken.chars:,} characters of text"
        console.note(f"trained a tokenizer of {size:,} tokens on {text}")
        if size < self.vocab_size:
            console.note(f"warning: --train-bpe {self.vocab_size}: the text has no more than {size:,} tokens")
        content = tokenizer.to_str(pretty=True).encode()
        made = {
            "version": 1,
            "name": self.name,
            "hash": hashlib.sha256(content).hexdigest(),
            "sources": sources,
            "texts": taken.texts,
            "characters": taken.chars,
            "tokens": size,
            "tokenizers": tokenizers.__version__,
        }
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= {f"{role}_token": word for role, word in (("eos", self.eos), ("bos", self.bos)) if word is not None}
        _write(place, self.name, [content, _dump(config), _dump(made)])
        return made

    def _sample(self, recipe: Recipe, parts: Sequence[Part], advance: Any) -> Iterator[str]:
        """Yield texts of all groups, at most `sample_chars` characters, in an order that depends on the sources."""
        chosen = _spread(parts)
        total, before, taken = max(sum(part.bytes for part in chosen), 1), 0, 0
        for part in chosen:
            before += part.bytes
            left = self.sample_chars * before // total - taken
            for text in _texts(part, recipe) if left > 0 else ():
                yield text[:left]
                taken, left = taken + len(text[:left]), left - len(text)
                if left <= 0:
                    break
            advance(part.bytes)


class _Taken:
    """Counts what a sample holds."""

    texts = chars = 0

    def count(self, texts: Iterator[str]) -> Iterator[str]:
        for text in texts:
            self.texts, self.chars = self.texts + 1, self.chars + len(text)
            yield text


def _spread(parts: Sequence[Part]) -> list[Part]:
    """Parts at even distances of every group, about `_SAMPLED_PARTS` in all, in the order of groups and parts."""
    groups: dict[str, list[Part]] = {}
    for part in sorted(parts, key=lambda part: (part.group, part.number)):
        groups.setdefault(part.group, []).append(part)
    chosen: list[Part] = []
    for each in groups.values():
        count = min(-(-_SAMPLED_PARTS * len(each) // len(parts)), len(each))
        chosen += [each[at * len(each) // count] for at in range(count)]
    return chosen


def _texts(part: Part, recipe: Recipe) -> Iterator[str]:
    """The documents of a part as convert reads them, without those of the validation split."""
    val = False
    for piece in read_part(part, recipe):
        if piece.begins:
            val = bool(recipe.val_fraction) and is_val(piece.text, recipe)
        if not val:
            yield piece.text


def _identify(recipe: Recipe, parts: Sequence[Part]) -> str:
    """A hash of what decides the sample: the sources, and the options that say which documents they hold."""
    options = {key: value for key, value in recipe.identity().items() if key not in _NOT_OF_THE_TEXT}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for part in sorted(parts, key=lambda part: (part.group, part.number)):
        for piece in part.slices:
            file = piece.file
            entry = [part.group, file.name, file.size, file.mtime_ns, file.format, piece.start, piece.stop]
            digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()


def _users(run: Run, digest: str) -> list[str]:
    """The groups of an output that are made with a tokenizer."""
    return [name for name in run.groups if run.recipe_of(name).get("tokenizer", {}).get("hash") == digest]


def _read_training(place: Path) -> dict[str, Any] | None:
    """What training.json says, if it is there and the tokenizer beside it is that one."""
    try:
        return _checked((place / TRAINING).read_bytes(), (place / "tokenizer.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fetch(place: Path, name: str, elsewhere: Elsewhere | None) -> dict[str, Any] | None:
    """Take the tokenizer of this name from the store: the work directory is another one, or was emptied."""
    said = elsewhere.read_tokenizer_file(TRAINING) if elsewhere is not None else None
    if elsewhere is None or said is None:
        return None
    contents = [elsewhere.read_tokenizer_file(each) or b"" for each in _FILES[:-1]]
    made = _checked(said, contents[0])
    if made is None or made["name"] != name:
        return None
    _write(place, name, [*contents, said])
    return made


def _checked(said: bytes, content: bytes) -> dict[str, Any] | None:
    try:
        made = json.loads(said)
        sound = made["hash"] == hashlib.sha256(content).hexdigest() and {"name", "sources"} <= made.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return made if sound else None


def _write(place: Path, name: str, contents: Sequence[bytes]) -> None:
    make_directory(place)
    (place / TRAINING).unlink(missing_ok=True)
    for file, content in zip(_FILES[:-1], contents):
        write_durably(place / file, content)
    described = {**find_tokenizer(str(place / "tokenizer.json")).describe(), "name": name}
    write_durably(place / DESCRIPTION, _dump({key: value for key, value in described.items() if value}))
    write_durably(place / TRAINING, contents[-1])


def _dump(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _import() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise ConfigError(
            "--train-bpe: the package `tokenizers` is not installed. Run: pip install tokenizers"
        ) from None
    return tokenizers
