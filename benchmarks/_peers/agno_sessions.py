"""agno: the sessions of `SqliteDb`, with its own defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agno.db.base import SessionType
from agno.db.sqlite import SqliteDb
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.run.base import RunStatus
from agno.session import AgentSession

import memory_storage as ms

from ._store import PAGE, WORDS, Store, document, levels


class Agno(Store):
    """A session for each episode, with one run, in which each step is a message of a tool."""

    note = (
        "a session and one run of messages, two transactions; read as dictionaries, as run objects are cached; words: "
        "LIKE on the session's name"
    )

    def __init__(self, directory: Path) -> None:
        self._path = directory / "agno.db"
        self._db: Any = SqliteDb(db_file=str(self._path))

    def record(self, episode: ms.Episode) -> tuple[AgentSession, RunOutput]:
        head = document(episode)
        key, steps, task = head["id"], head.pop("steps"), head["task_description"]
        at = int(episode.started_at.timestamp())
        session = AgentSession(
            session_id=key, agent_id="agent", session_data={"session_name": task}, metadata=head, created_at=at
        )
        messages = [Message(role="user", content=task), *map(_message, steps)]
        run = RunOutput(
            run_id=f"run-{key}",
            agent_id="agent",
            session_id=key,
            messages=messages,
            status=RunStatus.completed,
            created_at=at,
        )
        return session, run

    def save(self, record: tuple[AgentSession, RunOutput]) -> object:
        session, run = record
        self._db.upsert_session(session, deserialize=False)
        return self._db.upsert_run(run, session.session_id, run_index=0)

    def get(self, key: str) -> int:
        session = self._db.get_session(key, SessionType.AGENT, deserialize=False)
        return len(session["runs"][0]["messages"]) - 1

    def page(self) -> int:
        return len(self._page(PAGE))

    def search(self, word: str) -> int:
        return len(self._page(WORDS, session_name=word))

    def _page(self, limit: int, **filters: str) -> list[Any]:
        sessions, _ = self._db.get_sessions(
            SessionType.AGENT, limit=limit, sort_by="created_at", sort_order="desc", deserialize=False, **filters
        )
        return list(sessions)

    def durability(self) -> str:
        with self._db.db_engine.connect() as connection:
            pragmas = ("journal_mode", "synchronous")
            return levels(*(connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas))

    def close(self) -> None:
        self._db.close()


open_store = Agno


def _message(step: dict[str, Any]) -> Message:
    return Message(
        role="tool",
        tool_call_id=step["id"],
        tool_name=step["tool"],
        tool_args=step["parameters"],
        content=step["result"].get("output") or step["result"].get("message") or "",
        provider_data={name: step[name] for name in ("action", "started_at", "latency_ms", "tokens_used", "metadata")},
    )
