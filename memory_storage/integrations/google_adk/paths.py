"""The paths of the items: each identifier of ADK is a label of its own, so no separator in one reaches another's items.

| path after `google-adk` | key | value |
|---|---|---|
| `app-state`, app | a state key without `app:` | its value |
| `user-state`, app, user | a state key without `user:` | its value |
| `sessions`, app, user | the session's id | its state, its number of events, and its times |
| `events`, app, user, session, `by-number` | a number that descends | the event |
| `events`, app, user, session, `by-id` | the event's id | its number and a digest |
| `memory`, app, user | the memory's id | the content, its words, and where it is from |

A state key has an item of its own, so that writers of different keys never wait for, or overwrite, each other.
"""

from __future__ import annotations

from memory_storage.models import ItemPath

ROOT = "google-adk"
_GREATEST = 10**12 - 1


def app_state_path(app_name: str) -> ItemPath:
    """Return the path of the state that all sessions of an app share."""
    return (ROOT, "app-state", app_name)


def user_state_path(app_name: str, user_id: str | None = None) -> ItemPath:
    """Return the path of the state that the sessions of a user share.

    Args:
        app_name: The app.
        user_id: The user; None for all users.

    Returns:
        The labels.
    """
    return (ROOT, "user-state", app_name) if user_id is None else (ROOT, "user-state", app_name, user_id)


def sessions_path(app_name: str, user_id: str | None = None) -> ItemPath:
    """Return the path of sessions without their events.

    Args:
        app_name: The app.
        user_id: The user; None for all users.

    Returns:
        The labels.
    """
    return (ROOT, "sessions", app_name) if user_id is None else (ROOT, "sessions", app_name, user_id)


def events_path(app_name: str, user_id: str, session_id: str, *below: str) -> ItemPath:
    """Return the path of the events of a session.

    Args:
        app_name: The app.
        user_id: The user.
        session_id: The session.
        below: "by-number" or "by-id"; both without it.

    Returns:
        The labels.
    """
    return (ROOT, "events", app_name, user_id, session_id, *below)


def memory_path(app_name: str, user_id: str) -> ItemPath:
    """Return the path of the memories of a user.

    Args:
        app_name: The app.
        user_id: The user.

    Returns:
        The labels.
    """
    return (ROOT, "memory", app_name, user_id)


def event_key(number: int) -> str:
    """Return the key of the event with this number, from 1: the newest event is the first of its path."""
    return f"{_GREATEST - number:012d}"
