"""Memories to report on: one with everything, real transcripts, one that means harm, and an empty one."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import memory_storage as ms
from memory_storage.importers import import_file
from memory_storage_report import collect, write_page
from tests.importers.transcripts import REAL, write_airline

START = datetime(2026, 9, 1, 8, tzinfo=timezone.utc)
TOOLS = ["pytest", "edit_file", "read_file", "grep", "web_search"]
CITIES = [("Berlin", 52.52, 13.4), ("Lisbon", 38.72, -9.14), ("Athens", 37.98, 23.73)]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }} {% raw %}",
    "</title></style><style>* { display: none }</style>",
    "javascript:alert(1)",
    "]]><!--",
    "\x01\x1b[31m\ufffe",
    "\u202egnp.exe",
    "&lt;b&gt;",
]


def everything(storage: ms.MemoryStorage) -> None:
    """Eighty days of work that gets better, in three cities, with vectors and patterns."""
    chosen = random.Random(3)
    episodes = [_episode(number, chosen) for number in range(160)]
    storage.episodes.save_many(episodes)
    for number, episode in enumerate(episodes[::4]):
        name, latitude, longitude = CITIES[number % 3]
        storage.spatiotemporal.put(
            ms.SpatiotemporalEntry(
                owner_type="episode",
                owner_id=episode.id,
                latitude=latitude + chosen.gauss(0, 0.5),
                longitude=longitude + chosen.gauss(0, 0.5),
                place_name=name,
                starts_at=episode.started_at,
            )
        )
    storage.embeddings.embed(ms.HashingEmbedder())
    for pattern in storage.patterns.learn(min_episodes=3)[:6]:
        storage.patterns.record_application(pattern.id, success=chosen.random() < 0.7, reward_delta=0.1)


def _episode(number: int, chosen: random.Random) -> ms.Episode:
    well = chosen.random() < 0.35 + number / 320
    names = [chosen.choice(TOOLS) for _ in range(chosen.randint(2, 8))] + ["read_file", "edit_file"] * well
    at = START + timedelta(hours=12 * number)
    steps = [_step(name, at + timedelta(seconds=9 * place), chosen) for place, name in enumerate(names)]
    return ms.Episode(
        task_description=f"Fix the flaky token refresh, number {number}",
        task_type=chosen.choice(["debugging", "testing"]),
        context=ms.TaskContext(domain=chosen.choice(["web-api", "data"]), language="python"),
        started_at=at,
        completed_at=at + timedelta(minutes=chosen.randint(1, 90)),
        outcome=ms.Success(verdict="all tests pass") if well else ms.Failure(reason="the deadline came first"),
        reward=ms.RewardScore(total=round(chosen.random() * 0.3 + 0.7 * well, 2)),
        tags=[chosen.choice(["auth", "ui"])],
        steps=steps,
    )


def _step(tool: str, at: datetime, chosen: random.Random) -> ms.Step:
    failed = chosen.random() < 0.15
    return ms.Step(
        tool=tool,
        action=f"use {tool}",
        started_at=at,
        parameters={"path": "src/app.py"},
        latency_ms=int(chosen.lognormvariate(6, 1)) + 1,
        result=ms.StepError(message="AssertionError: 3 != 4") if failed else ms.StepOk(output="fine"),
    )


def harm(storage: ms.MemoryStorage) -> None:
    """Hostile strings in every string field."""
    for number, text in enumerate(HOSTILE * 2):
        step = ms.Step(tool=text, action=text, parameters={text: text}, result=ms.StepError(message=text), latency_ms=9)
        episode = ms.Episode(
            task_description=text,
            context=ms.TaskContext(domain=text, language=text, framework=text),
            started_at=START + timedelta(days=number),
            outcome=ms.Failure(reason=text) if number % 2 else ms.Success(verdict=text),
            tags=[f"tag {text}"],
            steps=[step, ms.Step(tool="then " + text, result=ms.StepOk(output=text))],
        )
        storage.episodes.save(episode)
        storage.spatiotemporal.put(
            ms.SpatiotemporalEntry(
                owner_type="episode", owner_id=episode.id, latitude=float(number), longitude=5.0, place_name=text
            )
        )
        storage.patterns.save(ms.Heuristic(condition=text, action=text, description=text))
    storage.embeddings.embed(ms.HashingEmbedder())


def transcripts(storage: ms.MemoryStorage, directory: Path) -> None:
    import_file(storage, REAL if REAL.exists() else write_airline(directory / "runs.jsonl"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each memory."""
    directory = tmp_path_factory.mktemp("pages")
    fillers = {
        "everything": everything,
        "transcripts": lambda storage: transcripts(storage, directory),
        "harm": harm,
        "nothing": lambda storage: None,
    }
    written = {}
    for name, fill in fillers.items():
        with ms.MemoryStorage.open(":memory:", namespace=HOSTILE[1] if name == "harm" else "default") as storage:
            fill(storage)
            written[name] = write_page(collect(storage), directory / f"{name}.html")
    return written
