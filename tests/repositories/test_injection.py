"""A hostile string, in whichever argument of whichever method, is stored as data and found as data, or refused."""

from __future__ import annotations

import inspect
import os
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, get_type_hints

import pytest

import memory_storage as ms
from memory_storage.models import EpisodeFilters, PatternFilters, RecallFilters, SearchFilters, new_id
from memory_storage.repositories import VectorIndex
from memory_storage.sql.fulltext import MAX_CHARACTERS
from memory_storage.sql.validation import replace_unstorable
from tests.checks import assert_consistent
from tests.raising import raises

from .hostile import HOSTILE
from .test_namespaces import ALL_TIME, ALWAYS, REPOSITORIES

PARTS = 4  # each on a database of its own: one with the tables of hundreds of models is slow to change
# Each string meets every nth argument, so that each string and each argument is tried in every run, and all pairs of
# them in some four runs; 1 tries all pairs in one run, which takes two minutes.
EVERY = int(os.environ.get("MEMORY_STORAGE_TEST_EVERY_ARGUMENT", "4"))
VECTOR = [1.0, 0.5, 0.25, 0.125]
POINT, BOX = ms.Point(latitude=1.0, longitude=1.0), ms.Box(south=0.0, north=2.0, west=0.0, east=2.0)
OTHER = [-1.0, 0.5, 0.25, 0.125]
DECOY = "zzdecoyzz"
DECOYS = ms.TaskContext(domain=DECOY)

# What is declared so takes no string. Whatever else a method takes has to have a case.
NO_STRINGS = {
    "bool",
    "bool | None",
    "int",
    "int | None",
    "float",
    "float | None",
    "datetime | None",
    "Sequence[float]",
    "Sequence[float] | None",
    "Weights | None",
    "models.RecallWeights | None",
    "int | Random | None",
    "Callable[[str], int] | None",
    "Progress | None",
    "OnCorrupt",
    "Summarizer | None",
    "EmbeddingModel",
    "Registered",
    "Callable[[Any], str]",
    "RewardScore | float | None",
    "datetime",
    "timedelta",
    "tuple[int, int]",
    "int | tuple[int, int]",
    "Interval",
    "Interval | None",
    "Period",
    "Point",
    "Box",
    "RetentionPlan | RetentionPolicy",
    "RetentionPolicy",
    "Callable[[int, int], None] | None",
    "Callable[[float], None]",
    "Callable[[str], str] | None",
    "Callable[..., Any] | None",
}


@dataclass
class Ground:
    """A namespace of one text's own: an episode, a pattern and a place with it, and others that are nothing like it."""

    storage: ms.MemoryStorage
    number: int
    text: str
    episode: ms.Episode | None = None
    pattern: ms.Heuristic | None = None
    holds: set[str] = field(default_factory=set)  # the fields of them that have the text
    decoys: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = self.storage.in_namespace(f"ground {self.number}")
        self.scratch = self.storage.in_namespace(f"scratch {self.number}")
        self._lay_decoys()
        self._lay_episode()
        self._lay_pattern()

    @property
    def has_words(self) -> bool:
        """Whether the storage and SQLite's tokenizer, of an older Unicode, certainly find the same words."""
        return self.text.isascii() and bool(set(self.text) & set(string.ascii_letters + string.digits))

    def _lay_decoys(self) -> None:
        episode = self.memory.episodes.save(ms.Episode(task_description=DECOY, tags=[DECOY], metadata={DECOY: DECOY}))
        pattern = self.memory.patterns.save(ms.Heuristic(condition=DECOY, action=DECOY, context=DECOYS))
        rows = [("episode", episode.id, OTHER), ("pattern", pattern.id, OTHER)]
        self.memory.embeddings.put_many(rows, model="decoy")
        self.decoys = [episode, pattern]

    def _lay_episode(self) -> None:
        for fields in (self._fields(True, True), self._fields(True, False), self._fields(False, False)):
            try:
                self.episode = self.memory.episodes.save(ms.Episode(**fields))
            except ms.ValidationError:
                continue
            assert self.memory.episodes.get(self.episode.id) == self.episode
            assert self.episode.metadata == {self.text: self.text}
            assert self.episode.steps[0].result == ms.StepOk(output=self.text)
            self.holds = {"context", "metadata"} | {name for name in ("tags", "task_description") if name in fields}
            if "task_description" in fields and not fields["task_description"]:
                self.holds -= {"task_description"}
            self.memory.embeddings.put("episode", self.episode.id, VECTOR, model="decoy")
            return

    def _fields(self, description: bool, tags: bool) -> dict[str, Any]:
        text = self.text
        return {
            **({"task_description": text} if description else {"task_description": "large"}),
            **({"tags": [text]} if tags else {}),
            "context": ms.TaskContext(domain=text, language=text, framework=text, tags=[text] if tags else []),
            "metadata": {text: text},
            "artifacts": [text],
            "outcome": ms.PartialSuccess(verdict=text, completed=[text], failed=[text]),
            "reflection": ms.Reflection(successes=[text], improvements=[text], insights=[text]),
            "steps": [
                ms.Step(
                    tool=text,
                    action=text,
                    parameters={text: [text]},
                    result=ms.StepOk(output=text),
                    metadata={text: text},
                )
            ],
        }

    def _lay_pattern(self) -> None:
        context = ms.TaskContext(domain=self.text, language=self.text)
        for tags in ([self.text], []):
            try:
                pattern = ms.Heuristic(
                    description=self.text, condition=self.text, action=self.text, context=context, tags=tags
                )
                self.pattern = self.memory.patterns.save(pattern)
            except ms.ValidationError:
                continue
            assert self.memory.patterns.get(self.pattern.id) == self.pattern
            self.holds |= {"pattern.context"} | ({"pattern.tags"} if tags else set())
            self.memory.embeddings.put("pattern", self.pattern.id, VECTOR, model="decoy")
            return


Case = Callable[[Ground], object]
CASES: dict[str, Case] = {}
REFUSED: set[str] = set()  # those that take no text at all


def _ids(items: Iterable[Any]) -> set[Any]:
    return {getattr(item, "item", item).id for item in items}


def _found_by_filter(
    run: Callable[..., Any], value: Callable[[str], Any], name: str, holds: str, ground: Ground
) -> None:
    found = run(ground.memory, **{name: value(ground.text)})
    kept = ground.pattern if holds.startswith("pattern") else ground.episode
    expected = {kept.id} if kept is not None and holds in ground.holds else set()
    assert found == (len(expected) if isinstance(found, int) else expected)


