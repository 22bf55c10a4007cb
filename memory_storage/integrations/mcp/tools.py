"""The tools as methods of a class, each with its arguments and its answer; independent of the protocol."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import islice
from typing import Annotated, Any, Literal
from uuid import UUID, uuid5

from pydantic import BeforeValidator, Field, WithJsonSchema

from memory_storage._formatting import counted
from memory_storage.errors import ConflictError, NotFoundError, ValidationError
from memory_storage.models import (
    Abstained,
    AnyPattern,
    Episode,
    Failure,
    OutcomeKind,
    PartialSuccess,
    Playbook,
    PlaybookStep,
    Reflection,
    Step,
    StepError,
    StepOk,
    StepResult,
    StepTimeout,
    Success,
    TaskContext,
)
from memory_storage.models.episode import TaskTypeName
from memory_storage.models.markdown import Detail, inline, pattern_markdown
from memory_storage.storage import MemoryStorage

from . import answers
from .rendering import bulleted, cut, head_of, outcome_of, step_of

MAX_CHARACTERS = 20_000
"""The most characters of an answer's Markdown: about 5,000 tokens."""

_MAX_FOUND = 20
_STEPS_OF_A_PAGE = 50
_CHARACTERS_OF_A_STEP = 1_500  # of its action, of its parameters, and of its output
_TASK_CHARACTERS = 300
_PLAYBOOKS = UUID("0b2f3c52-8c1e-5d0a-9d53-5d1b6c1f8e47")  # the namespace of ids that are derived from names
_PATTERN = Detail(text=_TASK_CHARACTERS, output=0, steps=0, notes=1)


