"""Tokenizes SQL: the kind of a statement, its placeholders, the tables that it writes, and the parts of a script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from ._errors import ProgrammingError


class Kind(Enum):
    """How a statement relates to transactions."""

    READ = "read"  # may begin a deferred transaction
    WRITE = "write"  # changes rows, and reports how many: must begin an immediate one
    SCHEMA = "schema"  # must begin an immediate one too, but reports no rows
    SAVEPOINT = "savepoint"  # must begin an immediate one too
    CONTROL = "control"  # begins or ends a transaction itself
    OUTSIDE = "outside"  # has no effect or is refused in a transaction


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed statement. `pieces` is the SQL around its placeholders; the i-th placeholder takes value `order[i]`."""

    sql: str
    kind: Kind
    pieces: tuple[str, ...]
    order: tuple[int, ...]
    parameter_count: int


_TOKEN = re.compile(
    r"""
      (?P<blank>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<quoted>'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\])  # a doubled quote yields two adjacent tokens
    | (?P<question>\?\d*)
    | (?P<named>[:@$\#]\w+)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_NAME = re.compile(r"[^\W\d][\w$]*")
_KINDS = {
    **dict.fromkeys(("SELECT", "VALUES", "EXPLAIN"), Kind.READ),
    **dict.fromkeys(("INSERT", "REPLACE", "UPDATE", "DELETE"), Kind.WRITE),
    **dict.fromkeys(("BEGIN", "COMMIT", "END", "ROLLBACK", "RELEASE"), Kind.CONTROL),
    **dict.fromkeys(("PRAGMA", "VACUUM", "ATTACH", "DETACH"), Kind.OUTSIDE),
    "SAVEPOINT": Kind.SAVEPOINT,
}
_BEFORE_TABLES = frozenset({"INTO", "TABLE", "WITH", "RECURSIVE"})
_AFTER_WITH = frozenset({"SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE"})


@lru_cache(maxsize=1024)
def parse(sql: str) -> Statement:
    """Parse one statement. ProgrammingError if it is empty, several, or has named placeholders."""
    words: list[tuple[str, int]] = []  # upper-cased, with their parenthesis depth; ";" stands for itself
    placeholders: list[tuple[int, int, str]] = []
    depth = 0
    for token in _TOKEN.finditer(sql):
        text = token.group()
        match token.lastgroup:
            case "question":
                placeholders.append((token.start(), token.end(), text[1:]))
            case "named":
                raise ProgrammingError(f"named placeholder {text!r}: this driver's paramstyle is qmark, write ?")
            case "word":
                words.append((text.upper(), depth))
            case "mark":
                depth += (text == "(") - (text == ")")
                words.append((text, depth))
            case "quoted" | "number":
                words.append(("", depth))
    _check_single_statement(words)
    pieces, order = _split_at_placeholders(sql, placeholders)
    return Statement(sql, _kind([w for w in words if w[0] != ";"]), pieces, order, max(order, default=-1) + 1)


def reads_only(sql: str) -> bool:
    """Return whether a statement only reads."""
    return parse(sql).kind is Kind.READ


@lru_cache(maxsize=1024)
def tables_written(sql: str) -> tuple[str, ...]:
    """Return the tables that a statement changes: their rows by INSERT, UPDATE and DELETE, or their schema by DDL.

    CREATE TRIGGER changes the trigger's table, not those in its body.
    """
    names = _name_tokens(sql)
    words = [text.upper() if is_word else "" for text, is_word, _ in names]
    start = 0
    if words and words[0] == "WITH":
        verbs = [n for n, (_, _, depth) in enumerate(names) if depth == 0 and n and words[n] in _AFTER_WITH]
        start = verbs[0] if verbs else len(names)
    at = _table_index(words, start)
    return () if at is None or at >= len(names) else (_last_of_dotted(names, at),)


@lru_cache(maxsize=1024)
def attached_file(sql: str) -> str | None:
    """Return SQL for the name of the file that an ATTACH opens; None for any other statement."""
    tokens = [token for token in _TOKEN.finditer(sql) if token.lastgroup != "blank"]
    if tokens[0].group().upper() != "ATTACH":
        return None
    first = 2 if tokens[1].group().upper() == "DATABASE" else 1
    last = max((number for number, token in enumerate(tokens) if token.group().upper() == "AS"), default=0)
    if last <= first:
        return None
    expression = sql[tokens[first].start() : tokens[last - 1].end()]
    quote = expression[0]
    if quote not in '"`[' and not _NAME.fullmatch(expression):
        return expression
    name = expression if quote not in '"`[' else expression[1:-1].replace(quote * 2, quote)
    return "'{}'".format(name.replace("'", "''"))  # the engine takes a name as a text


def function_calls(sql: str) -> Iterator[tuple[str, int]]:
    """Yield the bare names that an opening parenthesis follows, with their positions in the statement.

    Leaves out quoted names, and the names of tables after INTO, TABLE and WITH.
    """
    before, name, at = "", "", 0
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "blank":
            continue
        if name and token.group() == "(" and before.upper() not in _BEFORE_TABLES:
            yield name, at
        before, name = name, token.group() if token.lastgroup == "word" else ""
        at = token.start()


def call_spans(sql: str, name: str) -> Iterator[tuple[int, int, int]]:
    """Yield where each call of a function begins, and where its parentheses are."""
    starts = [start for called, start in function_calls(sql) if called.lower() == name]
    for start in starts:
        depth, opened = 0, -1
        for token in _TOKEN.finditer(sql, start):
            text = token.group() if token.lastgroup == "mark" else ""
            depth += (text == "(") - (text == ")")
            if text == "(" and opened < 0:
                opened = token.start()
            if text == ")" and depth == 0:
                yield start, opened, token.start()
                break


def _name_tokens(sql: str) -> list[tuple[str, bool, int]]:
    """Return the words, quoted names and marks of a statement: text, whether it is a bare word, parenthesis depth."""
    found: list[tuple[str, bool, int]] = []
    depth, end = 0, -1
    for token in _TOKEN.finditer(sql):
        text = token.group()
        if token.lastgroup == "mark":
            depth += (text == "(") - (text == ")")
        if token.lastgroup == "quoted" and found and token.start() == end and text[0] == sql[end - 1] != "]":
            found[-1] = (found[-1][0] + text[0] + text[1:-1], False, depth)  # a doubled quote within a name
        elif token.lastgroup == "quoted":
            found.append((text[1:-1], False, depth))
        elif token.lastgroup != "blank":
            found.append((text, token.lastgroup == "word", depth))
        end = token.end()
    return found


def _table_index(words: list[str], start: int) -> int | None:
    """Return the index of the table's name in a statement whose verb is at `start`."""
    verb = words[start] if start < len(words) else ""
    if verb in {"INSERT", "REPLACE"}:
        return words.index("INTO", start) + 1 if "INTO" in words[start:] else None
    if verb == "DELETE":
        return start + 2
    if verb == "UPDATE":
        return start + 3 if words[start + 1 : start + 2] == ["OR"] else start + 1
    return _table_index_in_ddl(words[start:], verb)


def _table_index_in_ddl(words: list[str], verb: str) -> int | None:
    if verb not in {"CREATE", "DROP", "ALTER"}:
        return None
    kind = next((n for n, word in enumerate(words[:4]) if word in {"TABLE", "VIEW", "INDEX", "TRIGGER"}), None)
    if kind is None:
        return None
    if words[kind] in {"INDEX", "TRIGGER"}:
        return words.index("ON") + 1 if "ON" in words else None
    at = kind + 1
    while words[at : at + 1] and words[at] in {"IF", "NOT", "EXISTS"}:
        at += 1
    return at


def _last_of_dotted(names: list[tuple[str, bool, int]], at: int) -> str:
    while names[at + 1 : at + 2] and names[at + 1][0] == "." and not names[at + 1][1] and at + 2 < len(names):
        at += 2
    return names[at][0]


def _check_single_statement(words: list[tuple[str, int]]) -> None:
    # SQLite compiles the first statement only: the others would be dropped silently.
    texts = [text for text, _ in words]
    while texts and texts[-1] == ";":
        texts.pop()
    if not texts:
        raise ProgrammingError("the statement is empty")
    if ";" in texts and not _is_trigger(texts):
        raise ProgrammingError("one statement at a time: found another after ';' (executescript runs several)")
    # A trigger's body ends with "; END ;". A CASE expression has no semicolon before its END.
    if _is_trigger(texts) and any(texts[i : i + 3] == [";", "END", ";"] for i in range(len(texts))):
        raise ProgrammingError("one statement at a time: found another after the trigger's END")


def _is_trigger(texts: list[str]) -> bool:
    head = [text for text in texts[:3] if text not in {"TEMP", "TEMPORARY"}]
    return head[:2] == ["CREATE", "TRIGGER"]


def _kind(words: list[tuple[str, int]]) -> Kind:
    verb = words[0][0]
    if verb == "WITH":
        verb = next((w for w, depth in words[1:] if depth == 0 and w in _AFTER_WITH), "WITH")
    return _KINDS.get(verb, Kind.SCHEMA)


def _split_at_placeholders(
    sql: str, placeholders: list[tuple[int, int, str]]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    pieces: list[str] = []
    order: list[int] = []
    end_of_last, highest = 0, 0
    for start, end, number in placeholders:
        highest = max(highest, int(number)) if number else highest + 1
        order.append(int(number or highest) - 1)
        pieces.append(sql[end_of_last:start])
        end_of_last = end
    return (*pieces, sql[end_of_last:]), tuple(order)


def split_script(script: str) -> list[str]:
    """Split a script at its semicolons; the body of a trigger is not split."""
    statements: list[str] = []
    texts: list[str] = []
    start = 0
    for token in _TOKEN.finditer(script):
        if token.lastgroup == "blank":
            continue
        texts.append(token.group().upper() if token.lastgroup in {"word", "mark"} else "")
        if texts[-1] == ";" and (not _is_trigger(texts) or texts[-3:-1] == [";", "END"]):
            if len(texts) > 1:
                statements.append(script[start : token.start()].strip())
            start, texts = token.end(), []
    if texts:
        statements.append(script[start:].strip())
    return statements
