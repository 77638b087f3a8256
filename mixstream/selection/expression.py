"""Conditions on columns: `int_score >= 3 and language == 'en'`, from text to a yes or no for each row.

Rules. The text is parsed by Python's parser and then walked: only what is listed here is allowed, and nothing is ever
evaluated as Python. Allowed are names of columns, also with dots (`score.code`) and, whatever they are, in backticks;
numbers, texts, `True` and `False`; `< <= == != >= >`, also in chains
(`0.2 < score <= 0.9`); `in` and `not in` with a list of literals; `and`, `or`, `not`; `+ - * / // %`. A column of
categories (texts that were imported) is compared by `==`, `!=`, `in` and `not in` with texts. A block of rows is
computed at a time, as arrays.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass

_LONGEST, _DEEPEST = 10_000, 100
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_NODES = (
    ast.Name,
    ast.Attribute,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.BoolOp,
    ast.UnaryOp,
    ast.BinOp,
    ast.Compare,
)
_REFUSED = (
    ast.Is,
    ast.IsNot,
    ast.Invert,
    ast.Pow,
    ast.MatMult,
    ast.LShift,
    ast.RShift,
    ast.BitOr,
    ast.BitXor,
    ast.BitAnd,
)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`([^`]*)`""", re.DOTALL)  # texts, and names in backticks
_ALLOWED = (
    "use columns (`in backticks` if need be), numbers, 'texts', comparisons, in [...], and, or, not, + - * / // %"
)
_NO_LIST = "needs a list of literals after `in`, as in ['en', 'de']"


