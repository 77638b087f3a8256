"""llm.c and modded-nanogpt: a `.bin` of 256 int32 of header (magic, version, number of tokens, zeros), then the tokens.

The number of tokens has 32 bits. Where documents begin is not stored: llm.c puts the end-of-text token before each.
"""

import struct

from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.formats.tokens.index import TokenFile
from mixstream.formats.tokens.look import Look, Options, agreed

_HEADER = 1024
_KINDS = {20240520: (1, "uint16", 2), 20240801: (7, "uint32", 4)}  # magic: version, dtype, bytes of a token
_EVAL = 20240522


def is_llmc(head: bytes) -> bool:
    """Return whether a file that begins with these bytes has a header of llm.c; 12 bytes are enough."""
    if len(head) < 12:
        return False
    magic, version, _ = struct.unpack("<iii", head[:12])
    return (magic in _KINDS and version == _KINDS[magic][0]) or (magic, version) == (_EVAL, 1)


def describe(look: Look, name: str, options: Options) -> TokenFile:
    """Return what the header of a file says.

    Raises:
        ConfigError: it is an evaluation file of llm.c, or `options.dtype` is another dtype.
        ShardCorruptError: the file has another size than its header says.
    """
    info = look.info(name)
    magic, _, tokens = struct.unpack("<iiI", look.read(name, 0, 12))
    if magic == _EVAL:
        raise ConfigError(f"{name} is a file of multiple-choice questions for llm.c's evaluation, no stream of tokens")
    _, dtype, itemsize = _KINDS[magic]
    if info.size != (end := _HEADER + tokens * itemsize):
        raise ShardCorruptError(
            f"{name}: its header says {tokens:,} tokens of {dtype}, which end at byte {end:,}, and it has "
            f"{info.size:,} bytes: it is truncated or damaged; copy or write it again"
        )
    return TokenFile(
        name=name,
        bytes=info.size,
        version=info.identity,
        dtype=agreed(name, dtype, options.dtype, says="its header says"),
        begin=_HEADER,
        tokens=tokens,
        borders=None,
    )
