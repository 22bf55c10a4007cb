"""The structured answers of the tools; each has the Markdown that a model reads."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

OutcomeOrOpen = Literal["success", "partial_success", "failure", "abstained", "open"]


class Answer(BaseModel):
    """An answer: its fields are the structured content, and `markdown` is the text."""

    model_config = ConfigDict(frozen=True)

    markdown: str = Field(description="The answer as Markdown.")


class RecalledRecord(BaseModel):
    """A recalled record."""

    kind: Literal["success", "failure", "pattern"]
    id: str
    score: float
    similar: list[str] = Field(description="Ids of records that are nearly the same, and are represented by this one.")


class RecallAnswer(Answer):
    """What the memory has about a task."""

    recall_id: str = Field(description="Pass it to complete_episode.")
    records: list[RecalledRecord] = Field(description="The records of the Markdown, in its order.")
    left_out: int = Field(description="Relevant records that did not fit into the budget.")


class StartedEpisode(Answer):
    """An episode that was started."""

    episode_id: str


class RecordedStep(Answer):
    """A step that is stored."""

    episode_id: str
    step_number: int


class CompletedEpisode(Answer):
    """An episode whose outcome is stored."""

    episode_id: str
    outcome: OutcomeOrOpen


class FoundEpisode(BaseModel):
    """An episode of a search result."""

    episode_id: str
    task: str
    outcome: OutcomeOrOpen
    reward: float | None = None


class SearchAnswer(Answer):
    """A page of episodes."""

    episodes: list[FoundEpisode]
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last one.")


class HandoffAnswer(Answer):
    """What is needed to continue an episode."""

    episode_id: str
    next: list[str] = Field(description="What is to be done next.")


class EpisodeAnswer(Answer):
    """An episode, or a part of it."""

    episode_id: str
    outcome: OutcomeOrOpen
    next_step: int | None = Field(None, description="Continue with from_step=next_step; null if no step follows.")
    next_offset: int | None = Field(None, description="Continue with offset=next_offset; null if nothing was cut.")


class LearnedPattern(BaseModel):
    """A pattern that was mined."""

    pattern_id: str
    kind: str
    description: str
    success_rate: float
    occurrences: int


class LearnAnswer(Answer):
    """The patterns that were mined and stored."""

    patterns: list[LearnedPattern]


class PatternAnswer(Answer):
    """A pattern, or a part of its Markdown."""

    pattern_id: str
    kind: str
    version: int
    next_offset: int | None = Field(None, description="Continue with offset=next_offset; null if nothing was cut.")


class SavedPlaybook(Answer):
    """A playbook that is stored."""

    playbook_id: str
    version: int = Field(description="Grows with each change.")


class ForgetAnswer(Answer):
    """What was erased."""

    episodes: int
    patterns: int
    scrubbed: bool = Field(description="False if erased bytes may remain in the file.")
