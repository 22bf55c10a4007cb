"""What the exit status of SWE-agent and mini-swe-agent states about the outcome."""

from __future__ import annotations

import re

from memory_storage.models import Abstained, Failure, Outcome

_FORFEIT = re.compile(r"forfeit", re.IGNORECASE)
_FAILED = re.compile(r"exit_|early_exit|\w*(Exceeded|Error|Exception|Timeout)$")


def outcome_of_exit(status: object) -> Outcome | None:
    """Return the outcome of a run that ended with this status.

    None for a submission: it proves no success, because the tests of the task run later. A run that was ended by an
    error or a limit without a submission is a failure; one in which the agent gave up is abstained.
    """
    if not isinstance(status, str) or "submitted" in status.lower():
        return None
    if _FORFEIT.search(status):
        return Abstained(reason=f"exit status: {status}")
    return Failure(reason=f"exit status: {status}") if _FAILED.match(status) else None
