"""Passages of the demo's real text, and the faults that are planted among them: what there is to find is known.

Rules. Every passage has the same number of bytes, so that after the conversion each is one row, and a row is found
again by its bytes; no order is relied on. Passages and faults depend only on the text and the seed.

    code, legal, prose   real text
    prose                also 1 % strays: licences where none belong
    copies               READMEs, and near-copies of some of them: a few words of each are replaced
    noise                random characters, and C++ whose words are shuffled
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixstream.errors import ConfigError

TEXT, STRAY, COPY, CHARACTERS, SHUFFLED = "text", "stray", "copy", "characters", "shuffled"
PASSAGE = 1023
"""Bytes of a passage; the end of a document takes one more token."""
EDITS = 5
"""Words that a near-copy has of its own."""
COPIES = 4
"""Near-copies of a passage that has any."""
_SOURCES = ("code", "legal", "prose", "docs", "cpp")
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " " * 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """One row.

    Attributes:
        text: its text.
        kind: real text, or the fault that was planted.
        group: number shared by a passage and its near-copies; None for a passage that has none.
    """

    text: str
    kind: str = TEXT
    group: int | None = None


def plant(files: Mapping[str, Path], *, rows: int, seed: int) -> dict[str, list[Passage]]:
    """Return the passages of each domain, in the order in which they are stored.

    Args:
        files: the demo's text, a file of JSON lines for each kind of it (text.py).
        rows: passages of real text of a domain, if there are so many.
        seed: of the choice of passages, and of the faults.

    Raises:
        ConfigError: a kind of text is missing.
    """
    if missing := [name for name in _SOURCES if name not in files]:
        raise ConfigError(
            f"the kind of text {missing[0]!r} is not on this machine: run the demo in an environment where torch and "
            "its dependencies were installed with pip"
        )
    rng = random.Random(seed)
    text = {name: passages(_documents(files[name]), rows=rows, rng=rng) for name in _SOURCES}
    real = {name: [Passage(text=each) for each in text[name]] for name in ("code", "legal", "prose")}
    strays = [Passage(text=each, kind=STRAY) for each in rng.sample(text["legal"], max(1, len(text["prose"]) // 100))]
    noise = [Passage(text=noise_like(rng), kind=CHARACTERS) for _ in range(rows // 3)]
    noise += [Passage(text=shuffled(each, rng), kind=SHUFFLED) for each in text["cpp"][: rows // 3]]
    # Noise is not mixed up: it often lies together, as it does where one file of a crawl was broken.
    mixed = {**real, "prose": real["prose"] + strays, "copies": _copies(text["docs"], rng)}
    return {name: rng.sample(each, len(each)) for name, each in mixed.items()} | {"noise": noise}


def passages(documents: Iterable[str], *, rows: int, rng: random.Random) -> list[str]:
    """Cut documents into passages of `PASSAGE` bytes, ends left out; return `rows` of them in random order."""
    found = []
    for document in documents:
        data, at = document.encode(), 0
        while len(data) - at >= PASSAGE:
            end = at + PASSAGE
            while end < len(data) and data[end] & 0xC0 == 0x80:  # never through the middle of a character
                end -= 1
            found.append(fitted(data[at:end].decode()))
            at = end
    found = list(dict.fromkeys(found))
    return rng.sample(found, min(rows, len(found)))


def edited(text: str, rng: random.Random) -> str:
    """Return a near-copy: `EDITS` of the words are replaced by others of the passage."""
    words = text.split(" ")
    for _ in range(EDITS):
        words[rng.randrange(len(words))] = rng.choice(words)
    return fitted(" ".join(words))


def shuffled(text: str, rng: random.Random) -> str:
    """Return the words of a passage in random order."""
    words = text.split(" ")
    return " ".join(rng.sample(words, len(words)))


def noise_like(rng: random.Random) -> str:
    """Return random characters."""
    return "".join(rng.choices(_CHARACTERS, k=PASSAGE))


def fitted(text: str) -> str:
    """Return the text cut, or filled with spaces, to `PASSAGE` bytes."""
    data = text.encode()[:PASSAGE]
    return data.decode(errors="ignore") + " " * (PASSAGE - len(data.decode(errors="ignore").encode()))


def _copies(text: Sequence[str], rng: random.Random) -> list[Passage]:
    """Give a sixth of the passages `COPIES` near-copies each."""
    chosen = len(text) // 6
    found = [Passage(text=each, group=group if group < chosen else None) for group, each in enumerate(text)]
    near = [
        Passage(text=edited(each, rng), kind=COPY, group=group)
        for group, each in enumerate(text[:chosen])
        for _ in range(COPIES)
    ]
    return found + near


def _documents(file: Path) -> Iterable[str]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]
