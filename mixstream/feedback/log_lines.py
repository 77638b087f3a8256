"""Whether the lines of a mixing log can be those of a run: checked when it is read, line by line.

Rule: numbers are what a run can have, and domains are those of the header. What does not follow from one line, as that
weights sum to 1, is checked when all are read (`replay`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from mixstream.feedback.log import VERSION, Begin, Skip, Step, Validation
from mixstream.feedback.logged_plan import LoggedPlan
from mixstream.plan.weights import WEIGHT_UNIT

_MOST = 1 << 53


def check_line(line: Begin | Step | Skip | Validation, header: Begin | None) -> None:
    """Check one line of a log, whose last header is `header`.

    Raises:
        msgspec.ValidationError: no run writes it.
    """
    if isinstance(line, Begin):
        wrong = _of_header(line)
    elif header is None:
        raise msgspec.ValidationError("it comes before any header")
    elif isinstance(line, Validation):
        wrong = _of_validation(line)
    else:
        wrong = _of_step(line, header)
    if (found := next(filter(None, wrong), None)) is not None:
        raise msgspec.ValidationError(found)


def _of_header(header: Begin) -> Iterator[str]:
    names = header.domains
    if header.mixstream != VERSION:
        yield f"it is of version {header.mixstream}, and this mixstream reads {VERSION}"
    if not names or len(set(names)) < len(names):
        yield f"it has the domains {names}, where each has to be once"
    yield _outside("step", header.step, 0)
    yield _outside("lag", header.lag or 0, 0)
    yield _outside("global_batch_size", header.global_batch_size, 1)
    yield _outside("row_tokens", header.row_tokens or 1, 1)
    yield _odd_names("samples", header.samples, names, all_of_them=True)
    yield from (_outside(f"samples of {name!r}", n, 0) for name, n in header.samples.items())
    yield _odd_names("selections", header.selections, names)
    if header.plan is not None:
        yield from _of_plan(header.plan, header)


def _of_plan(plan: LoggedPlan, header: Begin) -> Iterator[str]:
    for name, least in (("lanes", 1), ("shuffle_block_size", 1), ("epoch_size", 1), ("stretch", 0)):
        yield _outside(name, getattr(plan, name), least)
    if header.global_batch_size % max(plan.lanes, 1):
        yield f"{plan.lanes} lanes do not share a global batch of {header.global_batch_size} rows"
    for name in ("choose", "shares", "begun_by"):
        table: Mapping[str, int] = getattr(plan, name)
        if table:
            yield _odd_names(name, table, header.domains, all_of_them=True)
            yield from (_outside(f"{name} of {domain!r}", n, 0) for domain, n in table.items())
            if not 0 < sum(table.values()) <= _MOST:
                yield f"{name!r} has no rows, or more than {_MOST}"
    if plan.begun_by and sum(plan.begun_by.values()) != WEIGHT_UNIT:
        yield "'begun_by' does not sum to 1"
    yield _odd_names("max_epochs", plan.max_epochs, header.domains)
    if any(not 0 <= limit < math.inf for limit in plan.max_epochs.values()):
        yield f"'max_epochs' is {plan.max_epochs}"
    yield _odd_names("views", plan.views, header.domains)


def _of_step(line: Step | Skip, header: Begin) -> Iterator[str]:
    yield _outside("step", line.step, 0)
    tables: dict[str, Mapping[str, float | None]] = {"weights": line.weights, "rows": line.rows, "given": line.given}
    if isinstance(line, Step):
        tables |= {"loss": line.loss, "count": line.count}
        if any(not 0 <= n < math.inf for n in line.count.values()):
            yield f"'count' is {line.count}"
    for name, table in tables.items():
        yield _odd_names(name, table, header.domains)
    for name in ("weights", "given"):
        if any(not 0 <= weight <= 1 for weight in getattr(line, name).values()):
            yield f"{name!r} is {getattr(line, name)}, where each is between 0 and 1"
    yield from (_outside(f"rows of {name!r}", n, 0) for name, n in line.rows.items())


def _of_validation(line: Validation) -> Iterator[str]:
    yield _outside("step", line.step, -1)


def _outside(name: str, value: int, least: int) -> str:
    return "" if least <= value <= _MOST else f"{name!r} is {value}, which is not between {least} and {_MOST}"


def _odd_names(what: str, table: Iterable[str], names: Iterable[str], *, all_of_them: bool = False) -> str:
    given, known = set(table), set(names)
    if given - known:
        return f"{what!r} has {sorted(given - known)[:4]}, which are not among the domains {sorted(known)[:8]}"
    return f"{what!r} lacks {sorted(known - given)[:4]}" if all_of_them and known - given else ""
