"""The code blocks of a Markdown page, run in the order in which a reader meets them.

- ` ```python ` is executed, in one namespace for the whole page, and has to print something.
- ` ```sh ` is run by bash in the page's directory, with this environment's commands first on the path.
- ` ```text ` right after either is the output that the block has to have; `...` matches anything, as in doctest.
- `title="app.py"` on a block writes it to that file instead, for the blocks after it.
- `<!-- not run: reason -->` before a block skips it, `<!-- prints nothing: reason -->` allows silence.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "text", "ini", "json", "toml", "yaml", "sql", "mermaid", "pycon", "markdown"}

_FENCE = re.compile(
    r"(?:<!-- (?P<note>[^\n]*?) -->\n\s*)?"
    r"^(?P<indent> *)```(?P<language>[a-z]+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_SECONDS = 120.0


@dataclass(frozen=True)
class Block:
    """One fenced block of a page. `expected` is the ` ```text ` block right after it, if there is one."""

    page: Path
    line: int
    language: str
    code: str
    note: str
    title: str | None
    expected: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_skipped(self) -> bool:
        return self.note.startswith("not run: ")

    @property
    def may_be_silent(self) -> bool:
        return self.note.startswith("prints nothing: ") or self.language == "sh"


def blocks_of(page: Path) -> list[Block]:
    """Read the blocks of `page`, in order."""
    source = page.read_text(encoding="utf-8")
    fences: list[Any] = list(_FENCE.finditer(source))
    return [_block(page, source, fence, following) for fence, following in pairwise([*fences, None])]


def _block(page: Path, source: str, fence: re.Match[str], following: re.Match[str] | None) -> Block:
    expected = None
    if following and following["language"] == "text" and not source[fence.end() : following.start()].strip():
        expected = _dedented(following)
    return Block(
        page=page,
        line=source.count("\n", 0, fence.start("code")) + 1,
        language=fence["language"],
        code=_dedented(fence),
        note=fence["note"] or "",
        title=fence["title"],
        expected=expected,
    )


def _dedented(fence: re.Match[str]) -> str:
    return re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.MULTILINE)


def run_page(page: Path, directory: Path) -> list[str]:
    """Run the blocks of `page` in `directory`, which is the current one. Return what each of them printed."""
    names: dict[str, Any] = {"__name__": "__page__"}
    with _isolated():
        try:
            return [_run(block, names, directory) for block in blocks_of(page) if _is_run(block)]
        finally:
            _close(names)


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Undo what a page does to the process: its environment, its modules, and its logging."""
    environment, modules = dict(os.environ), set(sys.modules)
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        logging.root.handlers[:], logging.root.level = handlers, level
        for name in {"app", "tasks"} & (set(sys.modules) - modules):
            del sys.modules[name]


def _is_run(block: Block) -> bool:
    return not block.is_skipped and (block.title is not None or block.language in {"python", "sh"})


def _run(block: Block, names: dict[str, Any], directory: Path) -> str:
    if block.title:
        target = directory / block.title
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.code, encoding="utf-8")
        return ""
    printed = _run_python(block, names) if block.language == "python" else _run_shell(block, directory)
    assert block.may_be_silent or printed.strip(), f"{block.where} prints nothing"
    if block.expected is not None:
        _compare(block, printed)
    return printed


def _run_python(block: Block, names: dict[str, Any]) -> str:
    tree = ast.parse(block.code, block.where)
    ast.increment_lineno(tree, block.line - 1)  # a traceback then names the page's own line
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, block.page, "exec"), names)
    return printed.getvalue()


def _run_shell(block: Block, directory: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"NO_COLOR": "1", "COLUMNS": "120", "PYTHONPATH": str(directory)}
    script = f"set -euo pipefail\ncd {shlex.quote(str(directory))}\n{block.code}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False
    )
    assert done.returncode == 0, f"{block.where} failed ({done.returncode}):\n{done.stdout}{done.stderr}"
    return done.stdout


def _compare(block: Block, printed: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    expected = block.expected or ""
    if not doctest.OutputChecker().check_output(expected, printed, flags):
        raise AssertionError(f"{block.where} printed:\n{printed}\nThe page says:\n{expected}")


def _close(names: dict[str, Any]) -> None:
    for value in list(names.values()):
        if type(value).__module__.startswith("memory_storage") and callable(getattr(value, "close", None)):
            value.close()


def links_of(page: Path) -> Iterator[tuple[str, str]]:
    """The file and the anchor of each link of `page` to a page or file of this repository, outside of its blocks."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose):
        path, _, anchor = target.partition("#")
        yield path, anchor