def _parse_json_text(value: object) -> object:
    """Parse an array or object that a client has sent as JSON text: some models do so."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            parsed = json.loads(value)
            return parsed if isinstance(parsed, list | dict) else value
    return value


EpisodeId = Annotated[str, Field(description="The episode's id, or its first digits (4 or more).", max_length=64)]
Texts = Annotated[list[str], BeforeValidator(_parse_json_text)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_parse_json_text)]
_STEP_SCHEMA = {  # the model's own has three times the length, and a client's model reads it with each request
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in ("action", "tool", "condition", "expected_result", "on_error")},
        "parameters": {"type": "object"},
    },
    "additionalProperties": False,
}
PlaybookSteps = Annotated[
    list[Annotated[PlaybookStep, WithJsonSchema(_STEP_SCHEMA)]], BeforeValidator(_parse_json_text)
]
Tags = Annotated[Texts, Field(description="Labels of 2 to 100 characters.", max_length=100)]


class MemoryTools:
    """The tools of one namespace. Its methods are the tools: names, arguments and answers.

    Args:
        storage: The storage.
        keep_recalls: Whether another process can complete with a `recall_id` of this one.
    """

    def __init__(self, storage: MemoryStorage, *, keep_recalls: bool = True) -> None:
        self._storage, self._keep_recalls = storage, keep_recalls

    def recall(
        self,
        task: Annotated[str, Field(description="The task that you are about to do.", min_length=1, max_length=10_000)],
        k: Annotated[int, Field(description="Maximum number of episodes.", ge=1, le=_MAX_FOUND)] = 5,
        budget_tokens: Annotated[int, Field(description="Maximum length of the answer.", ge=100, le=3_000)] = 2_000,
    ) -> answers.RecallAnswer:
        """Call this first, before you start a task: what the memory has about similar tasks.

        Returns what worked, what failed, and learned patterns.
        """
        recall = self._storage.recall(task, k=k, budget_tokens=budget_tokens, keep=self._keep_recalls)
        records = [
            answers.RecalledRecord(
                kind=one.kind, id=str(one.item.id), score=one.score, similar=[str(other) for other in one.similar]
            )
            for one in recall
        ]
        episodes = ", ".join(f"`{one.id}` ({one.kind})" for one in records if one.kind != "pattern")
        facts = [f"- recall_id for complete_episode: `{recall.id}`"]
        if records:
            ids = ", ".join(f"`{one.id}`" for one in records)
            facts += [f"- ids for complete_episode, as used, in the order above: {ids}"]
        facts += [f"- for get_episode, in the order above: {episodes}"] if episodes else []
        playbooks = ", ".join(f"`{one.item.id}`" for one in recall if isinstance(one.item, Playbook))
        facts += [f"- playbooks for get_pattern, in the order above: {playbooks}"] if playbooks else []
        facts += [f"- left out, for want of budget: {counted(recall.left_out, 'record')}"] if recall.left_out else []
        text = str(recall).strip() or "The memory has nothing about this task."
        return answers.RecallAnswer(
            markdown="\n".join([text, "", *facts]),
            recall_id=str(recall.id),
            records=records,
            left_out=recall.left_out,
        )

    def start_episode(
        self,
        task: Annotated[str, Field(description="What is to be done, in a sentence.", min_length=1, max_length=10_000)],
        task_type: Annotated[TaskTypeName, Field(description="The kind of work.")] = "other",
        domain: Annotated[str, Field(description="The field, like web-api.", max_length=200)] = "general",
        language: Annotated[str, Field(description="The programming language.", max_length=100)] = "",
        tags: Tags = [],  # noqa: B006 - the SDK reads the default from the signature, and nothing changes it
        episode_id: Annotated[
            str, Field(description="A new UUID, if you want a retry to start nothing twice.", max_length=64)
        ] = "",
    ) -> answers.StartedEpisode:
        """Call this when you start a task, after recall. Pass its episode_id to record_step and complete_episode.

        Open episodes of a crashed client stay open; complete them as failure or abstained.
        """
        chosen = {"id": _new_id(episode_id)} if episode_id else {}
        context = TaskContext(domain=domain, language=language or None)
        new = Episode(task_description=task, task_type=task_type, context=context, tags=tags, **chosen)
        try:
            episode = self._storage.episodes.save(new)
        except ConflictError:
            # A retry has another start time. It is the same episode if the caller says the same about it.
            stored = self._storage.episodes.find(new.id, steps=False)
            if stored is None or _started_as(stored) != _started_as(new):
                raise
            episode = stored
        return answers.StartedEpisode(markdown=f"Started episode `{episode.id}`.", episode_id=str(episode.id))

    def record_step(
        self,
        episode_id: EpisodeId,
        tool: Annotated[str, Field(description="The tool, like pytest or edit.", min_length=1, max_length=200)],
        action: Annotated[str, Field(description="What you did with it, and why.", max_length=10_000)] = "",
        parameters: Annotated[JsonObject, Field(description="The arguments of the call.")] = {},  # noqa: B006 - as above
        output: Annotated[str, Field(description="The result, or the error message. Shorten long ones.")] = "",
        status: Annotated[Literal["ok", "error", "timeout"], Field(description="How it ended.")] = "ok",
        latency_ms: Annotated[int, Field(description="Duration in milliseconds.", ge=0, lt=2**63)] = 0,
        step_id: Annotated[
            str, Field(description="Your name for this step: a retry with it records nothing twice.", max_length=200)
        ] = "",
    ) -> answers.RecordedStep:
        """Call this after each tool call of a task, with its result. Errors matter: recovery is learned from them."""
        key = self._resolve(episode_id)
        chosen = {"id": uuid5(key, _storable("step_id", step_id))} if step_id else {}
        result = _result(status, output)
        new = Step(tool=tool, action=action, parameters=parameters, result=result, latency_ms=latency_ms, **chosen)
        try:
            step = self._storage.episodes.append_step(key, new)
        except ConflictError:
            # A retry has another start time; the other fields say whether it is the same step.
            stored = self._storage.steps.find(new.id)
            if stored is None or _recorded_as(stored) != _recorded_as(new):
                raise
            step = stored
        number = step.step_number or 0
        return answers.RecordedStep(markdown=f"Recorded step {number}.", episode_id=str(key), step_number=number)

    def complete_episode(
        self,
        episode_id: EpisodeId,
        outcome: Annotated[OutcomeKind, Field(description="How the task ended; abstained: you decided to stop.")],
        verdict: Annotated[
            str, Field(description="What was achieved; of failure and abstained, the reason.", min_length=1)
        ],
        reward: Annotated[
            float | None, Field(description="A score, usually from 0 to 1; higher is better.", allow_inf_nan=False)
        ] = None,
        lessons: Annotated[
            Texts, Field(description="What to do, or not to do, the next time: one sentence each.", max_length=50)
        ] = [],  # noqa: B006 - as above
        recall_id: Annotated[
            str, Field(description="The recall_id of recall, to learn whether it helped.", max_length=64)
        ] = "",
        used: Annotated[
            Texts | None,
            Field(description="With recall_id: ids of the recalled records that you made use of; [] for none."),
        ] = None,
        rating: Annotated[
            int | None, Field(description="With recall_id: how much it helped, 1 (not) to 5 (a lot).", ge=1, le=5)
        ] = None,
    ) -> answers.CompletedEpisode:
        """Call this when the task has ended, well or badly. Calling it again replaces the outcome."""
        key = self._resolve(episode_id)
        reflection = Reflection(insights=lessons) if lessons else None
        try:
            episode = self._storage.episodes.complete(
                key,
                _outcome(outcome, verdict),
                reward=reward,
                reflection=reflection,
                recalled=recall_id or None,
                used=used,
                rating=rating,
            )
        except ValidationError as error:
            if error.field != "recalled":
                raise
            limit = "a recall_id of this memory, one of the latest 10,000, or leave it out; nothing was stored"
            raise ValidationError("recall_id", limit, recall_id) from error
        text = f"Completed episode `{episode.id}` as {outcome}."
        return answers.CompletedEpisode(markdown=text, episode_id=str(episode.id), outcome=outcome)

    def search_episodes(
        self,
        query: Annotated[
            str, Field(description="Words, any of which may match; empty lists the newest.", max_length=10_000)
        ] = "",
        outcome: Annotated[OutcomeKind | None, Field(description="Only with this outcome.")] = None,
        task_type: Annotated[TaskTypeName | None, Field(description="Only of this type.")] = None,
        domain: Annotated[str | None, Field(description="Only of this domain.", max_length=200)] = None,
        tags: Tags = [],  # noqa: B006 - as above
        k: Annotated[int, Field(description="Maximum number of episodes.", ge=1, le=_MAX_FOUND)] = 5,
        cursor: Annotated[
            str, Field(description="next_cursor of the page before, with the same arguments.", max_length=10_000)
        ] = "",
    ) -> answers.SearchAnswer:
        """Look up past episodes by words and filters. To prepare a task, call recall instead."""
        filters: dict[str, Any] = {"outcome": outcome, "task_type": task_type, "domain": domain, "tags_all": tags}
        found: list[tuple[Episode, str]]
        if query.strip():
            hits = self._storage.episodes.search(query, k=k, cursor=cursor or None, steps=False, **filters)
            found, next_cursor = [(hit.item, hit.snippet or "") for hit in hits], hits.next_cursor
        else:
            page = self._storage.episodes.query(limit=k, cursor=cursor or None, steps=False, **filters)
            found, next_cursor = [(episode, "") for episode in page], page.next_cursor
        title = counted(len(found), "episode") + (f"; more: cursor={next_cursor}" if next_cursor else "")
        return answers.SearchAnswer(
            markdown=bulleted(title, [_line(*one) for one in found], "No episode matches."),
            episodes=[
                answers.FoundEpisode(
                    episode_id=str(episode.id),
                    task=inline(episode.task_description, _TASK_CHARACTERS),
                    outcome=outcome_of(episode),
                    reward=episode.reward and episode.reward.total,
                )
                for episode, _ in found
            ],
            next_cursor=next_cursor,
        )

    def get_episode(
        self,
        episode_id: EpisodeId,
        from_step: Annotated[int, Field(description="The first step to show.", ge=1, lt=2**31)] = 1,
        step: Annotated[
            int | None, Field(description="Show this step alone, uncut; 0: all but the steps.", ge=0, lt=2**31)
        ] = None,
        offset: Annotated[int, Field(description="With step: the number of characters to skip.", ge=0, lt=2**31)] = 0,
    ) -> answers.EpisodeAnswer:
        """Read an episode with its steps. Long outputs are cut; the answer says how to read the rest."""
        if offset and step is None:
            raise ValidationError("offset", "needs step: the number of the step, or 0 for all but the steps", offset)
        key = self._resolve(episode_id)
        episode = self._storage.episodes.get(key, steps=False)
        facts: dict[str, Any] = {"episode_id": str(key), "outcome": outcome_of(episode)}
        if step is not None:
            text = self._whole(episode, step)
            end = offset + MAX_CHARACTERS
            next_offset = end if end < len(text) else None
            return answers.EpisodeAnswer(markdown=text[offset:end], next_offset=next_offset, **facts)
        head = cut(head_of(episode), MAX_CHARACTERS // 4, "get_episode with step=0")
        steps = self._storage.steps.range(key, from_step, limit=_STEPS_OF_A_PAGE + 1)
        parts, next_step = _within(head, steps)
        if next_step is not None:
            parts.append(f"[more steps: get_episode with from_step={next_step}]")
        return answers.EpisodeAnswer(markdown="\n\n".join(parts), next_step=next_step, **facts)

    def handoff(
        self,
        episode_id: EpisodeId,
        max_chars: Annotated[
            int, Field(description="The greatest length of the answer.", ge=200, le=MAX_CHARACTERS)
        ] = 4_000,
    ) -> answers.HandoffAnswer:
        """Call this to continue an open task of another session: goal, done, worked, failed, next, patterns, state."""
        key = self._resolve(episode_id)
        handoff = self._storage.episodes.handoff(key)
        return answers.HandoffAnswer(
            markdown=handoff.to_markdown(max_chars=max_chars), episode_id=str(key), next=handoff.next
        )

    def learn_patterns(
        self,
        min_episodes: Annotated[
            int, Field(description="Minimum number of completed episodes that show a pattern.", ge=1, lt=2**31)
        ] = 5,
        max_patterns: Annotated[int, Field(description="Maximum number of patterns of a kind.", ge=1, le=20)] = 10,
    ) -> answers.LearnAnswer:
        """Mine tool sequences and error recoveries from all episodes, and store them; recall returns them later.

        It reads all episodes: call it from time to time, not for each task.
        """
        patterns = self._storage.patterns.learn(min_episodes=min_episodes, max_patterns=max_patterns)
        lines = [pattern_markdown(pattern, _PATTERN) for pattern in patterns]
        return answers.LearnAnswer(
            markdown=bulleted(counted(len(lines), "pattern"), lines, "No pattern: there are too few episodes."),
            patterns=[
                answers.LearnedPattern(
                    pattern_id=str(pattern.id),
                    kind=pattern.kind,
                    description=inline(pattern.description, _TASK_CHARACTERS),
                    success_rate=pattern.success_rate,
                    occurrences=pattern.occurrence_count,
                )
                for pattern in patterns
            ],
        )

    def get_pattern(
        self,
        pattern_id: Annotated[
            str, Field(description="The pattern's id, or its first digits (4 or more).", max_length=64)
        ],
        offset: Annotated[int, Field(description="The number of characters to skip.", ge=0, lt=2**31)] = 0,
    ) -> answers.PatternAnswer:
        """Read a pattern in full: of a playbook all steps, which recall may have shortened."""
        key = self._resolve_pattern(pattern_id)
        pattern = self._storage.patterns.get(key)
        text, end = pattern.to_markdown(), offset + MAX_CHARACTERS
        return answers.PatternAnswer(
            markdown=text[offset:end],
            pattern_id=str(key),
            kind=pattern.kind,
            version=pattern.version,
            next_offset=end if end < len(text) else None,
        )

    def save_playbook(
        self,
        name: Annotated[str, Field(description="Like: Fix a flaky test.", min_length=1, max_length=200)],
        steps: Annotated[
            PlaybookSteps, Field(description="In order; empty composes pattern_ids.", max_length=100)
        ] = [],  # noqa: B006 - as above
        purpose: Annotated[str, Field(description="When to use it.", max_length=10_000)] = "",
        pattern_ids: Annotated[Texts, Field(description="Patterns it is made from.", max_length=100)] = [],  # noqa: B006 - as above
        domain: Annotated[str, Field(description="The field, like web-api.", max_length=200)] = "",
        language: Annotated[str, Field(description="Like python.", max_length=100)] = "",
        tags: Tags = [],  # noqa: B006 - as above
        playbook_id: Annotated[
            str, Field(description="The playbook to replace, instead of by name.", max_length=64)
        ] = "",
    ) -> answers.SavedPlaybook:
        """Store an ordered procedure that recall returns later. The same name replaces its steps, as a new version.

        What is left out stays as it is stored.
        """
        patterns = self._patterns(pattern_ids)
        if not steps and not patterns:
            raise ValidationError("steps", "at least one, or pattern_ids", steps)
        key = self._resolve_pattern(playbook_id) if playbook_id else uuid5(_PLAYBOOKS, _storable("name", name))
        stored = self._storage.patterns.get(key) if playbook_id else self._storage.patterns.find(key)
        if stored is not None and not isinstance(stored, Playbook):
            raise ValidationError("playbook_id", "the id of a playbook", f"that of a {stored.kind}")
        playbook = _playbook(stored, key, name, steps, purpose, patterns)
        context = {"domain": domain, "language": language}
        changes = {
            "context": playbook.context.model_copy(update={field: text for field, text in context.items() if text}),
            "tags": tags or playbook.tags,
        }
        playbook = playbook.model_copy(update=changes)
        saved = playbook if playbook == stored else self._storage.patterns.save(playbook)
        text = f"Saved playbook `{key}`, version {saved.version}, {counted(len(saved.steps), 'step')}."
        return answers.SavedPlaybook(markdown=text, playbook_id=str(key), version=saved.version)

    def forget_episode(self, episode_id: EpisodeId) -> answers.ForgetAnswer:
        """Erase an episode and all that belongs to it, irreversibly. Only if the user asks for it."""
        key = self._resolve(episode_id)
        erased = self._storage.forget(episode=key)
        if not erased.episodes:
            raise NotFoundError("episode", key)
        left = "" if erased.scrubbed else " Erased bytes may remain in the file or its backups."
        return answers.ForgetAnswer(
            markdown=f"Erased episode `{key}`.{left}",
            episodes=erased.episodes,
            patterns=erased.patterns,
            scrubbed=erased.scrubbed,
        )

    def _resolve(self, text: str) -> UUID:
        """Return the id that a text stands for; a complete id is not looked up."""
        try:
            return UUID(text)
        except ValueError:
            return self._storage.episodes.resolve_id(text)

    def _resolve_pattern(self, text: str) -> UUID:
        try:
            return UUID(text)
        except ValueError:
            return self._storage.patterns.resolve_id(text)

    def _patterns(self, ids: list[str]) -> list[AnyPattern]:
        """Return the patterns of complete ids, in one round trip."""
        stored = self._storage.patterns.get_many(ids) if ids else {}
        keys = [UUID(one) for one in ids]
        if missing := [key for key in keys if key not in stored]:
            raise NotFoundError("pattern", missing[0])
        return [stored[key] for key in keys]

    def _whole(self, episode: Episode, number: int) -> str:
        """Return the Markdown of a step, or of all but the steps if the number is 0."""
        if number == 0:
            return head_of(episode)
        steps = self._storage.steps.range(episode.id, number, number)
        if not steps:
            raise NotFoundError("step", f"{number} of episode {episode.id}")
        return step_of(steps[0])


def _within(head: str, steps: list[Step]) -> tuple[list[str], int | None]:
    """Return the parts of an episode that fit into an answer, and the number of the first step that does not."""
    parts, length = [head], len(head) + 100  # for the line that says what follows
    for step in islice(steps, _STEPS_OF_A_PAGE):
        text = step_of(step, _CHARACTERS_OF_A_STEP)
        length += len(text) + 2
        if length > MAX_CHARACTERS:
            return parts, step.step_number
        parts.append(text)
    return parts, steps[_STEPS_OF_A_PAGE].step_number if len(steps) > _STEPS_OF_A_PAGE else None


def _playbook(
    stored: Playbook | None,
    key: UUID,
    name: str,
    steps: list[PlaybookStep],
    purpose: str,
    patterns: list[AnyPattern],
) -> Playbook:
    """Return a new playbook, or the stored one with what is replaced."""
    changes: dict[str, Any] = {"name": name}
    if patterns:
        composed = Playbook.from_patterns(name, patterns, description=purpose)
        names = ("description", "steps", "sources", "context", "success_rate", "occurrence_count", "evidence", "tags")
        changes |= {field: getattr(composed, field) for field in names}
    if steps:
        changes["steps"] = steps
    if purpose:
        changes["description"] = purpose
    return stored.model_copy(update=changes) if stored else Playbook(id=key, **changes)


def _line(episode: Episode, snippet: str) -> str:
    reward = "" if episode.reward is None else f" {episode.reward.total:.4g}"
    facts = f"{outcome_of(episode)}{reward}, {episode.started_at.date()}"
    line = f"- `{episode.id}` ({facts}): {inline(episode.task_description, _TASK_CHARACTERS)}"
    return f"{line}\n  {inline(snippet, _TASK_CHARACTERS)}" if snippet else line


def _result(status: str, output: str) -> StepResult:
    if status == "error":
        return StepError(message=output)
    if status == "timeout":
        if output:
            raise ValidationError("output", "a step that timed out has none: leave it out", output)
        return StepTimeout()
    return StepOk(output=output)


def _outcome(kind: OutcomeKind, verdict: str) -> Success | PartialSuccess | Failure | Abstained:
    match kind:
        case "success":
            return Success(verdict=verdict)
        case "partial_success":
            return PartialSuccess(verdict=verdict)
        case "failure":
            return Failure(reason=verdict)
    return Abstained(reason=verdict)


def _new_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise ValidationError("episode_id", "a UUID, or leave it out", text) from error


def _storable(field: str, text: str) -> str:
    """Return a text that UTF-8 can encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(field, "text without lone surrogates", text) from error
    return text


def _started_as(episode: Episode) -> tuple[object, ...]:
    return episode.task_description, episode.task_type, episode.context, episode.tags


def _recorded_as(step: Step) -> tuple[object, ...]:
    return step.tool, step.action, step.parameters, step.result, step.latency_ms