def _found_by_words(run: Callable[..., Any], kind: str, ground: Ground) -> None:
    found = run(ground.memory, text=ground.text)
    kept, decoy = (ground.episode, ground.decoys[0]) if kind == "episode" else (ground.pattern, ground.decoys[1])
    if ground.has_words and kept is not None:
        assert found == 1 if isinstance(found, int) else kept.id in found
        assert isinstance(found, int) or decoy.id not in found


EPISODE_RUNS: dict[str, Callable[..., Any]] = {
    "episodes.query": lambda m, **on: _ids(m.episodes.query(archived=None, **on)),
    "episodes.iterate": lambda m, **on: _ids(m.episodes.iterate(archived=None, **on)),
    "episodes.count": lambda m, **on: m.episodes.count(archived=None, **on),
    "episodes.similar_to": lambda m, **on: _ids(m.episodes.similar_to(VECTOR, **{"model": "decoy", **on})),
    "episodes.search": lambda m, **on: _ids(
        m.episodes.search(on.pop("text", DECOY), **{"vector": VECTOR, "model": "decoy", **on})
    ),
}
PATTERN_RUNS: dict[str, Callable[..., Any]] = {
    "patterns.query": lambda m, **on: _ids(m.patterns.query(**on)),
    "patterns.iterate": lambda m, **on: _ids(m.patterns.iterate(**on)),
    "patterns.count": lambda m, **on: m.patterns.count(**on),
    "patterns.similar_to": lambda m, **on: _ids(m.patterns.similar_to(VECTOR, **{"model": "decoy", **on})),
    "patterns.search": lambda m, **on: _ids(
        m.patterns.search(on.pop("text", DECOY), **{"vector": VECTOR, "model": "decoy", **on})
    ),
}
EPISODE_FILTERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "domain": (str, "context"),
    "language": (str, "context"),
    "framework": (str, "context"),
    "tags_any": (lambda text: [text], "tags"),
    "tags_all": (lambda text: [text], "tags"),
    "metadata": (lambda text: {text: text}, "metadata"),
}
PATTERN_FILTERS = {
    "domain": (str, "pattern.context"),
    "domain_or_general": (str, "pattern.context"),
    "language": (str, "pattern.context"),
    "tags_any": (lambda text: [text], "pattern.tags"),
    "tags_all": (lambda text: [text], "pattern.tags"),
}


def _refused(run: Callable[..., Any], name: str, ground: Ground) -> None:
    run(ground.memory, **{name: ground.text})


def _add_filters() -> None:
    for runs, filters in ((EPISODE_RUNS, EPISODE_FILTERS), (PATTERN_RUNS, PATTERN_FILTERS)):
        for method, run in runs.items():
            for name, (value, holds) in filters.items():
                CASES[f"{method}.{name}"] = partial(_found_by_filter, run, value, name, holds)
            chosen = (
                ("task_type", "complexity", "outcome", "child_of", "recalled", "used")
                if runs is EPISODE_RUNS
                else ("kind",)
            )
            for name in chosen:
                REFUSED.add(f"{method}.{name}")
                CASES[f"{method}.{name}"] = partial(_refused, run, name)
            for name in _own_names(method):
                REFUSED.add(f"{method}.{name}")
                CASES[f"{method}.{name}"] = partial(_refused, run, name)
    for method in ("episodes.query", "episodes.iterate", "episodes.count"):
        CASES[f"{method}.text"] = partial(_found_by_words, EPISODE_RUNS[method], "episode")
    CASES["episodes.similar_to.text"] = partial(_found_by_words, EPISODE_RUNS["episodes.similar_to"], "episode")
    CASES["episodes.search.text"] = lambda g: _found_by_words(
        lambda m, text: _ids(m.episodes.search(text)), "episode", g
    )
    CASES["patterns.search.text"] = lambda g: _found_by_words(
        lambda m, text: _ids(m.patterns.search(text)), "pattern", g
    )


def _add_recalls() -> None:
    CASES["storage.recall.task"] = _recalled
    for name, (value, _) in EPISODE_FILTERS.items():
        CASES[f"storage.recall.{name}"] = partial(_recalled_by_filter, name, value)
    for name in ("task_type", "complexity", "child_of", "recalled", "used"):
        REFUSED.add(f"storage.recall.{name}")
        CASES[f"storage.recall.{name}"] = partial(_refused, lambda m, **on: m.recall("t", **on), name)


def _recalled(g: Ground) -> None:
    saved = g.scratch.episodes.save(_episode_of(g.text).model_copy(update=_SUCCEEDED))
    recall = g.scratch.recall(g.text, k=1_000, budget_tokens=10**6)
    assert len(str(recall).splitlines()) == str(recall).count("\n")
    is_searched = g.has_words and len(g.text) <= MAX_CHARACTERS  # the words of a longer task are those of its beginning
    assert saved.id in {key for one in recall for key in (one.item.id, *one.similar)} or not is_searched


def _recalled_by_filter(name: str, value: Callable[[str], Any], g: Ground) -> None:
    given = {name: g.text} if name in ms.TaskContext.model_fields else {}
    others = {name: value(g.text)} if name == "metadata" else {"tags": [g.text]} if "tags" in name else {}
    episode = ms.Episode(task_description="recalled by a filter", context=ms.TaskContext(**given), **others)
    saved = g.scratch.episodes.save(episode.model_copy(update=_SUCCEEDED))
    decoy = g.scratch.episodes.save(
        ms.Episode(task_description="recalled by a filter", outcome=ms.Success(verdict="v"))
    )
    recall = g.scratch.recall("recalled by a filter", patterns=0, **{name: value(g.text)})
    found = {key for one in recall for key in (one.item.id, *one.similar)}
    assert saved.id in found  # and what other cases have stored with this text
    assert decoy.id not in found
    for one in (saved, decoy):
        g.scratch.episodes.delete(one.id)


_SUCCEEDED = {"outcome": ms.Success(verdict="v")}


def _own_names(method: str) -> tuple[str, ...]:
    kind, name = method.split(".")
    found = {"query": ("cursor", "direction"), "iterate": ("direction",)}.get(name, ())
    if name in ("similar_to", "search"):
        found = ("mode", "cursor")
    return tuple(one for one in found if kind == "episodes" or one != "direction")


