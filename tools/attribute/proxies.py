"""What `--model` names: directories of causal language models, or a function that returns models.

Rules. A directory is read without running code from it and without unpickling. A function is the user's own code. A
proxy is identified by the hash of its weights: of the files of a directory, or of the parameters that a function
returned. A worker checks nothing again; scoring does, since weeks may lie between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixstream.errors import ConfigError
from mixstream.selection.embedders import find_function, hash_model_file

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyModel:
    """One proxy model.

    Attributes:
        place: the directory, or MODULE:FUNCTION.
        member: which of the models that a function returns; 0 for a directory.
        hash: of its weights, hexadecimal.
    """

    place: str
    member: int
    hash: str

    @property
    def is_directory(self) -> bool:
        """Whether it lies in a directory."""
        return Path(self.place).is_dir()

    def load(self, *, device: str, precision: str) -> nn.Module:
        """Return the model, on its device.

        Raises:
            ConfigError: it cannot be loaded.
        """
        import torch

        model = _from_directory(Path(self.place)) if self.is_directory else _from_function(self.place)[self.member]
        return model.to(device=device, dtype=getattr(torch, precision)).eval()


def describe_proxies(names: Sequence[str]) -> tuple[ProxyModel, ...]:
    """Return the models that `--model` names, with their hashes.

    Args:
        names: directories or MODULE:FUNCTION, each perhaps several, separated by commas.

    Raises:
        ConfigError: one does not exist, or two have equal weights.
    """
    _from_function.cache_clear()  # the function may return other weights than it did before
    found: list[ProxyModel] = []
    for name in (each for text in names for each in text.split(",") if each):
        if Path(name).is_dir():
            found.append(ProxyModel(place=str(Path(name).resolve()), member=0, hash=_hash_of_files(Path(name))))
        elif ":" in name:
            models = enumerate(_from_function(name))
            found += [ProxyModel(place=name, member=at, hash=_hash_of_weights(model)) for at, model in models]
        else:
            raise ConfigError(
                f"--model {name}: there is no such directory. Give the directory of a causal language model, as "
                "`save_pretrained` writes it, or MODULE:FUNCTION"
            )
    if not found:
        raise ConfigError("--model is empty: give a directory, or several separated by commas")
    hashes = [proxy.hash for proxy in found]
    if twice := [proxy for at, proxy in enumerate(found) if proxy.hash in hashes[:at]]:
        raise ConfigError(
            f"--model {twice[0].place}: its weights are those of another --model; an ensemble needs models that were "
            "trained from different seeds"
        )
    return tuple(found)


def _hash_of_files(directory: Path) -> str:
    files = sorted(path for path in directory.iterdir() if path.name == "config.json" or path.suffix == ".safetensors")
    if not any(path.suffix == ".safetensors" for path in files):
        raise ConfigError(
            f"--model {directory}: it has no *.safetensors; save the model there with `save_pretrained` (pickled "
            "weights are not read)"
        )
    facts = repr([(path.name, hash_model_file(path)) for path in files])
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


def _hash_of_weights(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(array.shape)}:{array.dtype}:".encode())
        digest.update(array.flatten().view(dtype=_bytes_type()).numpy().data)
    return digest.hexdigest()


def _bytes_type() -> Any:
    import torch

    return torch.uint8


def _from_directory(directory: Path) -> nn.Module:
    try:
        from transformers.models.auto.modeling_auto import AutoModelForCausalLM
        from transformers.utils import logging
    except ModuleNotFoundError:
        raise ConfigError(
            f"--model {directory}: the package `transformers` is not installed. Run: pip install transformers, or give "
            "MODULE:FUNCTION"
        ) from None
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager",  # fused kernels have no rule for vmap
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--model {directory}: not a causal language model of `transformers`: {error}") from error


@lru_cache(maxsize=4)
def _from_function(name: str) -> tuple[nn.Module, ...]:
    """Call MODULE:FUNCTION once in this process."""
    from torch import nn

    returned = find_function(name)()
    models: Any = [returned] if isinstance(returned, nn.Module) else returned
    models = models.values() if isinstance(models, Mapping) else models
    found = tuple(models) if isinstance(models, Iterable) else ()
    if not found or not all(isinstance(model, nn.Module) for model in found):
        raise ConfigError(
            f"--model {name} returned {type(returned).__name__}: it must return a torch.nn.Module, or a list of them"
        )
    return found
