"""What makes the code readable, as far as it can be counted: comments that give reasons, and no needless jumps."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "memory_storage"

LEAST_COMMENTS = {("search",): 50, ("sql",): 50, ("dbapi", "dialect"): 45}
"""Lines with a comment of 1,000, in the folders whose code has to follow an engine's or a protocol's constraints."""

MOST_JUMPS = 21
"""Private functions of one statement that are used once. Only lower it."""

_BARE_PRAGMA = re.compile(r"#\s*(noqa|type:)[^#]*$")
_COMPOUND = (ast.With, ast.For, ast.While, ast.Try, ast.If)


@pytest.mark.parametrize("folders", LEAST_COMMENTS, ids="+".join)
def test_code_with_hidden_constraints_gives_reasons(folders: tuple[str, ...]) -> None:
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in (PACKAGE / folder).rglob("*.py")]
    lines = sum(len(text.splitlines()) for text in texts)
    commented = sum(len(_commented_lines(text)) for text in texts)
    assert 1_000 * commented / lines >= LEAST_COMMENTS[folders], f"{commented} of {lines:,} lines have a comment"


def test_few_private_functions_are_one_statement_used_once() -> None:
    jumps = [f"{path.relative_to(PACKAGE)}: {name}" for path in sorted(PACKAGE.rglob("*.py")) for name in _jumps(path)]
    assert len(jumps) <= MOST_JUMPS, "inline some of them where they are used:\n" + "\n".join(jumps)


def _commented_lines(text: str) -> set[int]:
    """Return the numbers of the lines with a comment, without those that only silence a tool."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)
    return {line for line, comment in comments if " - " in comment or not _BARE_PRAGMA.match(comment)}


def _jumps(path: Path) -> Iterator[str]:
    """Yield the private functions of a file that only name one statement, and are used in one place."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    uses = Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
    )
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        is_private = node.name.startswith("_") and not node.name.startswith("__")
        if is_private and not node.decorator_list and uses[node.name] == 1:
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if len(body) == 1 and not isinstance(body[0], _COMPOUND):
                yield node.name
