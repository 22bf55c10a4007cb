"""Deterministic, realistic episodes for benchmarks."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import memory_storage as ms

BEGINNING = datetime(2025, 1, 1, tzinfo=timezone.utc)
STEPS = 20

_TRANSCRIPTS = Path(__file__).parents[2] / "shared/data/tau_airline.jsonl"
_TOOLS = ("get_user_details", "get_reservation_details", "search_direct_flight", "calculate", "book_reservation")
# Sizes of the results and arguments of 1,164 tool calls of real agents (tau-bench), at equal distances.
_OUTPUT_SIZES = (0, 2, 4, 51, 480, 667, 720, 810, 870, 965, 4723)
_ARGUMENT_SIZES = (27, 27, 28, 30, 31, 31, 60, 110, 140, 280, 540)


@dataclass(frozen=True)
class Call:
    """One tool call of an agent."""

    tool: str
    parameters: dict[str, Any]
    output: str


@dataclass(frozen=True)
class Texts:
    """The texts from which episodes are built."""

    source: str
    tasks: list[str]
    calls: list[Call]
    trajectories: list[list[Call]]  # the calls of each transcript


@cache
def texts() -> Texts:
    """Return real transcripts if available next to the project, else synthetic ones of the same sizes."""
    return _recorded(_TRANSCRIPTS) if _TRANSCRIPTS.exists() else invented()


def step(number: int) -> ms.Step:
    """Return the n-th step."""
    return _step(number, _nth(texts().calls, number))


def _step(number: int, call: Call) -> ms.Step:
    failed = call.output.startswith("Error")
    return ms.Step(
        id=_id(number, 1),
        started_at=BEGINNING + timedelta(seconds=4 * number, microseconds=number * 7919 % 1_000_000),
        tool=call.tool,
        action=f"call {call.tool}",
        parameters=call.parameters,
        result=ms.StepError(message=call.output) if failed else ms.StepOk(output=call.output),
        latency_ms=number * 31 % 900,
        tokens_used=number * 17 % 3000,
        metadata={"attempt": 1},
    )


def episode(number: int, steps: int = STEPS) -> ms.Episode:
    """Return the n-th episode."""
    started_at = BEGINNING + timedelta(minutes=number)
    well = number % 5 < 2
    return ms.Episode(
        id=episode_id(number),
        task_description=_nth(texts().tasks, number),
        context=ms.TaskContext(language="en", domain="airline", tags=["booking", "support"]),
        started_at=started_at,
        completed_at=started_at + timedelta(seconds=95, microseconds=number),
        outcome=ms.Success(verdict="the booking is right") if well else ms.Failure(reason="not what was asked"),
        reward=ms.RewardScore(total=float(well)),
        reflection=ms.Reflection(
            successes=["looked up the user before anything else"],
            improvements=["say the price before asking for consent"],
            insights=["certificates cannot be split over two bookings"],
            generated_at=started_at + timedelta(seconds=97),
        ),
        tags=["airline", "tau-bench", f"trial-{number % 4}"],
        metadata={"task_id": number % 50, "trial": number % 4},
        steps=[step(number * STEPS + index) for index in range(steps)],
    )


def trajectory(number: int) -> ms.Episode:
    """Return the n-th episode with all steps of one transcript: six in the mean, where `episode` has always 20."""
    calls = _nth(texts().trajectories, number)
    steps = [_step(number * 1_000 + index, call) for index, call in enumerate(calls)]
    return ms.Episode(**{**dict(episode(number, steps=0)), "steps": steps})


def episode_id(number: int) -> uuid.UUID:
    """Return the id of the n-th episode."""
    return _id(number, 2)


def episodes(first: int, count: int) -> list[ms.Episode]:
    """Return `count` episodes from the n-th on."""
    return [episode(number) for number in range(first, first + count)]


def _id(number: int, kind: int) -> uuid.UUID:
    # A UUID of version 7 as clients create it, but with a fixed time.
    milliseconds = int(BEGINNING.timestamp() * 1000) + number
    return uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | kind << 64 | 0b10 << 62 | number)


def _nth(items: list[Any], number: int) -> Any:
    return items[number % len(items)]


def _recorded(path: Path) -> Texts:
    with path.open(encoding="utf-8") as file:
        transcripts = [json.loads(line) for line in file]
    tasks = [transcript["info"]["task"]["instruction"] for transcript in transcripts]
    trajectories = [list(_calls(transcript["traj"])) for transcript in transcripts]
    calls = [call for trajectory in trajectories for call in trajectory]
    return Texts("tool calls of tau-bench airline transcripts", tasks, calls, trajectories)


def _calls(messages: Iterable[dict[str, Any]]) -> Iterator[Call]:
    asked: dict[str, dict[str, str]] = {}
    for message in messages:
        asked.update({call["id"]: call["function"] for call in message.get("tool_calls") or []})
        if message["role"] == "tool":
            function = asked[message["tool_call_id"]]
            yield Call(function["name"], json.loads(function["arguments"]), message["content"] or "")


def invented(count: int = 1000) -> Texts:
    """Return synthetic texts; deterministic."""
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnoprstuvwy", k=chance.randint(2, 9))) for _ in range(2000)]

    def prose(size: int) -> str:
        return " ".join(islice(iter(lambda: chance.choice(words), None), size // 6 + 1))[:size]

    def answer(size: int) -> str:
        facts = {chance.choice(words): prose(20) for _ in range(size // 34)}
        return json.dumps(facts) if facts else prose(size)

    calls = [
        Call(
            chance.choice(_TOOLS),
            {"user_id": prose(8), "query": prose(max(0, _between(_ARGUMENT_SIZES, chance.random()) - 30))},
            answer(_between(_OUTPUT_SIZES, chance.random())),
        )
        for _ in range(count)
    ]
    tasks = [prose(600) for _ in range(200)]
    trajectories = [calls[first : first + 6] for first in range(0, len(calls), 6)]
    return Texts("made-up tool calls of the sizes of real ones", tasks, calls, trajectories)


def _between(sizes: tuple[int, ...], place: float) -> int:
    index, part = divmod(place * (len(sizes) - 1), 1)
    low, high = sizes[int(index)], sizes[int(index) + 1]
    return round(low + (high - low) * part)
