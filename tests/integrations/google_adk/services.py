"""Events, and what of them the tests compare."""

from __future__ import annotations

from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.genai import types

APP = "shop"
USER = "ann"
SCOPE = {"app_name": APP, "user_id": USER}


def event(text: str = "", *, author: str = "user", delta: dict | None = None, **fields) -> Event:
    """Return an event with a text and a change of state."""
    content = types.Content(role="user", parts=[types.Part(text=text)]) if text else None
    return Event(author=author, content=content, actions=EventActions(state_delta=delta or {}), **fields)


def texts(events) -> list[str]:
    """Return the texts of events or memories."""
    return [one.content.parts[0].text for one in events]
