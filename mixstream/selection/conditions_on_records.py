"""A `Condition` for one record at a time, such as a document before it is converted: values are plain Python values.

Rules. The checked tree of the condition becomes nested functions, once; nothing is evaluated as Python. Texts compare
with texts, numbers with numbers. A value that is missing, null or NaN fits no comparison and is an error, as a filter
must not leave a record out only because it does not know it.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from mixstream.selection.expression import Condition

Lookup = Callable[[str], Any]
"""The value of a field; it raises ValueError for one that the record does not have."""

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def record_condition(condition: Condition) -> Callable[[Lookup], bool]:
    """Return the function that says whether a condition holds for a record.

    It raises ValueError, with what is wrong, if a value is missing or does not fit.

    >>> holds = record_condition(Condition.parse("language == 'en' and score >= 0.5"))
    >>> holds({"language": "en", "score": 0.7}.__getitem__), holds({"language": "de", "score": 1}.__getitem__)
    (True, False)
    """
    evaluate = _boolean(condition.tree)

    def holds(lookup: Lookup) -> bool:
        try:
            return evaluate(lookup)
        except ZeroDivisionError:
            raise ValueError(f"the condition {condition.text!r} divides by 0") from None
        except OverflowError:
            raise ValueError(f"the condition {condition.text!r} computes a number too large for a float") from None

    return holds


def _value(node: ast.expr) -> Callable[[Lookup], Any]:
    if isinstance(node, ast.Name):
        return lambda lookup, name=node.id: lookup(name)
    if isinstance(node, ast.Constant):
        return lambda lookup, value=node.value: value
    if isinstance(node, ast.List | ast.Tuple):
        items = [_value(item) for item in node.elts]
        return lambda lookup: [item(lookup) for item in items]
    if isinstance(node, ast.BinOp):
        left, right, act = _number(node.left), _number(node.right), _OPERATORS[type(node.op)]
        return lambda lookup: act(left(lookup), right(lookup))
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
        number, sign = _number(node.operand), -1 if isinstance(node.op, ast.USub) else 1
        return lambda lookup: sign * number(lookup)
    return _boolean(node)


def _boolean(node: ast.expr) -> Callable[[Lookup], bool]:
    if isinstance(node, ast.BoolOp):
        each, together = [_boolean(value) for value in node.values], all if isinstance(node.op, ast.And) else any
        return lambda lookup: together(one(lookup) for one in each)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _boolean(node.operand)
        return lambda lookup: not inner(lookup)
    if isinstance(node, ast.Compare):
        values = [_value(each) for each in (node.left, *node.comparators)]
        kinds = [type(op) for op in node.ops]
        pairs = [(kind, left, right) for kind, left, right in zip(kinds, values, values[1:])]
        return lambda lookup: all(_compared(kind, left(lookup), right(lookup)) for kind, left, right in pairs)
    value = _value(node)

    def flag(lookup: Lookup) -> bool:
        if not isinstance(found := value(lookup), bool):
            raise ValueError(f"{ast.unparse(node)} is {found!r:.60}, neither true nor false: compare it with something")
        return found

    return flag


def _number(node: ast.expr) -> Callable[[Lookup], Any]:
    value = _value(node)

    def number(lookup: Lookup) -> Any:
        if isinstance(found := value(lookup), str) or not _is_comparable(found):
            raise ValueError(f"{ast.unparse(node)} is {found!r:.60}, no number")
        return found

    return number


def _compared(kind: type[ast.cmpop], left: Any, right: Any) -> bool:
    if kind in (ast.In, ast.NotIn):
        fits = isinstance(right, list) or (isinstance(left, str) and isinstance(right, str))
        others = right if isinstance(right, list) else []
    else:
        fits, others = _is_comparable(right), [right]
    for other in others:
        fits = fits and isinstance(left, str) == isinstance(other, str)
    if not fits or not _is_comparable(left):
        raise ValueError(f"{left!r:.60} cannot be compared with {right!r:.60}")
    return _OPERATORS[kind](left, right)


def _is_comparable(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and not math.isnan(value))
