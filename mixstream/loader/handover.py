"""A state that DataLoader workers have loaded, for the process that started them and for its later workers.

torchdata's StatefulDataLoader loads a state in the workers only. The next epoch's workers are copies of the main
process's dataset, so it has to know of that state too. The workers leave it in an unlinked file that all of them share.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from mixstream.inherited_file import InheritedFile

_HEAD = 16


class Handover:
    """The newest state that workers loaded.

    >>> handover = Handover()
    >>> handover.news() is None
    True
    >>> handover.put({"step": 3})
    >>> handover.news(), handover.news()
    ({'step': 3}, None)
    """

    def __init__(self) -> None:
        self._file = InheritedFile(_HEAD)
        self._known: int | None = 0

    def put(self, document: Mapping[str, Any]) -> None:
        """Leave a state for the others."""
        data = zlib.compress(json.dumps(document).encode())
        with self._file:
            number = int.from_bytes(self._file.read(8), "little") + 1
            self._file.write(data, _HEAD)
            self._file.write(number.to_bytes(8, "little") + len(data).to_bytes(8, "little"))

    def ignore(self) -> None:
        """Have no more news in this process: it has loaded a state itself."""
        self._known = None

    def news(self) -> dict[str, Any] | None:
        """Return a state that was left since the last call; None if there is none."""
        if self._known is None or int.from_bytes(self._file.read(8), "little") == self._known:
            return None
        with self._file:
            head = self._file.read(_HEAD)
            self._known = int.from_bytes(head[:8], "little")
            data = self._file.read(int.from_bytes(head[8:], "little"), _HEAD)
        return dict(json.loads(zlib.decompress(data)))