def _add_ids() -> None:
    for name, call in {
        "episodes.get.episode_id": lambda m, text: m.episodes.get(text),
        "episodes.resolve_id.prefix": lambda m, text: m.episodes.resolve_id(text),
        "episodes.short_ids.episode_ids": lambda m, text: m.episodes.short_ids([text]),
        "episodes.erased_among.episode_ids": lambda m, text: m.episodes.erased_among([text]),
        "patterns.resolve_id.prefix": lambda m, text: m.patterns.resolve_id(text),
        "patterns.short_ids.pattern_ids": lambda m, text: m.patterns.short_ids([text]),
        "patterns.get_many.pattern_ids": lambda m, text: m.patterns.get_many([text]),
        "patterns.erased_among.pattern_ids": lambda m, text: m.patterns.erased_among([text]),
        "episodes.find.episode_id": lambda m, text: m.episodes.find(text),
        "episodes.archive.episode_id": lambda m, text: m.episodes.archive(text),
        "episodes.restore.episode_id": lambda m, text: m.episodes.restore(text),
        "episodes.delete.episode_id": lambda m, text: m.episodes.delete(text),
        "episodes.append_step.episode_id": lambda m, text: m.episodes.append_step(text, ms.Step(tool="t")),
        "episodes.append_steps.episode_id": lambda m, text: m.episodes.append_steps(text, [ms.Step(tool="t")]),
        "episodes.checkpoint.episode_id": lambda m, text: m.episodes.checkpoint(text, "label"),
        "episodes.handoff.episode_id": lambda m, text: m.episodes.handoff(text),
        "episodes.resume.checkpoint_id": lambda m, text: m.episodes.resume(text),
        "checkpoints.get.checkpoint_id": lambda m, text: m.checkpoints.get(text),
        "checkpoints.find.checkpoint_id": lambda m, text: m.checkpoints.find(text),
        "checkpoints.delete.checkpoint_id": lambda m, text: m.checkpoints.delete(text),
        "checkpoints.query.episode_id": lambda m, text: m.checkpoints.query(text),
        "checkpoints.query.cursor": lambda m, text: m.checkpoints.query(new_id(), cursor=text),
        "checkpoints.count.episode_id": lambda m, text: m.checkpoints.count(text),
        "storage.buffered_steps.episode_id": lambda m, text: m.buffered_steps(text),
        "episodes.complete.episode_id": lambda m, text: m.episodes.complete(text, ms.Success(verdict="v")),
        "summaries.put.episode_id": lambda m, text: m.summaries.put(text, "t"),
        "summaries.get.episode_id": lambda m, text: m.summaries.get(text),
        "summaries.find.episode_id": lambda m, text: m.summaries.find(text),
        "summaries.delete.episode_id": lambda m, text: m.summaries.delete(text),
        "summaries.summarize.episode_id": lambda m, text: m.summaries.summarize(text),
        "steps.get.step_id": lambda m, text: m.steps.get(text),
        "steps.find.step_id": lambda m, text: m.steps.find(text),
        "steps.delete.step_id": lambda m, text: m.steps.delete(text),
        "steps.range.episode_id": lambda m, text: m.steps.range(text),
        "steps.latest.episode_id": lambda m, text: m.steps.latest(text),
        "steps.iterate.episode_id": lambda m, text: list(m.steps.iterate(text)),
        "steps.count.episode_id": lambda m, text: m.steps.count(text),
        "patterns.get.pattern_id": lambda m, text: m.patterns.get(text),
        "patterns.find.pattern_id": lambda m, text: m.patterns.find(text),
        "patterns.delete.pattern_id": lambda m, text: m.patterns.delete(text),
        "patterns.merge.pattern_id": lambda m, text: m.patterns.merge(text, new_id()),
        "patterns.merge.other_id": lambda m, text: m.patterns.merge(new_id(), text),
        "patterns.record_retrieval.pattern_ids": lambda m, text: m.patterns.record_retrieval([text]),
        "patterns.record_application.pattern_id": lambda m, text: m.patterns.record_application(text, success=True),
        "embeddings.embed.owner_ids": lambda m, text: m.embeddings.embed(_embedder("decoy"), owner_ids=[text]),
        "embeddings.get.owner_type": lambda m, text: m.embeddings.get(text, new_id(), model="decoy"),
        "embeddings.get.owner_id": lambda m, text: m.embeddings.get("episode", text, model="decoy"),
        "embeddings.find.owner_type": lambda m, text: m.embeddings.find(text, new_id(), model="decoy"),
        "embeddings.find.owner_id": lambda m, text: m.embeddings.find("step", text, model="decoy"),
        "embeddings.get_many.owner_type": lambda m, text: m.embeddings.get_many(text, [new_id()], model="decoy"),
        "embeddings.get_many.owner_ids": lambda m, text: m.embeddings.get_many("step", [text], model="decoy"),
        "embeddings.delete.owner_type": lambda m, text: m.embeddings.delete(text, new_id(), model="decoy"),
        "embeddings.delete.owner_id": lambda m, text: m.embeddings.delete("step", text, model="decoy"),
        "embeddings.put.owner_type": lambda m, text: m.embeddings.put(text, new_id(), VECTOR, model="decoy"),
        "embeddings.put.owner_id": lambda m, text: m.embeddings.put("episode", text, VECTOR, model="decoy"),
        "embeddings.put.preset": lambda m, text: m.embeddings.put("step", new_id(), VECTOR, model="m", preset=text),
        "embeddings.put_many.items": lambda m, text: m.embeddings.put_many([("step", text, VECTOR)], model="m"),
        "embeddings.put_many.preset": lambda m, text: m.embeddings.put_many(_nobodys(), model="m", preset=text),
        "embeddings.embed.owner_type": lambda m, text: m.embeddings.embed(_embedder("decoy"), owner_type=text),
        "embeddings.embed.preset": lambda m, text: m.embeddings.embed(_embedder("new"), preset=text),
        "embeddings.reembed.preset": lambda m, text: m.embeddings.reembed("decoy", _embedder("new"), preset=text),
        "spatiotemporal.get.entry_id": lambda m, text: m.spatiotemporal.get(text),
        "spatiotemporal.find.entry_id": lambda m, text: m.spatiotemporal.find(text),
        "spatiotemporal.delete.entry_id": lambda m, text: m.spatiotemporal.delete(text),
        "spatiotemporal.for_owner.owner_type": lambda m, text: m.spatiotemporal.for_owner(text, new_id()),
        "spatiotemporal.for_owner.owner_id": lambda m, text: m.spatiotemporal.for_owner("episode", text),
        "index.rebuild.preset": lambda m, text: m.embeddings.index.rebuild("decoy", preset=text),
    }.items():
        REFUSED.add(name)
        CASES[name] = lambda g, call=call: call(g.memory, g.text)


