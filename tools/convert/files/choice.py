"""Which files are read, and as what: the options --include, --exclude, --format, --as-text and --from-tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..tokens.from_tokenizer import FromTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which files are read, and as what.

    Attributes:
        include: in directories, only files that match one of these.
        exclude: no files that match one of these.
        format: a key of `READERS`, for every file; "auto" decides by content and suffix.
        as_text: files that match one of these are text, whatever they hold.
        decoder: what decodes datasets of tokens; None for the tokenizer that they name.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    format: str = "auto"
    as_text: tuple[str, ...] = ()
    decoder: FromTokenizer | None = None

    def takes(self, name: str, *, named: bool = False) -> bool:
        """Whether a file with this path below its SRC is read; one that is `named` need not match `include`."""
        return (named or not self.include or _matches(name, self.include)) and not _matches(name, self.exclude)

    def describe(self) -> dict[str, list[str]]:
        """What is not the default, as JSON, to compare it with another run's."""
        given = {"include": self.include, "exclude": self.exclude, "as-text": self.as_text}
        found = {name: [*patterns] for name, patterns in given.items() if patterns}
        return found | ({} if self.decoder is None else {"from-tokenizer": [self.decoder.hash]})

    def is_text(self, name: str) -> bool:
        """Whether the file is text, whatever it holds."""
        return _matches(name, self.as_text)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file matches a pattern. One with a slash is for the path below SRC, else for the name."""
    base = name.rpartition("/")[2]
    return any(fnmatchcase(name if "/" in pattern else base, pattern) for pattern in patterns)
