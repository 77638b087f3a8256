"""Which names a domain can have: a domain is also a directory and a part of URLs.

Invariant: a name is never changed to make it fit. A name that is not valid on every file system is refused.
"""

import re
import unicodedata

from mixstream.errors import ConfigError

_UNSAFE = re.compile(r"""[\x00-\x1f\x7f/\\:*?"<>|#%]""")
_MAX_BYTES = 200
_RESERVED = frozenset({"domains.json", "con", "prn", "aux", "nul"})


def check_domain_name(name: str) -> str:
    """Return `name` if it can be a directory on every file system and part of a URL; raises ConfigError."""
    fault = None
    if not name or name[0] in ".- " or name[-1] in ". ":
        fault = "it is empty, or begins or ends with a dot, a space or a hyphen"
    elif found := _UNSAFE.search(name):
        fault = f"it holds {found.group()!r}"
    elif not name.isprintable() or unicodedata.normalize("NFC", name) != name:
        fault = "it holds a character that some file systems change"
    elif len(name.encode()) > _MAX_BYTES:
        fault = f"it is longer than {_MAX_BYTES} bytes"
    elif name.lower() in _RESERVED:
        fault = "it is reserved"
    if fault:
        raise ConfigError(f"{name!r} cannot be the name of a domain, which is also a directory: {fault}.")
    return name
