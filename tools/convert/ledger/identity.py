"""What a part and a group were made of, as a hash: equal recipes and sources have equal identities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..documents.extractors import describe_extractor
from ..documents.fields import Fields
from ..files.source_files import Slice
from ..parts import Part, is_cut_by_separator
from ..recipe import Recipe
from ..sources.sources import Sources
from .run_file import Run


def identify(recipe: Recipe, slices: Iterable[Slice]) -> str:
    """A hash of the recipe and of slices of files: names, sizes, times and bounds."""
    digest = hashlib.sha256(json.dumps(recipe.identity(), sort_keys=True).encode())
    described: dict[int, dict[str, Any]] = {}  # by the id of its fields, which all files of a SRC share
    for piece in slices:
        file = piece.file
        entry = [file.name, file.size, file.stamp, file.format, file.compression, piece.start, piece.stop]
        entry += [] if file.choice is None else [file.choice.describe()]
        if file.fields is not None:
            entry.append(described.setdefault(id(file.fields), _of_source(file.fields, recipe)))
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()


def _of_source(own: Fields, recipe: Recipe) -> dict[str, Any]:
    """The options of a source, with its extractor if the command names another one."""
    if own.extract == recipe.fields.extract:
        return own.describe()
    return own.describe() | {"extract": None if own.extract is None else describe_extractor(own.extract)}


def describe_run(recipe: Recipe, sources: Sources, planned: Mapping[str, Sequence[Part]]) -> Run:
    """What run.json says of a command: its recipe, and its groups with the parts that were planned for each."""
    groups = {
        group.name: {
            "files": len(group.files),
            "bytes": group.bytes,
            "identity": identify(recipe, (file.whole for file in group.files)),
            "parts": len(planned[group.name]),
            **({"cut": True} if any(map(is_cut_by_separator, planned[group.name])) else {}),
        }
        for group in sources.groups
    }
    return Run.parse(Run(recipe=recipe.describe(), groups=groups).dump(), "")  # keys in the order of the file