def _nobodys() -> list[Any]:
    return [("step", new_id(), VECTOR)]


def _embedder(model: str) -> ms.Embedder:
    return ms.FunctionEmbedder(lambda texts: [VECTOR for _ in texts], model=model)


def _episode_of(text: str) -> ms.Episode:
    return ms.Episode(task_description="t", metadata={text: text}, steps=[ms.Step(tool=text, action=text)])


def _save(g: Ground) -> None:
    saved = g.scratch.episodes.save(_episode_of(g.text))
    assert g.scratch.episodes.get(saved.id) == saved
    assert (saved.metadata, saved.steps[0].tool) == ({g.text: g.text}, g.text)


def _save_many(g: Ground) -> None:
    for saved in g.scratch.episodes.save_many([_episode_of(g.text), _episode_of("b")]):
        assert g.scratch.episodes.get(saved.id) == saved


def _import_many(g: Ground) -> None:
    episode = _episode_of(g.text)
    assert g.scratch.episodes.import_many([episode]) == 1
    assert g.scratch.episodes.get(episode.id).metadata == episode.metadata


def _append(g: Ground) -> None:
    episode = g.scratch.episodes.save(ms.Episode(task_description="t"))
    for result in (ms.StepOk(output=g.text), ms.StepError(message=g.text)):
        step = g.scratch.episodes.append_step(episode.id, ms.Step(tool=g.text, action=g.text, result=result))
        assert g.scratch.steps.get(step.id) == step
        assert step.result == result


def _append_many(g: Ground) -> None:
    episode = g.scratch.episodes.save(ms.Episode(task_description="t"))
    results = [ms.StepOk(output=g.text), ms.StepError(message=g.text)]
    steps = [ms.Step(tool=g.text, action=g.text, parameters={g.text: g.text}, result=result) for result in results]
    appended = g.scratch.episodes.append_steps(episode.id, steps)
    assert g.scratch.episodes.get(episode.id).steps == appended
    assert [step.result for step in appended] == results
    assert g.scratch.episodes.append_steps(episode.id, steps) == appended


def _checkpoint(name: str, g: Ground) -> None:
    episode = g.scratch.episodes.save(ms.Episode(task_description="t"))
    fields = {"label": "label", "state": {g.text: [g.text]}} if name != "label" else {"label": g.text}
    checkpoint = g.scratch.episodes.checkpoint(episode.id, **fields)
    if name == "import":
        assert g.scratch.checkpoints.delete(checkpoint.id)
        assert g.scratch.checkpoints.import_many([checkpoint]) == 1
    assert g.scratch.checkpoints.get(checkpoint.id) == checkpoint
    assert checkpoint.model_dump().items() >= fields.items()
    assert g.scratch.episodes.handoff(episode.id).checkpoint == checkpoint
    g.scratch.episodes.delete(episode.id)


def _complete_with_recall(g: Ground) -> None:
    episode = g.scratch.episodes.save(ms.Episode(task_description=g.text))
    recall = ms.Recall(id=new_id(), task=g.text, namespace=g.scratch.episodes._session.namespace)
    assert g.scratch.episodes.complete(episode.id, ms.Success(verdict="v"), recalled=recall).recalled == recall.receipt
    with raises(ms.ValidationError, field="recalled"):
        g.scratch.episodes.complete(episode.id, ms.Success(verdict="v"), recalled=g.text)


def _complete_with_use(g: Ground) -> None:
    recall = ms.Recall(id=new_id(), task="t", namespace=g.scratch.episodes._session.namespace)
    g.scratch.episodes.complete(new_id(), ms.Success(verdict="v"), recalled=recall, used=[g.text])


def _record_with_recall(g: Ground) -> None:
    run = g.scratch.record("t", recalled=g.text)
    with raises(ms.ValidationError, field="recalled"), run:
        pass
    g.scratch.episodes.delete(run.id)


def _complete(name: str, g: Ground) -> None:
    episode = g.scratch.episodes.save(ms.Episode(task_description="t"))
    outcome = ms.Failure(reason=g.text, error_details=g.text) if name == "outcome" else ms.Success(verdict="v")
    reflection = ms.Reflection(insights=[g.text]) if name == "reflection" else None
    ended = g.scratch.episodes.complete(episode.id, outcome, reflection=reflection)
    assert g.scratch.episodes.get(episode.id) == ended
    assert (ended.outcome, ended.reflection) == (outcome, reflection)


def _put_summary(name: str, g: Ground) -> None:
    value = [g.text] if name in ("key_steps", "key_concepts") else g.text
    episode = g.scratch.episodes.save(ms.Episode(task_description="t"))
    if name == "text" and not g.text.strip():
        with raises(ms.ValidationError, field="text"):
            g.scratch.summaries.put(episode.id, g.text)
    else:
        stored = g.scratch.summaries.put(episode.id, **{"text": "t", name: value})
        assert getattr(stored, name) == value
        assert g.scratch.summaries.get(episode.id) == g.scratch.episodes.get(episode.id).summary == stored
        if g.has_words and name != "created_by" and len(g.text) <= MAX_CHARACTERS:
            assert episode.id in _ids(g.scratch.episodes.search(g.text, k=1_000))
    g.scratch.episodes.delete(episode.id)


def _pattern_of(text: str) -> ms.AnyPattern:
    return ms.ErrorRecovery(error_type=text, recovery_steps=[text], description=text, metadata={text: text})


def _save_pattern(g: Ground) -> None:
    for saved in (g.scratch.patterns.save(_pattern_of(g.text)), *g.scratch.patterns.save_many([_pattern_of(g.text)])):
        assert g.scratch.patterns.get(saved.id) == saved
        assert saved.error_type == saved.description == g.text


def _import_pattern(g: Ground) -> None:
    pattern = _pattern_of(g.text)
    assert g.scratch.patterns.import_many([pattern]) == 1
    assert g.scratch.patterns.get(pattern.id).description == g.text


def _put_place(name: str, g: Ground) -> None:
    owner = g.decoys[0].id
    entry = ms.SpatiotemporalEntry(owner_type="episode", owner_id=owner, place_name=g.text, metadata={g.text: g.text})
    if name == "put_many":
        assert [one.place_name for one in g.memory.spatiotemporal.put_many([entry])] == [g.text]
    elif name == "put":
        assert g.memory.spatiotemporal.put(entry).place_name == g.text
    else:
        assert g.memory.spatiotemporal.import_many([entry]) == 1
    assert g.memory.spatiotemporal.get(entry.id).place_name == g.text
    assert g.text in {one.place_name for one in g.memory.spatiotemporal.for_owner("episode", owner)}
    g.memory.spatiotemporal.delete(entry.id)


