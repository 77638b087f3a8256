"""A domain's name ↔ the name of its directory, which is also a part of URLs.

A domain can have any name: `C#`, `PL/SQL`, `..`. Its directory cannot. So characters that some file system or URL does
not take are written as `~` and two hexadecimal digits for each byte of their UTF-8; all others stay as they are.

Invariants: different names have different directories, also on file systems that normalise Unicode; `domain_name` finds
the name again. The one exception is a name too long for a directory: it is cut and ends with a hash, and the index has
the name. What is not guarded: `Go` and `go` differ in case only, and are one directory where case is ignored.
"""

import hashlib
import re
import unicodedata

from mixstream.errors import ConfigError
from mixstream.lazy import pattern

_UNSAFE = pattern(r"""[\x00-\x1f\x7f/\\:*?"<>|#%]|~(?=[0-9A-F]{2}|x[0-9a-f]{16}\Z)|^[.\- ~]|[. ]\Z""")
_RESERVED = pattern(r"(domains\.json|index\.json|con|prn|aux|nul|com\d|lpt\d)(?![^.])", re.IGNORECASE | re.ASCII)
_ESCAPED = re.compile(rb"~([0-9A-F]{2})")
_MAX_BYTES = 200
_HASH = 16


def domain_directory(name: str) -> str:
    """Return the directory of the domain `name`.

    Raises:
        ConfigError: the name is empty.

    >>> [domain_directory(name) for name in ("web", "C#", "PL/SQL", "..", "Wikipedia (en)")]
    ['web', 'C~23', 'PL~2FSQL', '~2E~2E', 'Wikipedia (en)']
    """
    if not name:
        raise ConfigError("a domain's name is empty: give it a name")
    changes = unicodedata.normalize("NFC", name) != name
    unsafe = {found.start() for found in _UNSAFE.finditer(name)}
    unsafe |= {at for at, char in enumerate(name) if not char.isprintable() or (changes and not char.isascii())}
    unsafe |= {0} if _RESERVED.match(name) else set()
    directory = "".join(_escape(char) if at in unsafe else char for at, char in enumerate(name))
    if len(directory.encode()) <= _MAX_BYTES:
        return directory
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_HASH]
    kept = directory.encode()[: _MAX_BYTES - _HASH - 2].decode(errors="ignore")
    return f"{re.sub(r'~[0-9A-F]?$', '', kept)}~x{digest}"


def domain_name(directory: str) -> str:
    """Return the name of the domain whose directory this is; `directory` itself if it does not have one.

    >>> [domain_name(directory) for directory in ("web", "C~23", "~2E~2E", "backup~")]
    ['web', 'C#', '..', 'backup~']
    """
    plain = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), directory.encode(errors="surrogatepass"))
    try:
        name = plain.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return directory
    return name if name and domain_directory(name) == directory else directory


def _escape(char: str) -> str:
    return "".join(f"~{byte:02X}" for byte in char.encode(errors="surrogatepass"))
