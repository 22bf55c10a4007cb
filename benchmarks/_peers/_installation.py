"""The size of a distribution with everything it needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_COMPILED = ".pyc"


def installed_bytes(requirement: str) -> int:
    """Return the sizes of the files of a distribution and its dependencies, without compiled Python files."""
    return sum(_size(metadata.distribution(name)) for name in dict(_closure(Requirement(requirement), set())))


def _closure(requirement: Requirement, visited: set[tuple[str, str]]) -> Iterator[tuple[str, None]]:
    """Yield the names of the installed distributions that a requirement needs, also more than once."""
    name = canonicalize_name(requirement.name)
    for extra in ("", *requirement.extras):
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        yield name, None
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                yield from _closure(needed, visited)


def _size(distribution: metadata.Distribution) -> int:
    paths = [Path(str(file.locate())) for file in distribution.files or ()]
    if all(path.suffix != ".py" or path.name.startswith("_") for path in paths):
        paths += _editable(distribution)
    return sum(path.stat().st_size for path in paths if path.suffix != _COMPILED and path.is_file())


def _editable(distribution: metadata.Distribution) -> list[Path]:
    """Return the files of the package of an editable installation, which lists none of them."""
    spec = importlib.util.find_spec(distribution.metadata["Name"].replace("-", "_"))
    folders = [] if spec is None else spec.submodule_search_locations or []
    return [path for folder in folders for path in Path(folder).rglob("*")]
