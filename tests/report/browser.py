"""Finding a Chromium. Installs none: ./run-tests does, where it may."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")


def find_chromium() -> str:
    """Its path: what MEMORY_STORAGE_CHROMIUM names, or the first there is. RuntimeError, which says what to do."""
    found = [os.environ.get("MEMORY_STORAGE_CHROMIUM"), *map(shutil.which, NAMES)]
    path = next((path for path in found if path), None)
    if path is None or not os.access(path, os.X_OK):
        raise RuntimeError(
            f"the report is tested in a browser, and there is none ({path or ', '.join(NAMES)}): "
            "`apt-get install chromium-headless-shell` (as root ./run-tests does it), "
            "or name one in MEMORY_STORAGE_CHROMIUM"
        )
    return path
