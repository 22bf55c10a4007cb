"""Filters on a JSON document as SQL conditions: operators, nested paths, lists, and `$and`, `$or`, `$not`.

A filter is a dictionary of keys, each with a value or an operator expression; all of them must hold:

    {"model": "small", "retry.count": {"$gte": 3}, "labels": {"$contains": "flaky"}, "$or": [{"a": 1}, {"b": 2}]}

A key with a dot is the literal key if the document has it, else a path through nested objects; `\\.` is a dot, `\\\\` a
backslash, and `\\$` at the beginning a dollar sign that begins no operator. Paths do not go through arrays.

Values are compared as JSON: numbers with numbers (1 equals 1.0, exactly, also beyond 2**53), strings with strings by
code point, and a boolean is no number. Order operators take numbers and strings, and never match another type. `$ne`,
`$nin` and `$not` also match where the key is absent; None equals only a null that is present. Equality and `$in`
compare scalars, so they match no array; `$contains` matches an array that has the value, and no scalar.

The conditions test each row by itself. `sql/filters.py` knows which of them an index can serve.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard
from uuid import uuid4

from pydantic_core import to_json

from memory_storage.errors import ValidationError
from memory_storage.models.query import MetadataFilter, MetadataValue

from .validation import choice, flag, join_field, refuse_unstorable

# Each comparison is a condition, and the engine accepts 1,000 in a statement and 32,766 values.
MOST_KEYS = 100
"""Keys of one dictionary, and comparisons of a filter."""
MOST_VALUES = 1_000
"""Values of all lists of a filter."""
# The engine accepts an expression that is 1,000 levels deep; one level of a filter takes several, and a page of a query
# has the conditions within its own.
MOST_LEVELS = 20
"""Nested levels of `$and`, `$or` and `$not`."""
MOST_PARTS = 50
"""Parts of a path."""
MOST_QUOTES = 200
"""Parts of all paths that contain a quote: each needs a copy of the document."""

_PIECE = re.compile(r"^\\\$|\\[.\\]|\.|[^.\\]+|\\")
# Of this process: no document can have a key of this name too.
_RENAMED = f"key {uuid4()}"

Path: TypeAlias = tuple[str, ...]


class Comparison(NamedTuple):
    """A test of one value of the document.

    Args:
        paths: Where the value is: the first of them that the document has.
        operator: "$in", "$contains", "$exists", or one of order.
        operands: The values of "$in", else one value; none for "$exists".
    """

    paths: tuple[Path, ...]
    operator: str
    operands: tuple[MetadataValue, ...]


class Negation(NamedTuple):
    """A condition that must not hold."""

    condition: Condition


class Junction(NamedTuple):
    """Conditions that must all hold (AND), or of which one must (OR)."""

    word: str
    conditions: tuple[Condition, ...]


Condition: TypeAlias = Comparison | Negation | Junction
RowTest: TypeAlias = Callable[[str], str]
"""Takes the SQL expression of a document, and returns the condition on it; its values are bound."""


def document_conditions(
    document_filter: MetadataFilter,
    *,
    document: str,
    values: dict[str, Any],
    root: str = "$",
    field: str = "metadata",
) -> list[str]:
    """Return the conditions of a filter as SQL, each of which must hold. They test a row at hand, without an index.

    Args:
        document_filter: The filter.
        document: The SQL expression of the JSON document, like "i.document".
        values: The values to bind by name; those of the conditions are added.
        root: The JSON path of the object whose keys the filter names.
        field: The path that an error gives the filter.

    Raises:
        ValidationError: the filter has an unknown operator, a value that cannot be compared, or exceeds a limit.
    """
    return [row_test(condition, root, values)(document) for condition in parse_filter(document_filter, field)]


def readable(document: str) -> str:
    """Return SQL for a document, or an empty one if another program has damaged it: the doctor will find it."""
    return f"CASE WHEN json_valid({document}) THEN {document} ELSE '{{}}' END"


def parse_filter(document_filter: object, field: str) -> tuple[Condition, ...]:
    """Return the conditions of a filter, all of which must hold.

    Args:
        document_filter: The filter.
        field: The path that an error gives it.

    Raises:
        ValidationError: the filter has an unknown operator, a value that cannot be compared, or exceeds a limit.
    """
    return tuple(_conjuncts(_Parser(field).conditions(document_filter, field, 1)))


def _conjuncts(conditions: Iterable[Condition]) -> Iterator[Condition]:
    for one in conditions:
        if isinstance(one, Junction) and one.word == "AND":
            yield from _conjuncts(one.conditions)
        else:
            yield one


class _Parser:
    """Parses one filter, and counts its parts."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._counts = {"comparisons": 0, "values in lists": 0, "parts of keys with a quote": 0}

    def conditions(self, filter_: object, field: str, level: int) -> tuple[Condition, ...]:
        if not isinstance(filter_, Mapping) or not all(isinstance(key, str) for key in filter_):
            raise ValidationError(field, "a dictionary of keys and conditions", filter_)
        if level > MOST_LEVELS:
            raise self._too_deep(level)
        if len(filter_) > MOST_KEYS:
            raise ValidationError(field, f"at most {MOST_KEYS} keys at once", len(filter_))
        for key in filter_:
            refuse_unstorable(join_field(field, "a key"), key)
        # Sorted: the order of the keys makes no other statement.
        return tuple([self._condition(key, filter_[key], join_field(field, key), level) for key in sorted(filter_)])

    def _condition(self, key: str, value: Any, field: str, level: int) -> Condition:
        if key in _LOGICAL:
            return self._logical(key, value, field, level)
        if key in OPERATORS:
            raise ValidationError(field, f'an operator follows a key, like {{"key": {{"{key}": ...}}}}', key)
        # As a key of the document, a name with a dollar sign has a value; an operator has a list or a dictionary.
        if key.startswith("$") and isinstance(value, Mapping | list | tuple):
            choice(field, key, _LOGICAL)
        paths = _paths(key, field)
        if isinstance(value, Mapping):
            return self._expression(paths, value, field, level)
        if isinstance(value, list | tuple):
            raise ValidationError(field, "one value; $in compares with several, $contains looks into an array", value)
        return self._comparison(paths, "$in", (_scalar(value, field),))

    def _logical(self, operator: str, value: Any, field: str, level: int) -> Condition:
        if operator == "$not":
            return Negation(self._all_of(value, field, level))
        if not isinstance(value, list | tuple) or not value:
            raise ValidationError(field, "a list of at least one dictionary of conditions", value)
        filters = [self._all_of(one, f"{field}.{index}", level) for index, one in enumerate(value)]
        return _junction("AND" if operator == "$and" else "OR", filters)

    def _all_of(self, filter_: Any, field: str, level: int) -> Condition:
        if conditions := self.conditions(filter_, field, level + 1):
            return _junction("AND", conditions)
        raise ValidationError(field, "at least one condition", filter_)

    def _expression(self, paths: tuple[Path, ...], value: Any, field: str, level: int) -> Condition:
        # A dictionary without operators is refused: it could mean the equality of objects, or a nested filter.
        if level > MOST_LEVELS:
            raise self._too_deep(level)
        is_expression = isinstance(value, Mapping) and value and all(str(key).startswith("$") for key in value)
        if not is_expression:
            limit = 'a value or operators, like {"$gte": 3}; a nested key is named by a path, like "key.inner"'
            raise ValidationError(field, limit, value)
        return _junction("AND", [self._operation(paths, name, value[name], field, level) for name in sorted(value)])

    def _operation(self, paths: tuple[Path, ...], operator: str, operand: Any, field: str, level: int) -> Condition:
        choice(field, operator, OPERATORS)
        field = join_field(field, operator)
        if operator == "$not":
            return Negation(self._expression(paths, operand, field, level + 1))
        if operator == "$exists":
            present = self._comparison(paths, "$exists", ())
            return present if flag(field, operand) else Negation(present)
        comparison = self._comparison(
            paths, _COMPARED_BY.get(operator, operator), self._operands(operator, operand, field)
        )
        return Negation(comparison) if operator in ("$ne", "$nin") else comparison

    def _operands(self, operator: str, operand: Any, field: str) -> tuple[MetadataValue, ...]:
        if operator in ("$in", "$nin"):
            return self._listed(operand, field)
        value = _scalar(operand, field)
        if operator in _SIGNS and (value is None or isinstance(value, bool)):
            raise ValidationError(field, "a number or a string", operand)
        return (value,)

    def _listed(self, operand: Any, field: str) -> tuple[MetadataValue, ...]:
        if not isinstance(operand, list | tuple):
            raise ValidationError(field, "a list of values", operand)
        self._count("values in lists", len(operand), MOST_VALUES)
        return tuple([_scalar(value, f"{field}.{index}") for index, value in enumerate(operand)])

    def _comparison(self, paths: tuple[Path, ...], operator: str, operands: tuple[MetadataValue, ...]) -> Comparison:
        self._count("comparisons", 1, MOST_KEYS)
        quoted = sum('"' in part for path in paths for part in path)
        self._count("parts of keys with a quote", quoted, MOST_QUOTES)
        return Comparison(paths, operator, operands)

    def _count(self, name: str, number: int, most: int) -> None:
        self._counts[name] += number
        if self._counts[name] > most:
            raise ValidationError(self._field, f"at most {most:,} {name}", self._counts[name])

    def _too_deep(self, level: int) -> ValidationError:
        return ValidationError(self._field, f"nested too deep: at most {MOST_LEVELS} levels", f"{level} levels")


