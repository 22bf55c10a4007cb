"""Which of these directories are collected."""

from __future__ import annotations

from importlib.util import find_spec

# CrewAI needs older versions of packages than the others, so it has an environment of its own, in which
# `.ci/extras crewai` runs its tests.
collect_ignore = [] if find_spec("crewai") else ["crewai"]
