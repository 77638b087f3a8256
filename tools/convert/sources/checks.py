"""What is refused of the sources of a command before anything is converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mixstream.errors import ConfigError
from mixstream.storage import redact

from ..documents.fields import Fields
from ..files.source_files import SourceFile
from ..readers import READERS, FieldError
from .datasets import refuse_mixed_splits
from .found import NOT_TAKEN
from .listing import Skipped, describe_skipped
from .places import LocalPlace, Place
from .sniff import field_fault

_SCHEMES = {"gcs": "gs", "abfs": "az", "abfss": "az", "azure-dl": "azure"}  # of two names, the one to compare by
_SUPPORTED = (
    "Sources are text, JSON, CSV, TSV, tar and WARC, plain, .gz, .zst, .bz2 or .xz; Parquet, Arrow, zip, and datasets."
)
_PATTERNS = (
    "A pattern with a slash is for the whole path below the domain's directory, 'docs/*' or '*/docs/*'; one without is "
    "for the file's name."
)


def check_apart(places: Sequence[Place], out: Path, url: str | None) -> None:
    """Refuse an output directory that would be read as a source."""
    target = out.resolve()
    for place in places:
        if isinstance(place, LocalPlace) and not place.path.exists():
            raise ConfigError(f"SRC {place.shown}: it is a link to a file that does not exist.")
        inside = isinstance(place, LocalPlace) and target.is_relative_to(place.path.resolve())
        if inside or (url is not None and place.is_folder and _is_below(url, place.shown)):
            shown = out if inside else redact(url or "")
            raise ConfigError(
                f"--out {shown} lies inside SRC {place.shown}, and would be read as a source. Choose another directory."
            )


def _is_below(url: str, directory: str) -> bool:
    """Whether a URL is that of a directory, or lies below it."""
    return f"{_plain(url)}/".startswith(f"{_plain(directory)}/")


def _plain(url: str) -> str:
    scheme, _, rest = redact(url).partition("://")
    return f"{_SCHEMES.get(scheme.lower(), scheme.lower())}://" + "/".join(part for part in rest.split("/") if part)


def check_files(
    label: str, files: Sequence[SourceFile], skipped: Skipped, *, by_key: bool, fields: Fields | None
) -> None:
    """Refuse a domain (`label`) without a file, of several splits, or whose files cannot name the domains."""
    refuse_mixed_splits(files, label)
    if not files:
        seen = f" (skipped: {describe_skipped(skipped)})" if skipped else ""
        links = (
            " Name the targets of links as SRC, or as a pattern." if any("links" in why for why, _ in skipped) else ""
        )
        patterns = f" {_PATTERNS}" if (NOT_TAKEN, "") in skipped else ""
        raise ConfigError(f"{label}: no file to convert{seen}.{links}{patterns} {_SUPPORTED}")
    stray = next((file for file in files if not READERS[file.format].has_fields), None) if by_key else None
    if stray is not None and ((known := stray.fields or fields) is None or known.needs_fields):
        raise ConfigError(
            f"{stray.path}: a file of format {stray.format} has no fields, so --domain-key cannot name its domain. "
            f"Leave it out with --exclude, or pass --format jsonl if its lines are JSON."
        )


def check_fields(
    files: Sequence[SourceFile], fields: Fields, known: Mapping[str, FieldError | None], *, skip: bool
) -> None:
    """Refuse fields that the first documents do not have: of any file, or with `skip` of all files.

    Args:
        files: that are to be converted.
        fields: which documents have to have.
        known: what is wrong with files that were looked at already, by path.
        skip: whether documents that lack a field are skipped.
    """
    fault, remedy = None, ""
    for file in files:
        if not READERS[file.format].has_fields:
            continue
        found = known[file.path] if file.path in known else field_fault(file, file.fields or fields)
        if found is None and skip:
            return
        if found is not None and fault is None:
            fault, remedy = f"{file.path}: {found}", _remedy(found, file)
            if not skip:
                break
    if fault is not None:
        raise ConfigError(f"{fault}. {remedy}. Nothing was converted.")


def _remedy(fault: FieldError, file: SourceFile) -> str:
    """What a user may do where the first documents of a file lack a field."""
    heading = " (the first row of the file names them)" if file.format in {"csv", "tsv"} else ""
    text = "" if READERS[file.format].magic or file.format == "warc" else ", or take it as text with --as-text"
    return f"{fault.remedy}{heading}; or leave the file out with --exclude{text}"