def _by_model(g: Ground) -> None:
    """Everything that takes the name of a model, with the text as its name."""
    memory, text, (episode, pattern) = g.scratch, g.text, _items(g)
    memory.embeddings.put("episode", episode.id, VECTOR, model=text)
    memory.embeddings.put_many([("pattern", pattern.id, VECTOR)], model=text)
    found = memory.embeddings.get("episode", episode.id, model=text)
    assert (found.model, found.vector) == (text, VECTOR)
    assert memory.embeddings.find("episode", episode.id, model=text) == found
    assert memory.embeddings.get_many("episode", [episode.id], model=text) == {episode.id: found}
    assert memory.embeddings.count(model=text) == 2
    assert memory.embeddings.count(model=text + "x") == 0
    assert memory.embeddings.models()[text] == 4
    assert found in list(memory.embeddings.iterate())
    for hits, item in (
        (memory.episodes.similar_to(VECTOR, model=text), episode),
        (memory.episodes.search("t", vector=VECTOR, model=text, k=1000), episode),
        (memory.patterns.similar_to(VECTOR, model=text), pattern),
        (memory.patterns.search("t", vector=VECTOR, model=text, k=1000), pattern),
    ):
        assert item.id in _ids(hits)
    index = memory.embeddings.index
    assert text in {one.name for one in index.status()}
    assert index.dimension(text) == 4
    assert index.verify(text).model.name == text
    assert index.catch_up(text) == 0
    assert index.rebuild(text) == 0
    assert index.costs(text)
    assert index.switch_to(memory.vector_index, model=text) == 0
    assert memory.embeddings.import_many([found]) == 0
    assert memory.embeddings.delete("episode", episode.id, model=text) is True
    assert memory.embeddings.import_many([found]) == 1


def _by_embedder(g: Ground) -> None:
    memory, (episode, pattern) = g.scratch, _items(g)
    embedder = _embedder(g.text + "!")
    assert memory.embeddings.embed(embedder) >= 1
    assert memory.embeddings.embed(embedder, owner_type="pattern") >= 1
    assert episode.id in _ids(memory.episodes.search(g.text, embedder=embedder, k=100))
    assert pattern.id in _ids(memory.patterns.search(g.text, embedder=embedder, k=100))
    settings = memory.settings.model_copy(update={"embed": "manually"})
    own = ms.MemoryStorage(memory.engine, settings, embedder=embedder)
    assert own.embeddings.flush() == 0
    assert episode.id in _ids(own.episodes.similar_to(g.text, k=1_000))
    assert pattern.id in _ids(own.patterns.similar_to(g.text, k=1_000))
    assert memory.embeddings.reembed(g.text + "!", _embedder(g.text + "?")) >= 2
    assert memory.embeddings.count(model=g.text + "?") >= 2


def _items(g: Ground) -> tuple[ms.Episode, ms.Heuristic]:
    episode = g.scratch.episodes.save(ms.Episode(task_description="t"))
    return episode, g.scratch.patterns.save(ms.Heuristic(condition="t", action="t"))


def _items_of(g: Ground) -> None:
    """Everything that takes the path, the key or the value of an item, or a field or model of its vectors."""
    items, text = g.scratch.items, g.text
    items.clear()
    name = {"path": (text, "b"), "key": text}
    item = items.put(value={text: text}, vectors={text: VECTOR}, model="items", **name)
    items.put((DECOY,), DECOY, DECOY, vectors={DECOY: OTHER}, model="items")
    assert (item.path, item.key, item.value) == ((text, "b"), text, {text: text})
    assert items.get(**name) == items.find(**name) == items.find(refresh=True, **name) == item
    assert items.get_many([((text, "b"), text), ((text,), text)]) == [item, None]
    assert items.query((text,)) == list(items.iterate((text,))) == [item]
    assert items.count((text,)) == 1
    assert items.search(VECTOR, model="items", prefix=(text,))[0].item == item
    assert items.paths(prefix=[text]) == items.paths(prefix=[None, "b"]) == items.paths(suffix=["b"]) == [(text, "b")]
    assert items.paths(suffix=[text]) == []
    vectors = [one for one in items.iterate_vectors() if one.key == text]
    assert [(one.field, one.path) for one in vectors] == [(text, (text, "b"))]
    items.put_many([ms.models.PutItem(value=text, **name)])
    operations = [ms.models.GetItem(**name), ms.models.DeleteItem(**name), ms.models.ListPaths(prefix=(text,))]
    assert items.batch(operations)[0].value == text
    assert (items.import_many([item]), items.import_vectors(vectors)) == (1, 1)
    assert (items.delete(**name), items.delete_many([((text, "b"), text)])) == (True, 0)
    assert items.clear((text,)) == 0
    assert items.count() == 1


def _items_by_model(g: Ground) -> None:
    items = g.scratch.items
    items.put((), "model", 1, vectors={"f": VECTOR}, model=g.text)
    assert [hit.item.key for hit in items.search(VECTOR, model=g.text)] == ["model"]
    items.clear()


def _items_by_filter(g: Ground) -> None:
    items, on = g.scratch.items, {"name": g.text}
    items.clear()
    item = items.put((), "filtered", {"name": g.text}, vectors={"f": VECTOR}, model="items")
    items.put((), "other", {"name": g.text + "x"}, vectors={"f": VECTOR}, model="items")
    assert items.query(filter=on) == list(items.iterate(filter=on)) == [item]
    assert items.count(filter=on) == 1
    assert [hit.item for hit in items.search(VECTOR, model="items", filter=on)] == [item]


def _logs_of(g: Ground) -> None:
    """Everything that takes the name of a log, or the id or value of a record."""
    logs, text = g.scratch.logs, g.text
    logs.append(f"{DECOY}", [DECOY])
    assert logs.append(text, [{text: text}, text], ids=[text, DECOY]) == [1, 2]
    assert logs.append(text, [0], ids=[text]) == [1]
    records = logs.read(text)
    assert [(one.id, one.value) for one in records] == [(text, {text: text}), (DECOY, text)]
    assert list(logs.iterate(text)) == records
    assert logs.count(text) == 2
    assert text in {one.log for one in logs.list(text)}
    assert logs.pop(text) == records[-1]
    assert logs.clear(text) == 1
    assert logs.import_many(records) == 2
    logs.clear(text)
    assert [one.value for one in logs.iterate()] == [DECOY]
    logs.clear(DECOY)