@dataclass(frozen=True, slots=True)
class Categories:
    """A column of categories: `code_B` are positions in `names`, integers [B]; -1 is no text."""

    code_B: NDArray[Any]
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the columns of rows.

    >>> condition = Condition.parse("int_score >= 3 and language == 'en'")
    >>> sorted(condition.columns)
    ['int_score', 'language']
    >>> sorted(Condition.parse("score.code > 0.5 and `n tokens` < 9").columns)
    ['n tokens', 'score.code']
    >>> rows = {"int_score": np.array([3, 2, 5]), "language": Categories(np.array([0, 0, 1]), ["en", "de"])}
    >>> condition.holds(rows).tolist()
    [True, False, False]

    Attributes:
        text: as it was given.
        columns: the names in it.
    """

    text: str
    columns: frozenset[str]
    tree: ast.expr
    """The checked tree; every name in it is a column."""

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return the condition of a text.

        Raises:
            ConfigError: it is not a condition, or it contains what is not allowed; the message names the place.
        """
        if len(text) > _LONGEST:
            raise ConfigError(f"the condition has {len(text):,} characters; give at most {_LONGEST:,}")
        source, quoted = _without_backticks(text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the parser, about escapes in texts
                tree = ast.parse(source, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            what = getattr(error, "msg", None) or type(error).__name__
            raise ConfigError(f"condition {text!r:.200}: {what}; {_ALLOWED}") from None
        _check(tree, text, depth=0)
        tree = _Names(quoted).visit(tree)
        if isinstance(tree, ast.Constant | ast.List | ast.Tuple):
            _refuse(text, tree, "is a literal, not a condition")
        names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        return cls(text, names, tree)

    def require(self, known: Sequence[str], *, where: str) -> None:
        """Check that all columns exist.

        Raises:
            ConfigError: one does not; the message lists those that do.
        """
        if unknown := sorted(self.columns - set(known)):
            raise ConfigError(
                f"condition {self.text!r:.200}: there is no column {', '.join(map(repr, unknown))} in {where}; it has "
                f"{', '.join(sorted(known)) or 'none'}"
            )

    def holds(self, columns: Mapping[str, NDArray[Any] | Categories]) -> NDArray[np.bool_]:
        """Return whether it holds for each row, bool [B].

        Args:
            columns: numbers or bools [B], or categories, by name.

        Raises:
            ConfigError: a name is unknown, values of different kinds are compared, a divisor is 0, or a number is
                larger than floats can be.
        """
        self.require(list(columns), where="these rows")
        with np.errstate(invalid="ignore", over="ignore"):
            try:
                return _Rows(self.text, columns).boolean(self.tree)
            except OverflowError:
                _refuse(self.text, self.tree, "computes a number that is too large for a float")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Computes the nodes of a condition for some rows."""

    text: str
    columns: Mapping[str, NDArray[Any] | Categories]

    def value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return self.columns[node.id]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.List | ast.Tuple):
            return [self.value(item) for item in node.elts]
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node)
        if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
            number = self._number(node.operand)
            return _computed(ast.Sub, 0, number) if isinstance(node.op, ast.USub) else number
        return self.boolean(node)

    def boolean(self, node: ast.expr) -> NDArray[np.bool_]:
        if isinstance(node, ast.BoolOp):
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return join.reduce([self.boolean(value) for value in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.boolean(node.operand)
        if isinstance(node, ast.Compare):
            values = [self.value(each) for each in (node.left, *node.comparators)]
            pairs = zip(node.ops, values[:-1], values[1:])
            return np.logical_and.reduce([self._compared(node, *pair) for pair in pairs])
        value = self.columns[node.id] if isinstance(node, ast.Name) else None
        if not isinstance(value, np.ndarray) or value.dtype != np.bool_:
            _refuse(self.text, node, "is neither true nor false: compare it with something")
        return value

    def _arithmetic(self, node: ast.BinOp) -> Any:
        left, right = self._number(node.left), self._number(node.right)
        if not isinstance(node.op, ast.Add | ast.Sub | ast.Mult) and not np.all(right):
            _refuse(self.text, node, "divides by 0 in some rows: leave them out with an earlier condition (--within)")
        return _computed(type(node.op), left, right)

    def _number(self, node: ast.expr) -> Any:
        value = self.value(node)
        if isinstance(value, str | list | Categories) or (isinstance(value, np.ndarray) and value.ndim != 1):
            _refuse(self.text, node, "is no number")
        if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
            return value
        if value.dtype == np.uint64 and value.max(initial=0) >= 1 << 63:
            return value
        # As 64 bits: a column of small integers must not wrap around.
        return value.astype(np.float64 if value.dtype.kind == "f" else np.int64)

    def _compared(self, node: ast.expr, op: ast.cmpop, left: Any, right: Any) -> Any:
        if isinstance(op, ast.In | ast.NotIn):
            found = self._among(node, left, right)
            return ~found if isinstance(op, ast.NotIn) else found
        if isinstance(right, Categories) and not isinstance(left, Categories):
            left, right = right, left
        if isinstance(left, Categories):
            if not isinstance(op, ast.Eq | ast.NotEq) or not isinstance(right, str):
                _refuse(self.text, node, "compares texts: use == or != with a 'text', or in ['a', 'b']")
            found = self._among(node, left, [right])
            return found if isinstance(op, ast.Eq) else ~found
        for value in (left, right):
            if isinstance(value, str | list):
                _refuse(self.text, node, f"compares numbers with {value!r:.60}")
            if isinstance(value, np.ndarray) and value.ndim != 1:
                _refuse(self.text, node, f"compares a column of rows of shape {value.shape[1:]}: only numbers compare")
        if not isinstance(left, np.ndarray) and not isinstance(right, np.ndarray):
            _refuse(self.text, node, "compares two literals: name a column")
        return _COMPARISONS[type(op)](left, right)

    def _among(self, node: ast.expr, left: Any, right: Any) -> NDArray[np.bool_]:
        if not isinstance(right, list):
            _refuse(self.text, node, _NO_LIST)
        if isinstance(left, Categories):
            if not all(isinstance(item, str) for item in right):
                _refuse(self.text, node, "compares texts with numbers")
            wanted = [code for code, name in enumerate(left.names) if name in right]
            return np.isin(left.code_B, wanted)
        if not isinstance(left, np.ndarray) or left.ndim != 1 or any(isinstance(item, str) for item in right):
            _refuse(self.text, node, "needs a column of numbers, and numbers after `in`")
        found = np.zeros(len(left), dtype=bool)
        for item in right:
            found |= left == item
        return found


def _computed(op: type[ast.operator], left: Any, right: Any) -> Any:
    """Return the result of arithmetic; whole numbers beyond 64 bits are Python's, which are exact, and slow."""
    if _may_wrap(left, right):
        left, right = _exact(left), _exact(right)
    return _ARITHMETIC[op](left, right)


def _may_wrap(*sides: Any) -> bool:
    """Return whether what is computed from two sides are whole numbers that may need more than 64 bits."""
    size = 1  # no result of + - * / // % is larger than the product of two numbers of at least 2
    for side in sides:
        if isinstance(side, float) or (isinstance(side, np.ndarray) and side.dtype.kind == "f"):
            return False
        if isinstance(side, np.ndarray) and side.dtype.kind in "uO":
            size = 1 << 63
        else:
            size *= max(abs(int(np.min(side, initial=0))), abs(int(np.max(side, initial=0))), 2)
    return size >= 1 << 63


def _exact(side: Any) -> Any:
    """Return whole numbers as Python's."""
    return side.astype(np.object_) if isinstance(side, np.ndarray) else int(side)


def _without_backticks(text: str) -> tuple[str, dict[str, str]]:
    """Return a condition as Python reads it, and the names that were in backticks by those that stand for them.

    Each stands in as many bytes, so that the places of errors stay what they are.
    """
    text = text.strip()
    quoted: dict[str, str] = {}

    def stand_in(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return found[0]
        if not name.strip():
            raise ConfigError(f"condition {text!r:.200}: there is no name in a pair of backticks; {_ALLOWED}")
        beside = text[max(found.start() - 1, 0) : found.start()] + text[found.end() : found.end() + 1]
        if re.search(r"\w", beside):  # what stands in would become a part of it
            raise ConfigError(f"condition {text!r:.200}: {found[0]!r:.80} touches what is beside it; {_ALLOWED}")
        width = len(found[0].encode("utf-8", "surrogatepass"))
        number = len(quoted)
        while (made := f"_{number:0{width - 1}x}") in text or made in quoted:
            number += 1
        quoted[made] = name
        return made

    return _QUOTED.sub(stand_in, text), quoted


class _Names(ast.NodeTransformer):
    """Makes every name of a column one `ast.Name`."""

    def __init__(self, quoted: Mapping[str, str]) -> None:
        self._quoted = quoted

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self._quoted.get(node.id, node.id), node.ctx), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.Name:
        above = self.visit(node.value)
        return ast.copy_location(ast.Name(f"{above.id}.{self._quoted.get(node.attr, node.attr)}", node.ctx), node)


def _check(node: ast.AST, text: str, *, depth: int) -> None:
    """Refuse everything but the allowed kinds of nodes."""
    if depth > _DEEPEST:
        raise ConfigError(f"condition {text!r:.200} is nested more than {_DEEPEST} levels deep; write it flatter")
    if not isinstance(node, _NODES) or (
        isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Name | ast.Attribute)
    ):
        _refuse(text, node, "is not allowed")
    _check_operators(node, text)
    if isinstance(node, ast.Constant):
        _check_literal(node, text)
    if isinstance(node, ast.List | ast.Tuple):
        bare = [item.operand if isinstance(item, ast.UnaryOp) else item for item in node.elts]
        if not all(isinstance(item, ast.Constant) for item in bare):
            _refuse(text, node, "lists something else than literals")
    for below in ast.iter_child_nodes(node):
        if isinstance(below, ast.expr):
            _check(below, text, depth=depth + 1)


def _check_operators(node: ast.AST, text: str) -> None:
    operators = [getattr(node, "op", None), *getattr(node, "ops", ())]
    if any(isinstance(op, _REFUSED) for op in operators):
        _refuse(text, node, "is not allowed")
    for op, right in zip(operators[1:], getattr(node, "comparators", ())):
        if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.Constant):  # ('en') is no list, but a text
            _refuse(text, node, _NO_LIST)


def _check_literal(node: ast.Constant, text: str) -> None:
    if not isinstance(node.value, bool | int | float | str):
        _refuse(text, node, "is not allowed")
    if isinstance(node.value, int) and abs(node.value) >= 1 << 64:
        _refuse(text, node, "does not fit into 64 bits")


def _refuse(text: str, node: ast.AST, fact: str) -> NoReturn:
    piece = ast.get_source_segment(text.strip(), node) or type(node).__name__  # type: ignore[arg-type]
    raise ConfigError(f"condition {text!r:.200}: {piece!r:.80} {fact}; {_ALLOWED}")
