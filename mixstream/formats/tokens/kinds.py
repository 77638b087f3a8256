"""The formats of token files, in one table, and which of them the files of a store have.

Files are told apart by their names and, where that is not enough, by their first bytes. A directory has files of one
format; what is ambiguous is refused by name.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mixstream.errors import ConfigError, IndexNotFoundError
from mixstream.formats.columns.files import SUFFIXES as COLUMNS
from mixstream.formats.columns.files import column_directories
from mixstream.formats.tokens.look import Keep, Look, Options, size_of
from mixstream.lazy import later
from mixstream.records import dataclass
from mixstream.types import UInt8

if TYPE_CHECKING:
    from mixstream.formats.cuts import Cuts
    from mixstream.formats.tokens.datatrove import cuts as cuts_datatrove
    from mixstream.formats.tokens.datatrove import describe as describe_datatrove
    from mixstream.formats.tokens.index import TokenFile
    from mixstream.formats.tokens.llmc import describe as describe_llmc
    from mixstream.formats.tokens.llmc import is_llmc
    from mixstream.formats.tokens.megatron import borders_of as borders_of_megatron
    from mixstream.formats.tokens.megatron import cuts as cuts_megatron
    from mixstream.formats.tokens.megatron import describe as describe_megatron
    from mixstream.formats.tokens.olmo import borders_of as borders_of_olmo
    from mixstream.formats.tokens.olmo import cuts as cuts_olmo
    from mixstream.formats.tokens.olmo import describe as describe_olmo
    from mixstream.formats.tokens.raw import describe as describe_raw
    from mixstream.formats.tokens.raw import is_numpy
else:
    (Cuts,) = later("mixstream.formats.cuts", "Cuts")
    cuts_datatrove, describe_datatrove = later("mixstream.formats.tokens.datatrove", "cuts", "describe")
    (TokenFile,) = later("mixstream.formats.tokens.index", "TokenFile")
    describe_llmc, is_llmc = later("mixstream.formats.tokens.llmc", "describe", "is_llmc")
    borders_of_megatron, cuts_megatron, describe_megatron = later(
        "mixstream.formats.tokens.megatron", "borders_of", "cuts", "describe"
    )
    borders_of_olmo, cuts_olmo, describe_olmo = later("mixstream.formats.tokens.olmo", "borders_of", "cuts", "describe")
    describe_raw, is_numpy = later("mixstream.formats.tokens.raw", "describe", "is_numpy")

SUFFIXES = (".idx", ".bin", ".ds", ".npy")
"""How files end that name a store by themselves."""
_BESIDE = {".ds.index": ".ds", ".ds.metadata": ".ds", ".csv.gz": ".npy", ".idx": ".bin"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format of token files.

    Attributes:
        name: by which an index calls it.
        describe: (files, name of a token file, options) -> what its headers say.
        cuts: (token file, bytes of its border file, `Keep`) -> checked borders; None if none are stored.
    """

    name: str
    describe: Callable[[Look, str, Options], TokenFile]
    cuts: Callable[[TokenFile, UInt8, Keep], Cuts] | None = None


FORMATS = {
    made.name: made
    for made in (
        Format(name="megatron", describe=describe_megatron, cuts=cuts_megatron),
        Format(name="datatrove", describe=describe_datatrove, cuts=cuts_datatrove),
        Format(name="olmo", describe=describe_olmo, cuts=cuts_olmo),
        Format(name="llmc", describe=describe_llmc),
        Format(name="raw", describe=describe_raw),
    )
}


def token_stem(name: str) -> str:
    """Return the name of a token file without what its format adds: all files of a pair have one.

    >>> token_stem("web_document.idx"), token_stem("00000_web.ds.index"), token_stem("part-0.csv.gz")
    ('web_document', '00000_web', 'part-0')
    """
    for suffix in (*_BESIDE, *SUFFIXES, *COLUMNS):
        if name.endswith(suffix) and name != suffix:
            stem = name.removesuffix(suffix)
            return stem if "*" not in stem else stem.replace("*", "").strip("-_.") or "columns"  # a pattern of names
    return name


