"""`--document-separator` as it is typed → the text between two documents."""

import re

from mixstream.errors import ConfigError

_ESCAPE = re.compile(r"\\(?:(?P<code>x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|(?P<char>.?))", re.DOTALL)
_CHARS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "\\": "\\"}


def unescape(typed: str, option: str = "--document-separator") -> str:
    r"""Return the text that a user typed, with escapes as in Python: `\n`, `\t`, `\\`, `\x1e`, `\u2029`.

    Raises:
        ConfigError: it is empty, has another escape, or a NUL byte, by which a file is binary data and no text.

    >>> unescape(r"\n\n"), unescape("<|endoftext|>")
    ('\n\n', '<|endoftext|>')
    """

    def one(found: re.Match[str]) -> str:
        if found["code"]:
            return chr(int(found["code"][1:], 16))
        if found["char"] not in _CHARS:
            raise ConfigError(
                f"{option} {typed!r}: {found[0]!r} is no escape; write \\\\ for a backslash, or one of "
                "\\n \\r \\t \\f \\v \\xHH \\uHHHH."
            )
        return _CHARS[found["char"]]

    try:
        separator = _ESCAPE.sub(one, typed)
        separator.encode()
    except (ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{option} {typed!r} is no text: {error}") from None
    if "\0" in separator:
        raise ConfigError(
            f"{option} {typed!r} has a NUL byte, and no text file has one: replace it in the files "
            f"(`tr '\\000' '\\036'`), and give {option} '\\x1e'."
        )
    if not separator:
        raise ConfigError(f"{option} is empty: give the text between two documents, or leave it out.")
    return separator
