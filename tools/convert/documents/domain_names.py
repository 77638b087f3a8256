"""Which names a domain can have: almost any, since its directory is another (`mixstream.storage.domain_directory`)."""

from mixstream.errors import ConfigError

_MAX_CHARS = 1000


def check_domain_name(name: str) -> str:
    """Return `name` if a domain can have it; raises ConfigError."""
    if not name or name.isspace():
        raise ConfigError(f"{name!r} cannot be the name of a domain: it is empty.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{name!r} cannot be the name of a domain: it is not UTF-8. Give a file or directory of such a name "
            "another one: NAME=PATH."
        ) from None
    if len(name) > _MAX_CHARS:
        raise ConfigError(
            f"{name[:60]!r}… cannot be the name of a domain: it has {len(name):,} characters, at most {_MAX_CHARS:,} "
            "will do. Is this the field that you mean?"
        )
    return name
