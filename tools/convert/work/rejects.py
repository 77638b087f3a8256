"""Documents that cannot be read: raised, or written to a file of rejects and counted by reason.

    .convert/parts/web/00003.rejects   of a part, while and after it is converted
    DIR/web/rejects.jsonl              of a domain, published with it; DIR/rejects.jsonl with --domain-key

Each line is {"file": …, "record": …, "reason": …, "fact": …, "excerpt": …}. A part's rejects are written as they come,
so memory does not grow with them, and the published file is those of the parts in order: it does not depend on workers.
A part counts records within its slices; when all parts are done, the published file says their number in the file.
Files are named below their SRC: the same sources have the same rejects wherever they lie.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mixstream.errors import ConfigError
from mixstream.storage import named_full_disk

from ..files.source_files import SourceError, SourceFile

_EXAMPLES = 3
_LATIN = " (`iconv -f LATIN1 -t UTF-8 FILE`, if it is Latin-1)"
_SLICE = "slice"
_LIMIT = re.compile(r"(\d+(?:\.\d+)?)(%?)", re.ASCII)


class TooManyRejectsError(SourceError):
    """More documents cannot be read than `--max-rejects` allows."""


@dataclass(frozen=True, slots=True)
class MaxRejects:
    """`--max-rejects`: how many documents may be left out because they cannot be read.

    >>> MaxRejects.parse("100").allows(100, of=1000), MaxRejects.parse("0.5%").allows(6, of=1000)
    (True, False)

    Attributes:
        typed: as it was given.
        count: at most so many; None if it is a share.
        share: at most this share of the documents, from 0 to 1.
    """

    typed: str
    count: int | None
    share: float = 1.0

    @classmethod
    def parse(cls, typed: str) -> MaxRejects:
        """Read a number or a percentage; ConfigError if it is neither."""
        found = _LIMIT.fullmatch(typed.strip())
        if found is None or (not found[2] and "." in found[1]) or (found[2] and float(found[1]) > 100):
            raise ConfigError(f"--max-rejects {typed}: give a number of documents, or a share of them as in 0.1%.")
        return cls(typed, None, float(found[1]) / 100) if found[2] else cls(typed, int(found[1]))

    def allows(self, rejects: int, *, of: int) -> bool:
        """Whether so many rejects of so many documents are not too many."""
        return rejects <= (self.share * of if self.count is None else self.count)

    def check(self, rejects: int, *, of: int, where: object) -> None:
        """Raise TooManyRejectsError, which names the place of their files, if they are too many."""
        if not self.allows(rejects, of=of):
            raise TooManyRejectsError(
                f"{rejects:,} of {of:,} documents cannot be read, more than --max-rejects {self.typed}. They are "
                f"listed in {where}. Fix them or the options, or allow more."
            )


class Rejects:
    """Handles the bad documents of a part as `--on-bad-document` says: an `OnBad`.

    Args:
        path: of the part's file; None writes none.
        skip: leave documents out; otherwise the first one is raised.
        most: raise if there are more than so many; None for any number.
    """

    def __init__(self, path: Path | None, *, skip: bool, most: MaxRejects | None = None) -> None:
        self._path, self._skip, self._most = path, skip, most if most is not None and most.count is not None else None
        self._file: BinaryIO | None = None
        self.reasons: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        """What is no document, or is not taken, by kind."""
        self.examples: list[str] = []
        self._file_name = self._file_path = ""
        self._slice = 0
        if path is not None:
            path.unlink(missing_ok=True)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.reasons.total()

    def begin(self, number: int, file: SourceFile) -> None:
        """Say which slice of the part is read now, by its number, and of which file."""
        self._slice, self._file_name, self._file_path = number, file.name, file.path

    def __call__(
        self,
        fact: str,
        *,
        record: int | None = None,
        excerpt: str = "",
        reason: str = "unreadable",
        left_out: str = "",
    ) -> None:
        """See `OnBad`."""
        if left_out:
            self.left_out[left_out] += 1
            return
        if not self._skip:
            raise SourceError(
                f"{fact}. Fix it{_LATIN if 'not UTF-8' in fact else ''}, or pass --on-bad-document skip, which leaves "
                "out and counts what cannot be read."
            )
        self.reasons[reason] += 1
        name = _printable(self._file_name)
        fact = _printable(_renamed(fact, self._file_path, self._file_name))
        if len(self.examples) < _EXAMPLES:
            self.examples.append(fact)
        line = {"file": name, "record": record, "reason": reason, "fact": fact, "excerpt": excerpt}
        line[_SLICE] = self._slice
        if self._path is None:
            return
        with named_full_disk(self._path):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("wb")
            self._file.write(_printable(json.dumps(line, ensure_ascii=False)).encode() + b"\n")
        if self._most is not None and self._most.count is not None and self.count > self._most.count:
            self.close()
            self._most.check(self.count, of=self.count, where=self._path)

    def close(self) -> int:
        """Write what is left; returns the size of the file."""
        if self._file is None or self._path is None:
            return 0
        file, self._file = self._file, None
        with named_full_disk(self._path):
            file.close()
        return self._path.stat().st_size


def join_rejects(parts: Iterable[tuple[Path, Sequence[tuple[str, int]]]], target: BinaryIO) -> None:
    """Write the rejects of all parts, with the number of each record in its file.

    Args:
        parts: the file of each part; and for each of its slices the name of its file, which no other file has, and how
            many records of that file lie in earlier slices.
        target: the published file.
    """
    for path, slices in parts:
        with path.open("rb") as lines:
            for each in lines:
                line = json.loads(each)
                name, before = slices[line.pop(_SLICE)]
                line |= {"file": name, "fact": _renamed(line["fact"], line["file"], name)}
                if line["record"] is not None:
                    line["record"] += before
                target.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _renamed(fact: str, old: str, new: str) -> str:
    """What is said of a file, with another name of it."""
    return f"{new}{fact.removeprefix(old)}" if old and fact.startswith(old) else fact


def _printable(text: str) -> str:
    """A text whose lone surrogates, as paths may hold them, are escapes."""
    return text.encode(errors="backslashreplace").decode()