def is_token_file(name: str) -> bool:
    """Return whether a name is one of a token file, or of a file that describes one."""
    return name.endswith((*SUFFIXES, *_BESIDE)) and token_stem(name) != name


def find_files(look: Look, name: str | None) -> tuple[Format, list[str]]:
    """Return the format and the token files of a store.

    Args:
        look: its files.
        name: one of its files, or what the files of a pair begin with; None for all files of the directory.

    Raises:
        IndexNotFoundError: there are none.
        ConfigError: they have several formats, or a file of a pair is missing.
    """
    place = look.place
    if name is not None:
        file = _token_file(look, name)
        if (
            file != name and is_token_file(name) and size_of(look, name) is None
        ):  # without it, tokens would be bare ones
            bare = f"; {file} is there: name it to read it as bare tokens" if size_of(look, file) is not None else ""
            raise IndexNotFoundError(f"there is no {name} in {look.place}: check its spelling, or copy it there{bare}")
        return FORMATS[_kind(look, file, lambda beside: size_of(look, beside) is not None)], [file]
    found = look.names("")
    files = sorted({_beside(each) for each in found if "/" not in each and is_token_file(each)})
    below = sorted({each.rpartition("/")[0] for each in found if "/" in each and is_token_file(each)})
    if below and files:
        raise ConfigError(
            f"{place}: token files are in it and in its sub-directories {below[:8]}: give a Stream for each directory, "
            "or move them"
        )
    if not files:
        below = below or column_directories(found)
        hint = f"; there are some in its sub-directories {below[:8]}: give one as `split`" if below else ""
        suffixes = ", ".join((*SUFFIXES, *COLUMNS))
        raise IndexNotFoundError(
            f"no index.json and no token files ({suffixes}) in {place}: name a directory, or a file, such as "
            f"{place.rpartition('/')[2]}.idx of a pair{hint}"
        )
    if missing := [file for file in files if file not in found]:
        raise ConfigError(f"{place}: {missing[0]} is missing, which belongs to files beside it; copy it there")
    kinds: dict[str, list[str]] = {}
    is_there = frozenset(found).__contains__
    for file, kind in zip(files, look.each(lambda file: _kind(look, file, is_there), files)):
        kinds.setdefault(kind, []).append(file)
    if len(kinds) > 1:
        shown = "; ".join(f"{kind}: {', '.join(each[:3])}" for kind, each in sorted(kinds.items()))
        raise ConfigError(
            f"{place} has token files of several kinds ({shown}): give a Stream for each kind, with the files in "
            "directories of their own or named one by one"
        )
    return FORMATS[next(iter(kinds))], files


def _token_file(look: Look, name: str) -> str:
    """Return the token file that `name` is, or describes, or is the beginning of."""
    if is_token_file(name):
        return _beside(name)
    found = [name + suffix for suffix in (".idx", ".ds", ".npy") if size_of(look, name + suffix) is not None]
    if not found:
        raise IndexNotFoundError(f"no token files in {look.place}: neither {name}.idx nor {name}.ds nor {name}.npy")
    if len(found) > 1:
        raise ConfigError(
            f"{look.place}: {name!r} is the beginning of {' and of '.join(found)}; give the one to be read"
        )
    return _beside(found[0])


def _beside(name: str) -> str:
    """Return the token file to which a file belongs."""
    suffix = next((suffix for suffix in _BESIDE if name.endswith(suffix)), None)
    return name if suffix is None else name.removesuffix(suffix) + _BESIDE[suffix]


def _kind(look: Look, name: str, is_there: Callable[[str], bool]) -> str:
    """Return the format of a token file, by its name, the files beside it and its first bytes."""
    if name.endswith(".ds"):
        return "datatrove"
    if name.endswith(".bin"):
        if is_there(borders_of_megatron(name)):
            return "megatron"
        return "llmc" if is_llmc(_head(look, name)) else "raw"
    numpy = is_numpy(_head(look, name))
    return "raw" if numpy or not is_there(borders_of_olmo(name)) else "olmo"


def _head(look: Look, name: str) -> bytes:
    return look.read(name, 0, min(12, look.info(name).size))
