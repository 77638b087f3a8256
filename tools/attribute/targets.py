"""Target sets: what the selected rows should help with -> the mean feature of each set, under every proxy.

A target set is named on the command line as NAME=PATH. PATH is one of
    a .jsonl file   each line {"text": …}, {"prompt": …, "completion": …} or {"tokens": […]}. Of a prompt and its
                    completion, only the completion is predicted
    a dataset       its token rows
    features        that `mixstream attribute features` made of a dataset, with the same models and settings

Rules. Every sample of a set counts; nothing is subsampled. A target that is longer than the models' context is cut: a
prompt at its beginning, anything else at its end; cut targets and those with nothing to predict are counted and
reported. Text never becomes a special token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection import SCORED, DomainRows, Scores, find_artefacts
from mixstream.selection.datamodels import Proxy, unit_norm

from ..shared.domains import find_domains
from ..shared.token_texts import TokenizerFile
from .features import ROWS_AT_ONCE
from .settings import Settings


class Target(NamedTuple):
    """One sample of a target set: its tokens [t], and which of them are predicted, bool [t]."""

    tokens: NDArray[np.integer]
    counted: NDArray[np.bool_]


@dataclass(kw_only=True)
class TargetSet:
    """The mean features of a target set.

    Attributes:
        name: of the set.
        mean_MF: of each proxy, float64 [M, F].
        samples: how many the mean is over.
        cut: how many of them were longer than the models' context.
        left_out: how many more had nothing to predict, or no finite gradient.
        hash: of the content: of the file, or of the dataset's or features' shards.
    """

    name: str
    mean_MF: NDArray[np.float64]
    samples: int
    cut: int
    left_out: int
    hash: str

    @property
    def inputs(self) -> dict[str, Any]:
        """What decides it, for a manifest."""
        return {"hash": self.hash, "samples": self.samples, "cut": self.cut, "left_out": self.left_out}


@dataclass(kw_only=True)
class TargetReader:
    """Reads target sets.

    Args:
        settings: how features are made.
        tokenizer: of texts: `bytes`, a tokenizer.json or its directory; read when a text is met.
        unit: whether features are scaled to length 1 before the mean.
    """

    settings: Settings
    tokenizer: str
    unit: bool
    _proxies: list[Proxy] = field(default_factory=list)
    _tokenizer: TokenizerFile | None = None
    _encode: Callable[[str], NDArray[np.integer]] | None = None

    def read(self, name: str, path: str) -> TargetSet:
        """Return the target set at `path`.

        Raises:
            ConfigError: there is none, or it has no sample with something to predict.
        """
        if Path(path).is_file():
            content = Path(path).read_bytes()
            targets = self._of_lines(content, path)
            return self._mean(name, targets, hash_=hashlib.blake2b(content, digest_size=16).hexdigest())
        if Path(path).is_dir() and not (Path(path) / "index.json").exists() and self._is_features(path):
            return self._of_features(name, path)
        (domain, *more) = find_domains([path])
        if more:
            raise ConfigError(f"--target {name}={path}: {len(more) + 1} datasets are there; name the directory of one")
        rows = DomainRows.open(domain.url, name=domain.name)
        return self._mean(name, self._of_rows(rows), hash_=rows.table.digest)

    def encode(self, text: str) -> NDArray[np.integer]:
        """Return the tokens of a text."""
        if self._encode is None:
            self._tokenizer = TokenizerFile.find(self.tokenizer)
            self._encode = self._tokenizer.load_encoder()
        return self._encode(text)

    @property
    def tokenizer_hash(self) -> str | None:
        """The hash of the tokenizer, if a text was met."""
        return self._tokenizer.hash if self._tokenizer is not None else None

    def _is_features(self, path: str) -> bool:
        return any(Path(path).rglob("manifest.json"))

    def _of_features(self, name: str, path: str) -> TargetSet:
        artefacts = find_artefacts(path, "scores")
        if len(artefacts) != 1:
            raise ConfigError(f"--target {name}={path}: features of {len(artefacts)} domains are there; name one")
        scores = Scores.open(next(iter(artefacts.values())))
        inputs = {key: value for key, value in scores.made["inputs"].items() if key != "dataset"}
        if inputs != self.settings.inputs:
            wrong = sorted(k for k in {*inputs, *self.settings.inputs} if inputs.get(k) != self.settings.inputs.get(k))
            raise ConfigError(
                f"--target {name}={path}: these features were made with other settings than those of the rows "
                f"({', '.join(wrong)}): make them with the same"
            )
        total = _Mean(self.settings)
        names = [f"phi.{member}" for member in range(self.settings.members)]
        for _, block in scores.blocks("flags", *names, size=4096):
            scored = (block["flags"] & SCORED) > 0
            total.add([block[each][scored] for each in names], unit=self.unit)
            total.left_out += int((~scored).sum())
        return total.set(name, hash_=scores.id)

    def _mean(self, name: str, targets: Iterator[Target], *, hash_: str) -> TargetSet:
        total, batch = _Mean(self.settings), []
        for target in targets:
            kept = self._cut(target)
            total.cut += len(kept.tokens) < len(target.tokens)
            batch.append(kept)
            if len(batch) == ROWS_AT_ONCE:
                self._add(total, batch)
                batch = []
        self._add(total, batch)
        return total.set(name, hash_=hash_)

    def _add(self, total: _Mean, batch: Sequence[Target]) -> None:
        self._proxies = self._proxies or self.settings.load()
        tokens, counted = [each.tokens for each in batch], [each.counted for each in batch]
        made = [proxy.features(tokens, counted) for proxy in self._proxies]
        scored = np.stack([features.flags_N for features in made]).max(axis=0) == SCORED
        total.add([features.phi_NF[scored] for features in made], unit=self.unit)
        total.left_out += int((~scored).sum())

    def _cut(self, target: Target) -> Target:
        self._proxies = self._proxies or self.settings.load()
        limits = [self.settings.max_tokens, *(proxy.context for proxy in self._proxies)]
        limit = min((each for each in limits if each is not None), default=None)
        if limit is None or len(target.tokens) <= limit:
            return target
        keep = slice(None, limit) if target.counted.all() else slice(len(target.tokens) - limit, None)
        return Target(target.tokens[keep], target.counted[keep])

    def _of_rows(self, rows: DomainRows) -> Iterator[Target]:
        for block in rows.blocks(column=self.settings.column):
            for row in block.values:
                tokens = np.asarray(row)
                yield Target(tokens, np.ones(len(tokens), np.bool_))

    def _of_lines(self, content: bytes, path: str) -> Iterator[Target]:
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                yield self._of_line(line, f"{path}, line {number}")

    def _of_line(self, line: bytes, where: str) -> Target:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: not JSON ({error}); correct the line or remove it") from error
        if isinstance(found, Mapping):
            text, prompt, completion = (found.get(key) for key in ("text", "prompt", "completion"))
            if isinstance(found.get("tokens"), list) and all(type(each) is int for each in found["tokens"]):
                tokens = np.array(found["tokens"], np.int64)
                return Target(tokens, np.ones(len(tokens), np.bool_))
            if isinstance(prompt, str) and isinstance(completion, str):
                parts = self.encode(prompt), self.encode(completion)
                return Target(np.concatenate(parts), np.repeat([False, True], [len(part) for part in parts]))
            if isinstance(text, str):
                tokens = self.encode(text)
                return Target(tokens, np.ones(len(tokens), np.bool_))
        raise ConfigError(f'{where}: give {{"text": …}}, {{"prompt": …, "completion": …}} or {{"tokens": […]}}')


class _Mean:
    """A running mean of features, of every proxy."""

    def __init__(self, settings: Settings) -> None:
        self.sum_MF = np.zeros((settings.members, settings.project_dim))
        self.samples = self.cut = self.left_out = 0

    def add(self, phi_MNF: Sequence[NDArray[np.floating]], *, unit: bool) -> None:
        for member, phi_NF in enumerate(phi_MNF):
            self.sum_MF[member] += (unit_norm(phi_NF) if unit else phi_NF.astype(np.float64)).sum(axis=0)
        self.samples += len(phi_MNF[0])

    def set(self, name: str, *, hash_: str) -> TargetSet:
        if not self.samples:
            raise ConfigError(f"--target {name}: none of its {self.left_out} samples has a token to predict")
        return TargetSet(
            name=name,
            mean_MF=self.sum_MF / self.samples,
            samples=self.samples,
            cut=self.cut,
            left_out=self.left_out,
            hash=hash_,
        )