def _paths(key: str, field: str) -> tuple[Path, ...]:
    # Whatever is escaped, a key that the document has literally is found under that name.
    if "." not in key and "\\" not in key:
        return ((key,),)
    parts = [""]
    for piece in _PIECE.findall(key):
        if piece == ".":
            parts.append("")
        else:
            is_escape = len(piece) == 2 and piece[0] == "\\"
            parts[-1] += piece[1] if is_escape else piece
    if len(parts) > MOST_PARTS:
        raise ValidationError(field, f"at most {MOST_PARTS} parts of a path", len(parts))
    return ((key,),) if parts == [key] else ((key,), tuple(parts))


def _junction(word: str, conditions: Sequence[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else Junction(word, tuple(conditions))


def _scalar(value: Any, field: str) -> MetadataValue:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        # The engine ends a text at a NUL: it would compare less than was written.
        refuse_unstorable(field, value)
        return str.__str__(value)  # of an enumeration too
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValidationError(field, "at most 64 bits", value)
        return int(value)
    if not isinstance(value, float):
        raise ValidationError(field, "a string, a number, a boolean or None", value)
    if not math.isfinite(value):
        raise ValidationError(field, "a finite number", value)
    return float(value)


def row_test(condition: Condition, root: str, values: dict[str, Any]) -> RowTest:
    """Bind the values of a condition.

    Args:
        condition: The condition.
        root: The JSON path of the object whose keys the filter names.
        values: The values to bind by name; those of the condition are added.

    Returns:
        What makes the SQL of the condition for a document.
    """
    if isinstance(condition, Comparison):
        return _comparison_test(condition, root, values)
    if isinstance(condition, Negation):
        inner = row_test(condition.condition, root, values)
        # What is absent is NULL, and NOT NULL is NULL: a condition that is not true must be false here.
        return lambda document: f"({inner(document)}) IS NOT TRUE"
    tests = [row_test(one, root, values) for one in condition.conditions]
    return lambda document: f"({f' {condition.word} '.join([test(document) for test in tests])})"


class _Value(NamedTuple):
    """SQL for a value in a document: its JSON type (NULL if it is absent), itself, its JSON, its document and path."""

    kind: str
    value: str
    text: str
    document: str
    path: str


_ValueTest: TypeAlias = Callable[[_Value], str]
_IS_NUMBER = "IN ('integer', 'real')"


def _comparison_test(comparison: Comparison, root: str, values: dict[str, Any]) -> RowTest:
    renamed: dict[str, str] = {}
    paths = [bind(values, _json_path(path, root, renamed)) for path in comparison.paths]
    members = [(bind(values, member), bind(values, f'"{name}":')) for member, name in renamed.items()]
    make_test = _TESTS.get(comparison.operator, _order_test)
    test = make_test(comparison, values)

    def of_document(document: str) -> str:
        document = readable(document)
        for member, name in members:
            document = f"replace({document}, {member}, {name})"
        # The engine parses the document once for all of these functions.
        path = paths[-1]
        if len(paths) > 1:
            path = f"CASE WHEN json_type({document}, {paths[0]}) IS NULL THEN {path} ELSE {paths[0]} END"
        kind, value = f"json_type({document}, {path})", f"json_extract({document}, {path})"
        return f"({test(_Value(kind, value, f'({document} -> ({path}))', document, path))})"

    return of_document


def _json_path(path: Path, root: str, renamed: dict[str, str]) -> str:
    # A JSON path cannot name a key that contains a quote, so the key is renamed in a copy. Encoded as JSON it has an
    # escape, so its text occurs only as a key.
    labels = []
    for part in path:
        label = to_json(part).decode()
        if '"' in part:
            label = f'"{renamed.setdefault(f"{label}:", f"{_RENAMED} {len(renamed)}")}"'
        labels.append(f".{label}")
    return root + "".join(labels)


def bind(values: dict[str, Any], value: object) -> str:
    """Add a value to those to bind, and return its `:name`. The name depends only on the number of values."""
    # Conditions are compiled for several tables, and in each form; equal names let their values be bound once.
    name = f"document_{len(values)}"
    values[name] = value
    return f":{name}"


def _one_of_test(comparison: Comparison, values: dict[str, Any]) -> _ValueTest:
    """Test whether a value equals one of the operands. The text depends only on which types they have."""
    numbers = [form for one in comparison.operands if is_number(one) for form in equal_numbers(one)]
    literals = [to_json(one).decode() for one in comparison.operands if one is None or isinstance(one, bool)]
    strings = [one for one in comparison.operands if isinstance(one, str)]
    # Each type has a list of its own: in SQL, the string "1" and true are equal to other things than in JSON.
    tests: list[_ValueTest] = []
    if strings:
        listed = _in_list(strings, values)
        tests.append(lambda at: f"{at.kind} = 'text' AND {at.value} {listed}")
    if literals:
        kinds = _in_list(literals, values)
        tests.append(lambda at: f"{at.kind} {kinds}")
    if numbers:
        # SQLite parses some decimals as an adjacent float, the same one for the same numeral. So the numerals are
        # compared too, of the few rows whose numbers are equal.
        parsed, numerals = _in_list(numbers, values), _in_list([_numeral(one) for one in numbers], values)
        tests.append(lambda at: f"{at.kind} {_IS_NUMBER} AND {at.value} {parsed} AND {at.text} {numerals}")
    return lambda at: " OR ".join([test(at) for test in tests]) or "0"


def _contains_test(comparison: Comparison, values: dict[str, Any]) -> _ValueTest:
    is_equal = _one_of_test(comparison, values)

    def of_array(at: _Value) -> str:
        # json_each() of a scalar has a row too, hence the type.
        text = f"({at.document} -> (({at.path}) || '[' || element.key || ']'))"
        of_element = is_equal(_Value("element.type", "element.value", text, at.document, at.path))
        elements = f"json_each({at.document}, {at.path}) AS element"
        return f"{at.kind} = 'array' AND EXISTS (SELECT 1 FROM {elements} WHERE {of_element})"

    return of_array


def _order_test(comparison: Comparison, values: dict[str, Any]) -> _ValueTest:
    sign, (wanted,) = _SIGNS[comparison.operator], comparison.operands
    bound = bind(values, wanted)
    if not is_number(wanted):
        return lambda at: f"{at.kind} = 'text' AND {at.value} {sign} {bound}"
    # SQLite parses some decimals as an adjacent float. Of a number next to the wanted one, or equal to it, the numeral
    # decides; another one is too far away to be on the other side.
    below, above = _neighbours(wanted)
    low, high = (bind(values, one) for one in (below, above))
    near = bind(values, to_json(dict(_near(comparison.operator, below, wanted, above))).decode())

    def of_number(at: _Value) -> str:
        compared = f"{at.value} {sign} {bound}"
        decided = f"coalesce((SELECT near.value FROM json_each({near}) AS near WHERE near.key = {at.text}), {compared})"
        return (
            f"{at.kind} {_IS_NUMBER} AND"
            f" CASE WHEN {at.value} BETWEEN {low} AND {high} THEN {decided} ELSE {compared} END"
        )

    return of_number


def _near(operator: str, below: float, wanted: int | float, above: float) -> Iterator[tuple[str, bool]]:
    """Yield the numerals of the wanted number and its neighbours, and whether they pass."""
    for number, side in ((below, "<"), (above, ">"), (wanted, "=")):  # the last one counts where they are equal
        for form in equal_numbers(number):
            yield _numeral(form), side in _SIGNS[operator]


def _neighbours(number: int | float) -> tuple[float, float]:
    """Return the adjacent floats, or the nearest finite ones."""
    nearest = float(number)
    # An integer beyond 2**53 may be between two floats; the greatest float has no finite one above it.
    below = nearest if nearest < number else math.nextafter(nearest, -math.inf)
    above = nearest if nearest > number else math.nextafter(nearest, math.inf)
    return (below if math.isfinite(below) else nearest), (above if math.isfinite(above) else nearest)


def is_number(value: MetadataValue) -> TypeGuard[int | float]:
    """Return whether a value is a JSON number, which a boolean is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal_numbers(number: int | float) -> list[int | float]:
    """Return the equal numbers that JSON writes differently."""
    if number == 0:
        return [0, 0.0, -0.0]
    # Up to 2**53 an int and a float may be equal; beyond, a float equals only the ints that it represents exactly.
    is_whole = isinstance(number, int) or (number.is_integer() and abs(number) < 2**63)
    same: list[int | float] = [int(number)] if is_whole else []
    return [*same, float(number)] if float(number) == number else same


def _numeral(number: int | float) -> str:
    return to_json(number).decode()


def _in_list(items: Sequence[object], values: dict[str, Any]) -> str:
    return f"IN (SELECT value FROM json_each({bind(values, to_json(items).decode())}))"


_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COMPARED_BY = {"$eq": "$in", "$ne": "$in", "$nin": "$in"}
_LOGICAL = ("$and", "$or", "$not")
OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains", "$not")
"""The operators that follow a key."""
_TESTS: dict[str, Callable[[Comparison, dict[str, Any]], _ValueTest]] = {
    "$in": _one_of_test,
    "$contains": _contains_test,
    "$exists": lambda *_: lambda at: f"{at.kind} IS NOT NULL",
}
