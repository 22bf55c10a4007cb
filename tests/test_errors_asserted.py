"""How tests assert errors: by one class, and every code of the package somewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from memory_storage import translation

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "memory_storage"
BASES = {"MemoryStorageError", "Error", "SQLAlchemyError", "DBAPIError", "Exception", "BaseException"}


def _modules(directory: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(directory.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def _functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef))


def _loose(node: ast.AST, function: str) -> bool:
    """Whether it is a `pytest.raises` of several classes, or of one that others are below, whose class nothing tells.

    A function that gives the error back has callers that tell.
    """
    if any(text in function for text in ("type(caught.value)", "caught.type", "return caught.value")):
        return False
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises" and node.args):
        return False
    expected = node.args[0]
    return isinstance(expected, ast.Tuple) or ast.unparse(expected).rpartition(".")[2] in BASES


def _choice_of_codes(node: ast.AST) -> bool:
    """Whether it is an assertion that a code is one of several."""
    if not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare)):
        return False
    left, operators = node.test.left, node.test.ops
    return isinstance(left, ast.Attribute) and left.attr == "code" and isinstance(operators[0], ast.In)


def test_no_test_accepts_one_of_several_errors():
    found = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path, module in _modules(TESTS)
        for function in _functions(module)
        for node in ast.walk(function)
        if _loose(node, ast.unparse(function)) or _choice_of_codes(node)
    ]
    assert found == []


def _is_code(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()


def _codes(module: ast.Module) -> Iterator[str]:
    """The codes that a module gives its errors."""
    for node in ast.walk(module):
        values: list[ast.AST | None] = []
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            is_error = ast.unparse(node.func).rpartition(".")[2].endswith(("Error", "NoAnswer", "NotSent"))
            values += node.args[1:2] if is_error else []
        yield from (value.value for value in values if _is_code(value))


def _texts(module: ast.Module) -> Iterator[str]:
    yield from (node.value for node in ast.walk(module) if _is_code(node))


def test_every_code_of_the_package_is_asserted_by_a_test():
    given = {code for _, module in _modules(PACKAGE) for code in _codes(module)} | translation._BY_CODE.keys()
    asserted = {text for path, module in _modules(TESTS) if path != Path(__file__) for text in _texts(module)}
    assert {"CONNECTION_FAILED", "TRANSACTION_LOST", "MAINTENANCE"} <= given
    assert sorted(given - asserted) == []
