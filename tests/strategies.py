"""What hypothesis may put into the models: everything that can be stored, and values that may be refused."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from itertools import accumulate
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

import memory_storage as ms

TASK_TYPES = list(ms.TaskType)
COMPLEXITIES = list(ms.Complexity)

HOSTILE_TEXTS = (
    "",
    " ",
    "\t\r\n",
    "'; DROP TABLE episodes; --",
    '"quoted" \\ backslash / slash',
    "%_*?[a-z]",
    "\x01\x02\x7f\x80\x9f",
    "\u2028\u2029\ufeff\u200b\u202e",
    "e\u0301 \u00e9 \u1e9b\u0323",
    "\U0001f469\u200d\U0001f680 \U0001f1ea\U0001f1fa",
    "漢字 ひらがな 한국어",
    "\uffff\U0010ffff",
    "null",
    '{"a": 1}',
    "\\u0000",
    "2024-01-01T00:00:00Z",
)

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.sampled_from(HOSTILE_TEXTS) | st.text(characters, max_size=12)
text_lists = st.lists(texts, max_size=3)
counts = st.sampled_from([0, 1, 2**31, 2**32 + 1, 2**53 + 1, 2**63 - 1]) | st.integers(0, 2**63 - 1)
tags = st.lists(st.text(characters, min_size=2, max_size=8), max_size=4, unique=True)

AWKWARD_FLOATS = (5e-324, 2.2250738585072014e-308, 1e308, -1e308, -0.0, 0.0, 0.1 + 0.2, 1e16, 1e22, 123456789.123456789)
floats = st.sampled_from(AWKWARD_FLOATS) | st.floats(allow_nan=False, allow_infinity=False)
ratios = st.sampled_from([0.0, 1.0, 5e-324, 1 / 3, 0.1 + 0.2]) | st.floats(0, 1)
integers = (
    st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**40, -(10**40)]) | st.integers()
)

scalars = st.none() | st.booleans() | integers | floats | texts
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
json_objects = st.dictionaries(texts, json_values, max_size=3)

FIRST = datetime(1, 1, 1, tzinfo=timezone.utc)
LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)
_EDGES = (
    FIRST,
    LAST,
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc),
    datetime(1970, 1, 1, tzinfo=timezone.utc),
)


def _in_offset(moment: datetime, minutes: int) -> datetime:
    try:
        return moment.astimezone(timezone(timedelta(minutes=minutes)))
    except OverflowError:
        return moment


_offsets = st.sampled_from([0, 60, -60, 330, 345, 14 * 60, -12 * 60, 1, -1, 23 * 60 + 59, -23 * 60 - 59])
_utc = st.sampled_from(_EDGES) | st.datetimes(timezones=st.just(timezone.utc))
moments = st.builds(_in_offset, _utc, _offsets | st.integers(-23 * 60 - 59, 23 * 60 + 59))
"""Aware, of any offset in whole minutes, whose time in UTC is from year 1 to year 9999."""

odd_moments = st.builds(
    lambda naive, offset: naive.replace(tzinfo=timezone(timedelta(seconds=offset))),
    st.sampled_from([datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)]) | st.datetimes(),  # noqa: DTZ001
    st.sampled_from([1172, -1172, 1, 14 * 3600, -14 * 3600]) | st.integers(-86_399, 86_399),
)
"""Aware, but with seconds in their offset, or beyond year 1 or 9999 in UTC: may be refused, may not be changed."""

optional_moments = st.none() | moments


def contexts() -> st.SearchStrategy[ms.TaskContext]:
    return st.builds(
        ms.TaskContext,
        language=st.none() | texts,
        framework=st.none() | texts,
        complexity=st.sampled_from(COMPLEXITIES),
        domain=texts,
        tags=tags,
    )


outcomes = st.one_of(
    st.builds(ms.Success, verdict=texts, artifacts=text_lists),
    st.builds(ms.PartialSuccess, verdict=texts, completed=text_lists, failed=text_lists),
    st.builds(ms.Failure, reason=texts, error_details=st.none() | texts),
    st.builds(ms.Abstained, reason=texts, stopped_at_step=st.none() | counts, infeasibility_signals=text_lists),
)
rewards = st.builds(
    ms.RewardScore,
    total=floats,
    base=floats,
    efficiency=floats,
    complexity_bonus=floats,
    quality_multiplier=floats,
    learning_bonus=floats,
)
results = st.builds(ms.StepOk, output=texts) | st.builds(ms.StepError, message=texts) | st.builds(ms.StepTimeout)


def reflections(when: st.SearchStrategy[datetime] = moments) -> st.SearchStrategy[ms.Reflection]:
    return st.builds(
        ms.Reflection, successes=text_lists, improvements=text_lists, insights=text_lists, generated_at=when
    )


def summaries(when: st.SearchStrategy[datetime] = moments) -> st.SearchStrategy[ms.EpisodeSummary]:
    return st.builds(
        ms.EpisodeSummary,
        text=texts,
        key_steps=text_lists,
        key_concepts=text_lists,
        created_by=texts,
        created_at=when,
    )


def steps(when: st.SearchStrategy[datetime] = moments) -> st.SearchStrategy[ms.Step]:
    return st.builds(
        ms.Step,
        id=st.uuids(),
        started_at=when,
        tool=texts,
        action=texts,
        parameters=json_objects,
        result=st.none() | results,
        latency_ms=counts,
        tokens_used=st.none() | counts,
        metadata=json_objects,
    )


@st.composite
def _numbered_steps(draw: Any, when: st.SearchStrategy[datetime]) -> list[ms.Step]:
    """Some with growing numbers, gaps and all; some that leave theirs to the store."""
    found = draw(st.lists(steps(when), max_size=3, unique_by=lambda step: step.id))
    gaps = draw(st.lists(st.integers(1, 9), min_size=len(found), max_size=len(found)))
    if not draw(st.booleans()):
        return found
    return [step.model_copy(update={"step_number": n}) for step, n in zip(found, accumulate(gaps), strict=True)]


def episodes(when: st.SearchStrategy[datetime] = moments) -> st.SearchStrategy[ms.Episode]:
    return st.builds(
        ms.Episode,
        id=st.uuids(),
        task_description=texts,
        task_type=st.sampled_from(TASK_TYPES),
        context=contexts(),
        started_at=when,
        completed_at=st.none() | when,
        outcome=st.none() | outcomes,
        reward=st.none() | rewards,
        reflection=st.none() | reflections(when),
        summary=st.none() | summaries(when),
        artifacts=text_lists,
        tags=tags,
        metadata=json_objects,
        steps=_numbered_steps(when),
    ).map(_not_ending_before_its_start)


def _not_ending_before_its_start(episode: ms.Episode) -> ms.Episode:
    if episode.completed_at is None or episode.started_at <= episode.completed_at:
        return episode
    return episode.model_copy(update={"started_at": episode.completed_at, "completed_at": episode.started_at})


def stored_episodes() -> st.SearchStrategy[ms.Episode]:
    """As another store would hand them over: with a version, and times that this one did not set."""
    return st.builds(
        lambda episode, version, created, updated, archived: episode.model_copy(
            update={"version": version, "created_at": created, "updated_at": updated, "archived_at": archived}
        ),
        episodes(),
        st.integers(1, 2**53 - 1),
        moments,
        moments,
        optional_moments,
    )


effectivenesses = st.builds(
    ms.models.Effectiveness,
    times_retrieved=counts,
    times_applied=counts,
    success_when_applied=counts,
    failure_when_applied=counts,
    avg_reward_delta=floats,
    last_used_at=optional_moments,
)


def _pattern(kind: type, **own: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        kind,
        id=st.uuids(),
        description=texts,
        context=contexts(),
        success_rate=ratios,
        occurrence_count=counts.map(lambda count: max(count, 1)),
        evidence=st.lists(st.uuids(), max_size=3),
        tags=tags,
        metadata=json_objects,
        effectiveness=effectivenesses,
        **own,
    )


PATTERNS_BY_KIND: dict[str, st.SearchStrategy[Any]] = {
    "tool_sequence": _pattern(ms.ToolSequence, tools=text_lists, avg_latency_ms=counts),
    "decision_point": _pattern(
        ms.DecisionPoint, condition=texts, action=texts, success_count=counts, failure_count=counts
    ),
    "error_recovery": _pattern(ms.ErrorRecovery, error_type=texts, recovery_steps=text_lists),
    "context_pattern": _pattern(ms.ContextPattern, context_features=text_lists, recommended_approach=texts),
    "heuristic": _pattern(ms.Heuristic, condition=texts, action=texts, confidence=ratios),
}
playbook_steps = st.builds(
    ms.PlaybookStep,
    action=texts.filter(bool),
    tool=st.none() | texts,
    condition=st.none() | texts,
    parameters=json_objects,
    expected_result=st.none() | texts,
    on_error=st.none() | texts,
)
PATTERNS_BY_KIND["playbook"] = _pattern(
    ms.Playbook,
    name=texts.filter(bool),
    steps=st.lists(playbook_steps, min_size=1, max_size=3),
    sources=st.lists(st.uuids(), max_size=2),
)
patterns = st.one_of(*PATTERNS_BY_KIND.values())


@st.composite
def places(draw: Any, owner_type: str, owner_id: Any) -> ms.SpatiotemporalEntry:
    has_position, has_name, has_time = draw(
        st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(lambda parts: any(parts))
    )
    starts_at = draw(moments) if has_time else None
    ends_at = draw(optional_moments) if has_time else None
    return ms.SpatiotemporalEntry(
        owner_type=owner_type,
        owner_id=owner_id,
        latitude=draw(st.sampled_from([-90.0, 90.0, -0.0, 5e-324]) | st.floats(-90, 90)) if has_position else None,
        longitude=draw(st.sampled_from([-180.0, 180.0]) | st.floats(-180, 180)) if has_position else None,
        place_name=draw(texts) if has_name else None,
        starts_at=starts_at,
        ends_at=ends_at if starts_at and ends_at and starts_at < ends_at else None,
        ongoing=bool(starts_at and ends_at and starts_at > ends_at),
        metadata=draw(json_objects),
    )


_float32 = st.floats(-(2.0**40), 2.0**40, width=32)


@st.composite
def vectors(draw: Any, dimension: int = 384) -> list[float]:
    """A few numbers, over and over: a list of 3072 of them would be slow to make and say no more."""
    some = draw(st.lists(_float32, min_size=1, max_size=8))
    vector = (some * (dimension // len(some) + 1))[:dimension]
    assume(1e-15 <= math.hypot(*vector) <= 1e15)
    return vector
