"""Files of models on local disk: safetensors, tokenizer.json, and hashes of what decides the vectors.

Rule: nothing here unpickles, downloads, or runs code of a model's directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from mixstream.errors import ConfigError

_WHOLE = 1 << 28  # bytes up to which a file is hashed whole
_SAMPLES, _SAMPLE = 64, 1 << 20


def load_tokenizer(directory: Path) -> Any:
    """Return the `tokenizers.Tokenizer` of a directory, without padding and truncation.

    Raises:
        ConfigError: there is none, it cannot be read, or the package is not installed.
    """
    path = directory / "tokenizer.json"
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise _not_installed("tokenizers", directory) from None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); it is needed to split texts into tokens. Save the model again "
            "with a fast tokenizer: AutoTokenizer.from_pretrained(...).save_pretrained(DIR)"
        ) from error
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the Rust side raises plain Exception
        raise ConfigError(f"{path}: not a tokenizer.json that `tokenizers` can read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def load_tensors(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return those of the tensors of a .safetensors file that it has.

    Raises:
        ConfigError: it cannot be read, or the package is not installed.
    """
    safe_open = _safe_open(path)
    try:
        with safe_open(str(path), "np") as file:
            there = set(file.keys())
            return {name: file.get_tensor(name) for name in names if name in there}
    except Exception as error:  # OSError, or SafetensorError, which is a plain Exception
        raise ConfigError(f"{path}: not a file of tensors that `safetensors` can read: {error}") from error


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the tensors in a .safetensors file; reads its header only. Raises as `load_tensors`."""
    safe_open = _safe_open(path)
    try:
        with safe_open(str(path), "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no dict
    except Exception as error:
        raise ConfigError(f"{path}: not a file of tensors that `safetensors` can read: {error}") from error


def load_json(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a file; empty if there is no file.

    Raises:
        ConfigError: it is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error}); copy the model again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is JSON, but not an object; copy the model again")
    return value


def hash_model_file(path: Path) -> str:
    """Return a hash of a file: xxh3_128 of its bytes, or, above 256 MiB, of its size and 64 samples of 1 MiB.

    It tells whether a resumed command has the same file as before; it does not defend against forgery.

    Raises:
        ConfigError: the file cannot be read.
    """
    digest = xxhash.xxh3_128()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= _WHOLE:
                while block := file.read(_SAMPLE):
                    digest.update(block)
                return digest.hexdigest()
            digest.update(str(size).encode())
            for at in np.linspace(0, size - _SAMPLE, _SAMPLES).astype(np.int64).tolist():
                file.seek(at)
                digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    return f"{digest.hexdigest()}-sampled"


def _safe_open(path: Path) -> Any:
    try:
        from safetensors import safe_open
    except ModuleNotFoundError:
        raise _not_installed("safetensors", path) from None
    return safe_open


def _not_installed(package: str, path: Path) -> ConfigError:
    return ConfigError(f"{path}: the package `{package}` is not installed. Run: pip install {package}")
