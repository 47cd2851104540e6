"""Conditions on columns, written as text: parsed by a grammar of their own, and never run as code.

The text has Python's syntax and few of its words: names of columns, numbers, texts, lists, ``True``, ``False`` and
``None``; ``+ - * / // %``; ``== != < <= > >= in is``; ``and or not``. A missing value makes a comparison missing.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

MAX_LENGTH = 2000
MAX_DEPTH = 50

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], pl.Expr]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], pl.Expr]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def parse_condition(text: str, columns: pl.Schema) -> pl.Expr:
    """A condition on the rows of a table as an expression that is true, false or missing for each.

    Args:
        text: such as ``bbox_h >= 40 and category in ["infant", "adult"]``.
        columns: names and types of the columns it may speak of; ``image.width`` is the column of that name.

    Raises:
        ValueError: the text is no condition, or speaks of something else; says what and where.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a condition has at most {MAX_LENGTH} characters, not {len(text)}.")
    try:
        condition = _Parser(columns).parsed(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not a condition: {error.msg} at character {error.offset}.") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"the condition is nested more than {MAX_DEPTH} deep.") from None
    try:
        kind = pl.DataFrame(schema=columns).select(condition.alias("condition"))["condition"].dtype
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{text!r} does not fit the columns: {str(error).splitlines()[0].rstrip('.')}.") from None
    if kind != pl.Boolean:
        raise ValueError(f"{text!r} is a {kind} and no condition; compare it with something.")
    return condition


class _Parser:
    def __init__(self, columns: pl.Schema) -> None:
        self.columns = columns
        self.depth = 0

    def parsed(self, node: ast.expr) -> pl.Expr:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"the condition is nested more than {MAX_DEPTH} deep.")
        found = self._parsed(node)
        self.depth -= 1
        return found

    def _parsed(self, node: ast.expr) -> pl.Expr:
        match node:
            case ast.BoolOp(op=joint, values=values):
                join = pl.all_horizontal if isinstance(joint, ast.And) else pl.any_horizontal
                return join([self.parsed(value) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.parsed(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.parsed(operand)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                return _ARITHMETIC[type(sign)](self.parsed(left), self.parsed(right))
            case ast.Compare():
                return self._comparison(node)
            case ast.Name() | ast.Attribute(value=ast.Name()):
                return self._column(node)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return pl.lit(value)
        raise ValueError(
            f"{ast.unparse(node)!r} may not stand in a condition; there are columns, numbers, texts, comparisons, "
            "+ - * / // %, in, is None, and, or, not."
        )

    def _comparison(self, node: ast.Compare) -> pl.Expr:
        parts = []
        for left, sign, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            match sign, right:
                case ((ast.In() | ast.NotIn()), (ast.List(elts=items) | ast.Tuple(elts=items))):
                    given = self.parsed(left)
                    found = pl.any_horizontal(pl.lit(False), *(given == _constant(item) for item in items))
                    parts.append(found if isinstance(sign, ast.In) else ~found)
                case ((ast.Is() | ast.IsNot()), ast.Constant(value=None)):
                    missing = self.parsed(left).is_null()
                    parts.append(missing if isinstance(sign, ast.Is) else ~missing)
                case _ if type(sign) in _COMPARISONS:
                    parts.append(_COMPARISONS[type(sign)](self.parsed(left), self.parsed(right)))
                case _:
                    raise ValueError(f"{ast.unparse(node)!r}: after `in` stands a list, and after `is` stands None.")
        return parts[0] if len(parts) == 1 else pl.all_horizontal(parts)

    def _column(self, node: ast.expr) -> pl.Expr:
        name = ast.unparse(node)
        if name not in self.columns:
            raise ValueError(f"there is no column {name}; there are {', '.join(self.columns)}.")
        return pl.col(name)


def _constant(node: ast.expr) -> bool | int | float | str:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise ValueError(f"{ast.unparse(node)!r} is no number or text, and a list may hold nothing else.")
