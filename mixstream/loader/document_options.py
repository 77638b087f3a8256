"""What `documents` and `labels` of a loader are worth without the other, and what rows without them lack."""

from __future__ import annotations

import warnings

from mixstream.arguments import shown
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError


def warn_of_padding(domains: Domains) -> None:
    """Warn that packed rows have padding, where no column says which tokens these are."""
    padded = [(domain.name, domain.packed) for domain in domains if domain.packed is not None and domain.packed.padding]
    if padded:
        names, packed = ", ".join(repr(name) for name, _ in padded[:8]), padded[0][1]
        warnings.warn(
            f"packed rows of {names} have padding ({packed.padding:,} times token {packed.pad_id} in {packed.where}), "
            "and a loss of plain batches counts it: pass documents=True, whose labels leave it out, or mask that token",
            stacklevel=4,
        )


def checked_labels(labels: str | None, *, documents: bool) -> None:
    """Check that `labels` are asked for together with documents.

    Raises:
        ConfigError: they are not.
    """
    if labels is not None and not documents:
        raise ConfigError(
            f"labels={shown(labels)} says what the labels of documents are: give documents=True, or leave it out"
        )
