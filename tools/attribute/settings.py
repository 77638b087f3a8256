"""Everything that decides features: one record, which workers receive and a manifest keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection import Column
from mixstream.selection.datamodels import Kind, Output, Proxy, member_key

from .proxies import ProxyModel

STAGE = "attribute features"
_STORED = {"f2": "<f2", "f4": "<f4"}
_PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How rows become features.

    Args:
        models: the proxies.
        column: of token arrays.
        output: "log-odds" or "loss".
        project_dim: features of a row.
        project_kind: "rademacher" or "gaussian".
        seed: of the projections; each member derives its own key from it.
        parameters: shell patterns of the parameters' names; none for all that are trainable.
        max_tokens: tokens of a row that are read; None for all.
        pad: the token that rows are padded with.
        dtype: of the stored features, "f2" or "f4".
        precision: of weights and activations, "float32" or "bfloat16".
        device: where models run.
        memory: bytes for the gradients and activations of rows that are differentiated at once.

    Raises:
        ConfigError: a value is out of range.
    """

    models: tuple[ProxyModel, ...]
    column: str
    output: Output
    project_dim: int
    project_kind: Kind
    seed: int
    parameters: tuple[str, ...]
    max_tokens: int | None
    pad: int | None
    dtype: str
    precision: str
    device: str
    memory: int

    def __post_init__(self) -> None:
        if self.dtype not in _STORED:
            raise ConfigError(f"--dtype {self.dtype}: give f2 or f4")
        if self.precision not in _PRECISIONS:
            raise ConfigError(f"--precision {self.precision}: give float32 or bfloat16")
        if self.max_tokens is not None and self.max_tokens < 2:
            raise ConfigError(f"--max-tokens {self.max_tokens}: give 2 or more; the first token of a row predicts none")
        if self.memory < 1:
            raise ConfigError(f"--memory {self.memory}: give 1 or more bytes, as in 1gb")

    @property
    def members(self) -> int:
        """Number of proxies."""
        return len(self.models)

    @property
    def is_weighted(self) -> bool:
        """Whether scores are weighted by 1 - p, as the log-odds ask for."""
        return self.output == "log-odds"

    @property
    def inputs(self) -> dict[str, Any]:
        """What decides the features, for a manifest: not where models lie or run, nor how much memory is used."""
        settings = asdict(self)
        for name in ("device", "memory", "models"):
            del settings[name]
        settings["parameters"] = list(self.parameters)  # as JSON has it
        return {"stage": STAGE, **settings, "models": [proxy.hash for proxy in self.models]}

    @property
    def places(self) -> list[dict[str, Any]]:
        """Where the models lie, for a manifest."""
        return [{"place": proxy.place, "member": proxy.member} for proxy in self.models]

    def columns(self) -> list[Column]:
        """Return the columns of features."""
        columns = [Column(name="n_tokens", dtype="<u4")]
        for member in range(self.members):
            shape = (self.project_dim,)
            columns.append(Column(name=f"phi.{member}", dtype=_STORED[self.dtype], shape=shape))
            if self.is_weighted:
                columns.append(Column(name=f"one_minus_p.{member}", dtype="<f4"))
        return columns

    def load(self, members: int | None = None) -> list[Proxy]:
        """Load the proxies, or the first `members` of them.

        Raises:
            ConfigError: one cannot be loaded, or a setting does not fit it.
        """
        return [
            Proxy(
                model.load(device=self.device, precision=self.precision),
                dims=self.project_dim,
                key=member_key(self.seed, member),
                kind=self.project_kind,
                output=self.output,
                parameters=self.parameters,
                pad=self.pad,
                memory=self.memory,
                projection_memory=self.memory // 4,
            )
            for member, model in enumerate(self.models[:members])
        ]

    def cut(self, row: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the tokens of a row that are read."""
        return row[: self.max_tokens]


def settings_of(made: Mapping[str, Any], models: Sequence[ProxyModel], *, device: str, memory: int) -> Settings:
    """Return the settings that features were made with, for making those of targets.

    Raises:
        ConfigError: the models are not those of the features.
    """
    inputs = dict(made["inputs"])
    del inputs["stage"], inputs["dataset"]
    hashes = inputs.pop("models")
    for member, (model, expected) in enumerate(zip(models, hashes)):
        if model.hash != expected:
            raise ConfigError(
                f"the weights of {model.place} changed since the features were made (member {member}: hash "
                f"{model.hash}, not {expected}): give the same models with --model, or make the features again"
            )
    if len(models) != len(hashes):
        raise ConfigError(f"the features are of {len(hashes)} models, --model names {len(models)}: name the same")
    parameters = tuple(inputs.pop("parameters"))
    return Settings(models=tuple(models), device=device, memory=memory, parameters=parameters, **inputs)
