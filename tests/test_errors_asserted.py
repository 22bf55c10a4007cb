"""How tests assert errors: by one class, and every code of the package somewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from memory_storage import _exception_mapping

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "memory_storage"
BASES = {"MemoryStorageError", "Error", "SQLAlchemyError", "DBAPIError", "Exception", "BaseException"}
REPORTED = (
    "type(caught.value)",
    "caught.type",
    "return caught.value",
    'error = getattr(caught.value, "orig", caught.value)',  # wrapped by SQLAlchemy or not: the same error of the driver
)


@cache
def _modules(directory: Path) -> list[tuple[Path, ast.Module, str]]:
    sources = [(path, path.read_text(encoding="utf-8")) for path in sorted(directory.rglob("*.py"))]
    return [(path, ast.parse(source), source) for path, source in sources]


def _is_loose(node: ast.AST) -> bool:
    """Whether it is a `pytest.raises` of several classes, or of one that others are below."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "raises"):
        return False
    expected = node.args[0] if node.args else None
    return isinstance(expected, ast.Tuple) or getattr(expected, "attr", getattr(expected, "id", "")) in BASES


def _is_choice_of_codes(node: ast.AST) -> bool:
    """Whether it is an assertion that a code is one of several."""
    if not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare)):
        return False
    left, operators = node.test.left, node.test.ops
    return isinstance(left, ast.Attribute) and left.attr == "code" and isinstance(operators[0], ast.In)


def _tells(function: ast.FunctionDef, source: str) -> bool:
    """Whether a function compares the class itself, or gives the error to callers that do."""
    text = ast.get_source_segment(source, function) or ""
    return any(reported in text for reported in REPORTED)


def test_no_test_accepts_one_of_several_errors():
    found = set()
    for path, module, source in _modules(TESTS):
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef):
                loose = [node for node in ast.walk(function) if _is_loose(node) or _is_choice_of_codes(node)]
                if loose and not _tells(function, source):
                    found |= {f"{path.relative_to(TESTS)}:{node.lineno}" for node in loose}
    assert found == set()


def _is_code(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()


def _codes(module: ast.Module) -> Iterator[str]:
    """The codes that a module gives its errors."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            values += node.args[1:2] if name.endswith(("Error", "ResponseMissing", "RequestNotSent")) else []
            yield from (value.value for value in values if isinstance(value, ast.Constant) and _is_code(value))


def _texts(module: ast.Module) -> Iterator[str]:
    yield from (node.value for node in ast.walk(module) if isinstance(node, ast.Constant) and _is_code(node))


def test_every_code_of_the_package_is_asserted_by_a_test():
    given = {code for _, module, _ in _modules(PACKAGE) for code in _codes(module)} | _exception_mapping._BY_CODE.keys()
    asserted = {text for path, module, _ in _modules(TESTS) if path != Path(__file__) for text in _texts(module)}
    assert {"CONNECTION_FAILED", "TRANSACTION_LOST", "MAINTENANCE"} <= given
    assert sorted(given - asserted) == []
