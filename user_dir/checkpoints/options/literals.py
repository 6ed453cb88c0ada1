"""Python literals out of strings that fairseq passes to `eval`: nothing in them is called."""

import ast
import operator
from collections.abc import Callable
from typing import Any

# Longer than any list that a model can mean, and still built at once.
_LONGEST = 10_000
_MOST_DIGITS = 20

# fconv's architectures are written so: "[(512, 3)] * 9 + [(1024, 3)] * 4".
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Mult: operator.mul}


def read_literal(text: str) -> Any:
    """The value of a literal; lists may be added, and repeated a number of times.

    Raises:
        ValueError: it is something else, or too long.
    """
    if len(text) > _LONGEST:
        raise ValueError("too long")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("not a literal") from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if _length(left, node.op) * _length(right, node.op) > _LONGEST:
            raise ValueError("too long")
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(element) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    value = ast.literal_eval(node)
    if isinstance(value, int) and len(hex(value)) > _MOST_DIGITS:
        raise ValueError("too long")
    return value


def _length(value: Any, operation: ast.operator) -> int:
    """What a list is repeated by, or its length."""
    if isinstance(value, (list, tuple, str)):
        return max(1, len(value))
    return max(1, int(value)) if isinstance(operation, ast.Mult) else 1