def _relationships_of(g: Ground) -> None:
    """Everything that takes the kind or the metadata of a relationship: kinds that are read may be any text."""
    relationships, text = g.scratch.relationships, g.text
    source, target = (g.scratch.episodes.save(_episode_of("t")).id for _ in range(2))
    one = relationships.add(source, target, "references", metadata={text: [text]})
    assert one.metadata == {text: [text]}
    assert relationships.add_many([one]) == [*relationships.iterate()] == [one]
    for walk in (relationships.query, relationships.ancestors, relationships.descendants):
        assert walk(source, kind=text).items == []
    assert relationships.path(source, target, text) == []
    assert relationships.path(source, target, "references") == [source, target]
    relationships.delete(one.id)
    assert relationships.import_many([one]) == 1
    for key in (source, target):
        g.scratch.episodes.delete(key)


def _add_relationships() -> None:
    refused: dict[str, Callable[[Any, str], object]] = {
        "add.from_id": lambda r, text: r.add(text, new_id(), "blocks"),
        "add.to_id": lambda r, text: r.add(new_id(), text, "blocks"),
        "add.kind": lambda r, text: r.add(new_id(), new_id(), f"{text} "),
        **{f"{name}.relationship_id": partial(_of_relationship, name) for name in ("get", "find", "delete")},
        "query.edges": lambda r, text: r.query(new_id(), edges=text),
        "path.from_id": lambda r, text: r.path(text, new_id()),
        "path.to_id": lambda r, text: r.path(new_id(), text),
        "topological_order.kind": lambda r, text: r.topological_order(new_id(), text),
    }
    for name in ("query", "ancestors", "descendants", "topological_order"):
        refused[f"{name}.episode_id"] = partial(_of_relationship, name)
        refused[f"{name}.cursor"] = partial(_of_cursor, name)
    for name, call in refused.items():
        CASES[f"relationships.{name}"] = partial(_call_relationships, call)
        REFUSED.add(f"relationships.{name}")
    CASES.update(dict.fromkeys(_RELATIONSHIP_CASES, _relationships_of))


def _of_relationship(name: str, relationships: Any, text: str) -> object:
    return getattr(relationships, name)(text)


def _of_cursor(name: str, relationships: Any, text: str) -> object:
    return getattr(relationships, name)(new_id(), cursor=text)


def _call_relationships(call: Callable[[Any, str], object], g: Ground) -> None:
    call(g.memory.relationships, g.text)


def _own_sql(g: Ground) -> None:
    with g.scratch.transaction() as tx:
        # length() of a text counts up to its first NUL.
        sql, size = "SELECT ?, length(CAST(? AS BLOB))", len(g.text.encode(errors="replace"))
        assert tx.execute([(sql, [g.text, g.text])])[0][0] == (g.text, size)


def _namespace(g: Ground) -> None:
    memory = g.storage.in_namespace(g.text)
    saved = memory.episodes.save(ms.Episode(task_description="t"))
    assert _ids(memory.episodes.iterate()) == {saved.id}
    assert g.memory.episodes.find(saved.id) is None
    memory.episodes.delete(saved.id)


_MODEL_CASES = (
    *(f"embeddings.{name}.model" for name in ("put", "put_many", "get", "find", "get_many", "delete", "count")),
    *(f"index.{name}.model" for name in ("dimension", "verify", "catch_up", "rebuild", "costs", "switch_to")),
    *(f"{kind}.{name}.model" for kind in ("episodes", "patterns") for name in ("similar_to", "search")),
    "embeddings.import_many.embeddings",
)
_ITEM_CASES = (
    *(f"items.{name}.{argument}" for name in ("put", "get", "find", "delete") for argument in ("path", "key")),
    *(f"items.{name}.prefix" for name in ("query", "search", "paths", "iterate", "count", "clear")),
    *(f"items.{name}.keys" for name in ("get_many", "delete_many")),
    *("items.put.value", "items.put.vectors", "items.put_many.items", "items.batch.operations", "items.paths.suffix"),
    *("items.import_many.items", "items.import_vectors.vectors"),
)
_ITEM_MODEL_CASES = ("items.put.model", "items.search.model")
_ITEM_FILTER_CASES = tuple(f"items.{name}.filter" for name in ("query", "search", "iterate", "count"))
_LOG_CASES = (
    *(f"logs.{name}.log" for name in ("append", "read", "iterate", "pop", "clear", "count")),
    *("logs.append.values", "logs.append.ids", "logs.list.prefix", "logs.import_many.records"),
)
_RELATIONSHIP_CASES = (
    *("relationships.add.metadata", "relationships.add_many.relationships", "relationships.import_many.relationships"),
    *(f"relationships.{name}.kind" for name in ("query", "ancestors", "descendants", "path")),
)
_EMBEDDER_CASES = (
    "embeddings.embed.embedder",
    "embeddings.reembed.embedder",
    "embeddings.reembed.model",
    "episodes.search.embedder",
    "patterns.search.embedder",
    "episodes.similar_to.vector",
    "patterns.similar_to.vector",
)


def _record(name: str, g: Ground) -> None:
    value = {
        "task": g.text,
        "context": ms.TaskContext(domain=g.text),
        "tags": [g.text],
        "metadata": {g.text: g.text},
    }[name]
    with g.scratch.record(**{"task": "t", name: value}) as run:
        run.step("tool", parameters={"text": g.text}, output=g.text)
    episode = g.scratch.episodes.get(run.id)
    assert getattr(episode, "task_description" if name == "task" else name) == value
    if len(g.text) < 10_000:  # a larger one is replaced by a marker
        assert episode.steps[0].parameters == {"text": replace_unstorable(g.text)}
    g.scratch.episodes.delete(run.id)


def _recorded(name: str, g: Ground) -> None:
    options = {name: [g.text] if name in {"tags", "parameters"} else g.text}
    recorded = g.scratch.recorded(**options)(lambda text: text)
    if name == "tool":
        with g.scratch.record("t") as run:
            recorded(g.text)
        episode_id, stored = run.id, [step.tool for step in g.scratch.episodes.get(run.id).steps]
    else:
        recorded(g.text)
        episode_id = next(iter(_ids(g.scratch.episodes.iterate())), None)
        stored = [] if episode_id is None else ["an episode"]
    if episode_id is not None:
        g.scratch.episodes.delete(episode_id)
    if not stored:  # logged, since the function returns as without the decorator
        raise ms.ValidationError(name, "refused", g.text)


