"""Where commands write, what is there already, and which parts are left to do.

Rules. Before anything is computed for long it is known that all of its output may be written. What equal inputs made is
not made again (`made["inputs"]`); what other inputs made is refused, unless it is to be overwritten. Only local
directories are written. A dry run changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from cyclopts import Parameter, Token

from mixstream.errors import ConfigError, OutputExistsError, SelectionError
from mixstream.packing import Packing
from mixstream.selection import Scores, Selection, discard, scores_done
from mixstream.storage import is_local, local_path, redact

from .options import Flag
from .parts import PartOptions

MANIFEST = "manifest.json"
_PARTS = "parts"


def _not_empty(type_: Any, tokens: Sequence[Token]) -> Any:
    """Return a path of an option; an empty one would be the current directory."""
    if not tokens[0].value.strip():
        raise ValueError("it is empty: give a directory")
    return type_(tokens[0].value)


Directory = Annotated[Path, Parameter(converter=_not_empty)]
Place = Annotated[str, Parameter(converter=_not_empty)]
MaybePlace = Annotated[str | None, Parameter(converter=_not_empty, show_default=False)]
DryRun = Annotated[bool, Parameter(name="--dry-run", negative=(), show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where a command writes. As a parameter of a command, its fields are options.

    Args:
        out: a directory on local disk; of several domains, each has its own below it.
        overwrite: replace what is there.
        dry_run: show what would be done, write nothing.

    Raises:
        ConfigError: `out` is a URL of a store.
    """

    out: Place
    overwrite: Flag = False
    dry_run: DryRun = False

    def __post_init__(self) -> None:
        """Check that it is a local directory."""
        if not is_local(self.out):
            raise ConfigError(
                f"--out {redact(self.out)}: write to a local directory, and copy it to the store afterwards"
            )

    @property
    def root(self) -> Path:
        """The directory of `--out`."""
        return local_path(self.out)

    @property
    def status(self) -> str:
        """What the JSON document says of a run without faults."""
        return "dry run" if self.dry_run else "ok"

    def below(self, name: str) -> Output:
        """Return the same for OUT/NAME."""
        return replace(self, out=str(self.root / name))

    def beside(self, word: str) -> Output:
        """Return the same for OUT-WORD, the place of a control."""
        root = self.root.absolute()
        return replace(self, out=str(root.with_name(f"{root.name}-{word}")))

    def place(self, domain: str) -> Path:
        """Return the directory of a domain below `--out`.

        Raises:
            ConfigError: its name, which a file says, leads elsewhere.
        """
        path = PurePosixPath(domain)
        if not domain or path.is_absolute() or ".." in path.parts or "\0" in domain:
            raise ConfigError(f"a domain is called {domain!r}, which is no name of a directory: rename it")
        return self.root / path

    def apart_from(self, domain: str, source: str | Path, what: str) -> Path:
        """Return the directory of a domain, which is to be made from the artefact at `source`.

        Raises:
            ConfigError: it is that directory; `what` says what would be replaced.
        """
        place = self.place(domain)
        if place.resolve() == Path(source).resolve():
            raise ConfigError(f"--out {place} holds {what}, which scores would replace: give another --out")
        return place

    def places(self, domains: Iterable[str], *, alone: bool) -> dict[str, Path]:
        """Return the directory of each domain: `--out` itself for one that is `alone`, otherwise one below it.

        Raises:
            OutputExistsError: an artefact is there already, and not `--overwrite`.
        """
        places = {name: self.root if alone else self.place(name) for name in domains}
        if not alone and (self.root / MANIFEST).exists():
            raise OutputExistsError(
                f"--out {self.root} is itself an artefact, and artefacts of several domains would go below it; give "
                "another place"
            )
        there = [str(place) for place in places.values() if (place / MANIFEST).exists()]
        if there and not self.overwrite:
            raise OutputExistsError(
                f"{', '.join(there[:4])} exists already; nothing was written; give another --out, or --overwrite to "
                "replace it"
            )
        return places

    def is_done(self, place: Path, kind: str, made: Mapping[str, Any]) -> bool:
        """Return whether an artefact that equal inputs made is at `place`.

        Args:
            place: directory of the artefact.
            kind: `"scores"`, `"selection"`, `"prototypes"` or `"packing"`.
            made: of the artefact that is to be made.

        Raises:
            OutputExistsError: there is one that other inputs made, and not `--overwrite`.
        """
        if self.overwrite or not (place / MANIFEST).exists():
            return False
        try:
            found = _made(place, kind)["inputs"]
        except SelectionError:
            raise OutputExistsError(
                f"{place} holds something that is no complete {kind}: give another --out or --overwrite"
            ) from None
        if found == made["inputs"]:
            return True
        raise OutputExistsError(
            f"{place} exists, made with other {', '.join(_differing(found, made['inputs']))}: give another --out, or "
            "--overwrite to replace it"
        )

    def parts_to_do(
        self, place: Path, made: Mapping[str, Any], *, options: PartOptions, count: int
    ) -> list[tuple[int, int]]:
        """Return those of the `count` parts of scores that this process has to write; none if all are there.

        Raises:
            OutputExistsError: there are scores, or parts of them, that other inputs made or that were divided
                otherwise, and not `--overwrite`.
        """
        parts = options.todo(count)
        if self.is_done(place, "scores", made):
            return []
        if self.overwrite and options.single is None:
            return parts
        begun = [path.name.partition("-of-") for path in (place / _PARTS).glob("*-of-*") if (path / MANIFEST).is_file()]
        begun = [(int(i), int(n)) for i, _, n in begun if i.isdecimal() and n.isdecimal()]
        if others := sorted({n for _, n in begun} - {count}):
            raise OutputExistsError(
                f"{place} was begun in {others[0]} parts, and this run has {count}: nothing was written. Give --parts "
                f"{others[0]} to go on, or --overwrite without --part to begin again"
            )
        if self.overwrite:
            return parts
        if strange := [part for part in begun if not scores_done(place, part, made=made) and scores_done(place, part)]:
            raise OutputExistsError(
                f"part {strange[0][0]}/{count} in {place} was made of other inputs: nothing was written. Give another "
                "--out, or --overwrite"
            )
        return [part for part in parts if not scores_done(place, part, made=made)]

    def clear(self, places: Iterable[Path], *, options: PartOptions) -> None:
        """Remove the scores at some places and their parts, if all of them are to be made again."""
        if self.overwrite and not self.dry_run and options.single is None:
            for place in dict.fromkeys(places):
                discard(place)


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ; with these values, where they are settings and not ids."""
    names = []
    for key in sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key)):
        was, now = found.get(key), wanted.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping) and was.keys() == now.keys():
            names += _differing(was, now)
        elif all(isinstance(value, int | float | None) or value == str(value)[:20] for value in (was, now)):
            names.append(f"{key} ({was} there, {now} here)")
        else:
            names.append(key)
    return names


def _made(place: Path, kind: str) -> Mapping[str, Any]:
    if kind == "scores":
        return Scores.open(place).made
    if kind == "selection":
        return Selection.open(place).made
    if kind == "packing":
        return Packing.open(place).made
    from mixstream.selection.prototypes import Prototypes  # here, since it imports torch

    return Prototypes.open(place).made
