"""The script that says for which platforms there are wheels: markers are those of the target, not of this machine."""

from __future__ import annotations

from types import ModuleType

import pytest

from .scripts import ROOT, load_script

pytest.importorskip("pip", reason="the script uses pip's parser of requirements")
pytest.importorskip("tomllib", reason="the script needs Python 3.11")


@pytest.fixture(scope="module")
def wheels() -> ModuleType:
    return load_script("wheels")


def target(wheels: ModuleType, name: str, python: str):
    return wheels.Target(next(one for one in wheels.PLATFORMS if one.name == name), python)


INDEX = {
    "app": ["driver>=1", "colours; sys_platform == 'win32'", "backport; python_version < '3.11'"],
    "driver": ["speedups[fast]"],
    "speedups": ["native; extra == 'fast'", "docs; extra == 'docs'"],
    "colours": [],
    "backport": [],
    "native": [],
}


def resolver(*absent: str):
    return lambda target, packages: {name: INDEX[name] for name in packages if name in INDEX and name not in absent}


@pytest.mark.parametrize(
    ("platform", "python", "absent", "expected"),
    [
        ("Linux x86-64 (glibc)", "3.14", {"colours", "backport", "docs"}, set()),
        ("Windows x64", "3.14", {"colours", "backport"}, {"colours"}),
        ("macOS arm64", "3.10", {"colours", "backport"}, {"backport"}),
        ("macOS arm64", "3.14", {"native"}, {"native"}),
        ("macOS arm64", "3.14", {"driver"}, {"driver"}),
    ],
)
def test_what_lacks_a_wheel_is_named(wheels, platform, python, absent, expected):
    groups = {"core": ["app"], "extra": ["native; python_version < '3.12'"]}
    found = wheels.missing(target(wheels, platform, python), groups, resolver(*absent))
    assert found["core"] == expected
    assert found["extra"] == (None if python == "3.14" else {"native"} & absent)


def test_an_extra_without_requirements_on_a_platform_is_a_no(wheels):
    results = {
        target(wheels, name, python): {"core": set(), "extra": None if python == "3.14" else set()}
        for name in ("macOS arm64", "Windows x64")
        for python in wheels.PYTHONS
    }
    results[target(wheels, "Windows x64", "3.10")] = {"core": {"driver"}, "extra": {"native"}}
    assert wheels.table(results) == [
        "| wheels for CPython 3.10-3.14 | core | extra |",
        "|---|---|---|",
        "| macOS arm64 | yes | 3.10-3.13 |",
        "| Windows x64 | 3.11-3.14 | 3.11-3.13 |",
    ]


def test_the_script_and_the_matrix_name_every_supported_python(wheels):
    import tomllib

    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = [one.rpartition(" ")[2] for one in classifiers if one.startswith("Programming Language :: Python :: 3.")]
    assert list(wheels.PYTHONS) == pythons
    matrices = [line for line in (ROOT / ".github/workflows/ci.yml").read_text().splitlines() if " python: [" in line]
    assert {line.partition("python: ")[2] for line in matrices} == {str(pythons).replace("'", '"')}