def _add_writes() -> None:
    CASES.update(
        {
            "episodes.save.episode": _save,
            "episodes.save_many.episodes": _save_many,
            "episodes.import_many.episodes": _import_many,
            "episodes.append_step.step": _append,
            "episodes.append_steps.steps": _append_many,
            "episodes.checkpoint.label": partial(_checkpoint, "label"),
            "episodes.checkpoint.state": partial(_checkpoint, "state"),
            "checkpoints.import_many.checkpoints": partial(_checkpoint, "import"),
            "episodes.complete.outcome": partial(_complete, "outcome"),
            "episodes.complete.reflection": partial(_complete, "reflection"),
            "episodes.complete.recalled": _complete_with_recall,
            **{
                f"summaries.put.{name}": partial(_put_summary, name)
                for name in ("text", "key_steps", "key_concepts", "created_by")
            },
            "episodes.complete.used": _complete_with_use,
            "patterns.save.pattern": _save_pattern,
            "patterns.save_many.patterns": _save_pattern,
            "patterns.import_many.patterns": _import_pattern,
            "patterns.query.cursor": lambda g: g.memory.patterns.query(cursor=g.text),
            "spatiotemporal.put.entry": partial(_put_place, "put"),
            "spatiotemporal.import_many.entries": partial(_put_place, "import_many"),
            "storage.in_namespace.namespace": _namespace,
            "storage.acting_as.actor": lambda g: _acting_as(g),
            "storage.forget.namespace": lambda g: _forget_namespace(g),
            "spatiotemporal.put_many.entries": partial(_put_place, "put_many"),
            "storage.forget.episode": lambda g: g.memory.forget(episode=g.text, scrub=False),
            **{f"storage.record.{name}": partial(_record, name) for name in ("task", "context", "tags", "metadata")},
            **{f"storage.recorded.{name}": partial(_recorded, name) for name in ("task", "tool", "tags", "parameters")},
            "storage.record.task_type": lambda g: g.memory.record("t", task_type=g.text),
            "storage.recorded.task_type": lambda g: g.memory.recorded(task_type=g.text),
            "index.switch_to.source": lambda g: g.memory.embeddings.index.switch_to(g.text),  # type: ignore[arg-type]
            "storage.open.namespace": _namespace,
            "transaction.execute.statements": _own_sql,
            "storage.record.recalled": _record_with_recall,
            **dict.fromkeys(_MODEL_CASES, _by_model),
            **dict.fromkeys(_EMBEDDER_CASES, _by_embedder),
            **dict.fromkeys(_ITEM_CASES, _items_of),
            **dict.fromkeys(_ITEM_MODEL_CASES, _items_by_model),
            **dict.fromkeys(_ITEM_FILTER_CASES, _items_by_filter),
            **dict.fromkeys(_LOG_CASES, _logs_of),
        }
    )
    REFUSED.update(
        {"episodes.complete.used", "patterns.query.cursor", "storage.forget.episode", "index.switch_to.source"}
    )
    REFUSED.update({"storage.record.task_type", "storage.recorded.task_type"})


# These give figures, or places: a filter is the same condition as that of a query, so here it has to be answered.
ANSWERS: dict[str, Callable[..., Any]] = {
    "patterns.learn": lambda m, **on: m.patterns.learn(**on),
    "spatiotemporal.as_of": lambda m, **on: m.spatiotemporal.as_of(ALL_TIME[0], **on),
    "spatiotemporal.diverse": lambda m, **on: m.spatiotemporal.diverse(**on),
    "spatiotemporal.during": lambda m, **on: m.spatiotemporal.during(ALWAYS, **on),
    "spatiotemporal.hierarchy": lambda m, **on: m.spatiotemporal.hierarchy(**on),
    "spatiotemporal.near": lambda m, **on: m.spatiotemporal.near(POINT, 1e6, **on),
    "spatiotemporal.nearest": lambda m, **on: m.spatiotemporal.nearest(POINT, **on),
    "spatiotemporal.overlapping": lambda m, **on: m.spatiotemporal.overlapping(ALWAYS, **on),
    "spatiotemporal.within": lambda m, **on: m.spatiotemporal.within(BOX, **on),
    "spatiotemporal.timeline": lambda m, **on: m.spatiotemporal.timeline(
        on.pop("owner_type", "episode"), on.pop("owner_id", new_id()), **on
    ),
    "spatiotemporal.trajectory": lambda m, **on: m.spatiotemporal.trajectory(on.pop("episode_id", new_id()), **on),
    "summaries.summarize_many": lambda m, **on: m.summaries.summarize_many(**on),
    "analytics.attribution": lambda m, **on: m.analytics.attribution(**on),
    "analytics.by": lambda m, **on: m.analytics.by(on.pop("dimension", "tool"), **on),
    "analytics.by_stage": lambda m, **on: m.analytics.by_stage(**on),
    "analytics.compare": lambda m, **on: m.analytics.compare(ALL_TIME, ALL_TIME, **on),
    "analytics.effectiveness": lambda m, **on: m.analytics.effectiveness(**on),
    "analytics.failures": lambda m, **on: m.analytics.failures(**on),
    "analytics.over_time": lambda m, **on: m.analytics.over_time(**on),
    "analytics.sequences": lambda m, **on: m.analytics.sequences(**on),
    "analytics.span": lambda m, **on: m.analytics.span(**on),
    "analytics.tools": lambda m, **on: m.analytics.tools(**on),
    "analytics.trend": lambda m, **on: m.analytics.trend(**on),
    "analytics.unused": lambda m, **on: m.analytics.unused(since=ALL_TIME[1], **on),
}
OF_ONE_KIND = {"task_type", "complexity", "outcome", "kind", "cursor", "direction", "tz", "by", "unit", "dimension"}
OF_ONE_KIND |= {"owner_type", "owner_id", "episode_id", "child_of", "recalled", "used"}


def _answered(run: Callable[..., Any], name: str, ground: Ground) -> None:
    value = {"tags_any": [ground.text], "tags_all": [ground.text], "metadata": {ground.text: ground.text}}
    run(ground.memory, **{name: value.get(name, ground.text)})


def _add_answers() -> None:
    kinds = {
        "patterns": ms.PatternRepository,
        "spatiotemporal": ms.SpatiotemporalRepository,
        "summaries": ms.SummaryRepository,
    }
    for method, run in ANSWERS.items():
        kind, name = method.split(".")
        for argument in _arguments(getattr(kinds.get(kind, ms.AnalyticsRepository), name)):
            CASES[f"{method}.{argument}"] = partial(_answered, run, argument)
            if argument in OF_ONE_KIND:
                REFUSED.add(f"{method}.{argument}")


def _acting_as(g: Ground) -> None:
    saved = g.storage.acting_as(g.text).in_namespace(f"acting {g.number}").episodes.save(_episode_of("t"))
    assert g.storage.in_namespace(f"acting {g.number}").episodes.get(saved.id) == saved


def _forget_namespace(g: Ground) -> None:
    memory = g.storage.in_namespace(g.text)
    memory.episodes.save(ms.Episode(task_description="t"))
    g.storage.forget(namespace=g.text, scrub=False)
    assert memory.episodes.count(archived=None) == 0


_add_filters()
_add_recalls()
_add_ids()
_add_writes()
_add_relationships()

# These have a test of their own; or take SQL, or statements of the package, which are no data.
ELSEWHERE = {"storage.open.database", "storage.open.auth_token", "storage.run.work", "storage.open.now"}
ELSEWHERE |= {f"storage.open.{name}" for name in ("sync_url", "sync_mode", "embedder", "embed")}
OF_STATEMENTS = {
    *(f"transaction.{name}" for name in ("audit.name", "audit.call", "audit.things", "look.batch")),
    "transaction.read.step",
    "transaction.write.steps",
    "transaction.write.again",
}


def _methods(storage: ms.MemoryStorage) -> Iterator[tuple[str, Callable[..., Any]]]:
    kinds = {name: type(getattr(storage, name)) for name in REPOSITORIES}
    kinds |= {"index": VectorIndex, "storage": ms.MemoryStorage, "transaction": ms.Transaction}
    for kind, cls in kinds.items():
        defined = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        for name in sorted(defined):  # not by getmembers: the old names warn
            if not name.startswith("_") and isinstance(defined[name], FunctionType | classmethod):
                yield f"{kind}.{name}", getattr(cls, name)


def _arguments(method: Callable[..., Any]) -> Iterator[str]:
    for name, parameter in inspect.signature(method).parameters.items():
        declared = str(parameter.annotation)
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from _filters_of(declared)
        elif name != "self" and declared not in NO_STRINGS:
            yield name


def _filters_of(declared: str) -> Iterator[str]:
    kinds = {kind.__name__: kind for kind in (EpisodeFilters, SearchFilters, PatternFilters, RecallFilters)}
    found = re.search(r"Unpack\[(?:models\.)?(\w+)\]", declared)
    assert found, declared
    for name, hint in get_type_hints(kinds[found[1]]).items():
        if any(word in str(hint) for word in ("str", "Literal", "Enum", "TaskType", "Complexity")):
            yield name


_add_answers()


def test_every_string_argument_of_every_public_method_has_a_case():
    with ms.MemoryStorage.open(":memory:") as storage:
        found = {f"{name}.{argument}" for name, method in _methods(storage) for argument in _arguments(method)}
    assert found - ELSEWHERE - OF_STATEMENTS == set(CASES)


def test_there_are_enough_of_them():
    assert len(set(HOSTILE)) == len(HOSTILE) >= 200


@pytest.mark.slow
@pytest.mark.whole_database
@pytest.mark.parametrize(
    ("target", "part"),
    [*(("memory", part) for part in range(PARTS)), ("server", 0)],
    indirect=["target"],
)
def test_a_hostile_string_is_stored_and_found_as_data_or_refused(storage, part):
    tables = _objects(storage)
    accepted: Counter[str] = Counter()
    repeated = {*_MODEL_CASES[1:], *_EMBEDDER_CASES[1:], *_ITEM_CASES[1:], *_ITEM_MODEL_CASES[1:]}
    repeated |= {*_ITEM_FILTER_CASES[1:], *_LOG_CASES[1:], *_RELATIONSHIP_CASES[1:]}
    distinct = {name: case for name, case in CASES.items() if name not in repeated}
    first = random.randrange(EVERY)  # pytest-randomly seeds it: another one in the next run
    for number, text in enumerate(HOSTILE[part::PARTS], first):
        ground = Ground(storage, number, text)
        for name, case in list(distinct.items())[number % EVERY :: EVERY]:
            try:
                case(ground)
            except ms.ValidationError:
                continue
            except Exception as error:
                if name.endswith(".resolve_id.prefix") and type(error) is ms.NotFoundError:
                    continue  # it may be the first digits of an id
                raise AssertionError(f"{name} with {text[:60]!r}: {error!r}") from error
            accepted[name] += 1
        for decoy, repository in zip(ground.decoys, (ground.memory.episodes, ground.memory.patterns), strict=True):
            assert repository.get(decoy.id) == decoy
    assert {name for name in distinct if not accepted[name]} == REFUSED
    assert all(count > 5 for count in accepted.values()), accepted
    assert _objects(storage) == tables
    assert_consistent(storage.engine)


def _objects(storage: ms.MemoryStorage) -> set[str]:
    with storage.engine.connect() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars()
        # Each model has its own tables of vectors, and libSQL one of its own for their indexes.
        others = re.compile("vectors_|^(sqlite_autoindex_)?libsql_vector_meta_shadow|^sqlite_sequence$")
        return {name for name in names if not others.search(name)}


def test_a_hostile_string_is_the_name_of_a_file_or_refused(tmp_path: Path):
    opened = 0
    names = ["'", '"', "' OR '1'='1", "?", "%s", "a?mode=memory", "#fragment", "%27%20", "..x", "~", " a", "\u202eabc"]
    for number, text in enumerate([*names, "a\nb", "a\0b", "\ud800", "\U0001f600", "&& id", ":memory"]):
        place = tmp_path / str(number)
        place.mkdir()
        try:
            storage = ms.MemoryStorage.open(f"{place}/{text}")
        except (ms.ConfigurationError, ms.CorruptDataError):
            assert list(place.iterdir()) == [], text
            continue
        with storage:
            storage.episodes.save(ms.Episode(task_description="t"))
            assert {one.name for one in place.iterdir()} <= {text, f"{text}-wal", f"{text}-shm"}, text
        opened += 1
    assert opened >= 15


def test_a_hostile_token_or_key_is_refused_or_hidden():
    for text in HOSTILE:
        for options in ({"auth_token": text}, {"encryption_key": text}):
            for database in ("libsql://db.example.io", "memory.db"):
                shown = _shown(database, options)
                assert len(text) < 6 or text not in shown, text[:60]


def _shown(database: str, options: dict[str, Any]) -> str:
    try:
        return repr(ms.Settings(database=database, **options))
    except ms.ConfigurationError as error:
        return str(error)
