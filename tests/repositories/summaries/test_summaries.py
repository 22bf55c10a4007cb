"""A summary is stored with its episode, found by its words, embedded, and goes where the episode goes."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given

import memory_storage as ms
from memory_storage.embedders import text_of
from memory_storage.exporters.markdown import Markdown
from memory_storage.exporters.notes import Notes, used_fields
from memory_storage.importers import export_lines, import_stream
from memory_storage.models import new_id
from tests import strategies
from tests.backends import in_memory
from tests.checks import assert_consistent
from tests.raising import raises

TEXT = "The clockwork was frozen, and the login test passed."


@pytest.fixture
def episode(storage):
    steps = [ms.Step(tool="pytest", result=ms.StepError(message="1 failed")), ms.Step(tool="edit")]
    return storage.episodes.save(ms.Episode(task_description="Fix the login", steps=steps))


@dataclass
class Recording:
    """A summarizer that does something else while it works."""

    interfere: Callable[[ms.Episode], object] = lambda episode: None
    texts: list[str] = field(default_factory=list)

    def summarize(self, episode: ms.Episode) -> ms.EpisodeSummary:
        self.interfere(episode)
        self.texts.append(f"{len(episode.steps)} steps of {episode.task_description}")
        return ms.EpisodeSummary(text=self.texts[-1], created_by="Recording")


class Embedded:
    """An embedder that keeps the texts."""

    model = "embedded"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts):
        self.texts += texts
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text):
        return [1.0, 0.0]


def test_a_summary_is_read_back_with_its_episode(storage, episode):
    stored = storage.summaries.put(episode.id, TEXT, key_steps=["1: pytest"], key_concepts=["clock"], created_by="me")
    assert (stored.text, stored.key_steps, stored.key_concepts) == (TEXT, ["1: pytest"], ["clock"])
    assert stored.created_by == "me"
    found = storage.episodes.get(episode.id)
    assert found.summary == storage.summaries.get(episode.id) == storage.summaries.find(str(episode.id)) == stored
    assert found == episode.model_copy(
        update={"summary": stored, "version": 2, "updated_at": found.updated_at, "steps": episode.steps}
    )
    assert [one.summary for one in storage.episodes.iterate()] == [stored]


def test_the_same_summary_again_changes_nothing(storage, episode):
    for _ in range(2):
        stored = storage.summaries.put(episode.id, TEXT, key_steps=["1: pytest"])
    again = storage.summaries.put(episode.id, TEXT, key_steps=["1: pytest"])
    assert again == stored
    assert storage.episodes.get(episode.id).version == 2
    assert storage.summaries.put(episode.id, TEXT).key_steps == []
    assert storage.episodes.get(episode.id).version == 3


def test_a_stale_copy_does_not_remove_a_summary(storage, episode):
    storage.summaries.put(episode.id, TEXT)
    with raises(ms.ConflictError):
        storage.episodes.save(episode.model_copy(update={"tags": ["stale"]}))
    fresh = storage.episodes.save(storage.episodes.get(episode.id).model_copy(update={"tags": ["fresh"]}))
    assert fresh.summary.text == TEXT


def test_completing_keeps_the_summary_and_its_words(storage, episode):
    storage.summaries.put(episode.id, "Schöne 時計は止まった clockwork")
    for insights in (["plain"], ["日本語"], []):
        completed = storage.episodes.complete(
            episode.id, ms.Success(verdict="v"), reflection=ms.Reflection(insights=insights)
        )
        assert completed.summary.text == "Schöne 時計は止まった clockwork"
        for text in ("clockwork", "止まった", *insights):
            assert storage.episodes.count(text=text) == 1
    assert_consistent(storage.engine)


@pytest.mark.parametrize("text", ["clockwork", "schon", "止まった", '"frozen clockwork"', "keystep", "concept"])
def test_an_episode_is_found_by_the_words_of_its_summary(storage, episode, text):
    summary = {"key_steps": ["1: keystep"], "key_concepts": ["concept"]}
    storage.summaries.put(episode.id, "schön: 時計は止まった. The frozen clockwork", **summary)
    assert storage.episodes.count(text=text) == 1
    assert [hit.item.id for hit in storage.episodes.search(text.strip('"'))] == [episode.id]
    storage.summaries.put(episode.id, "another")
    assert storage.episodes.count(text=text) == 0
    assert_consistent(storage.engine)


def test_no_phrase_crosses_from_the_reflection_to_the_summary(storage, episode):
    storage.episodes.complete(
        episode.id, ms.Success(verdict="v"), reflection=ms.Reflection(insights=["read the real clock"])
    )
    storage.summaries.put(episode.id, "Frozen at noon")
    assert storage.episodes.count(text='"clock frozen"') == 0
    assert storage.episodes.count(text='"real clock" "frozen at"') == 1


def test_a_summary_is_deleted_with_its_words(storage, episode):
    storage.summaries.put(episode.id, f"{TEXT} 時計は止まった")
    assert storage.summaries.delete(episode.id) is True
    assert storage.summaries.delete(episode.id) is False
    assert storage.summaries.find(episode.id) is None
    assert storage.episodes.get(episode.id).summary is None
    assert storage.episodes.count(text="clockwork") == storage.episodes.count(text="止まった") == 0
    with raises(ms.NotFoundError):
        storage.summaries.get(episode.id)
    assert_consistent(storage.engine)


def test_an_episode_that_does_not_exist_has_no_summary(storage):
    missing = new_id()
    assert storage.summaries.find(missing) is None
    assert storage.summaries.delete(missing) is False
    for call in (
        lambda: storage.summaries.put(missing, TEXT),
        lambda: storage.summaries.get(missing),
        lambda: storage.summaries.summarize(missing),
    ):
        with raises(ms.NotFoundError) as caught:
            call()
        assert str(missing) in str(caught.value)


@in_memory
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"text": ""}, "text"),
        ({"text": " \n"}, "text"),
        ({"text": 5}, "text"),
        ({"text": "a\0"}, "text"),
        ({"text": "t", "key_steps": "one text"}, "key_steps"),
        ({"text": "t", "key_steps": [5]}, "key_steps.0"),
        ({"text": "t", "key_concepts": None}, "key_concepts"),
        ({"text": "t", "created_by": None}, "created_by"),
    ],
    ids=str,
)
def test_what_is_no_summary_is_refused_by_name(storage, episode, arguments, name):
    with raises(ms.ValidationError, field=name):
        storage.summaries.put(episode.id, **arguments)
    assert storage.episodes.get(episode.id) == episode


def test_a_summary_above_its_limit_is_refused(storage, episode):
    parts = {"text": "t" * 19_000, "key_steps": ["s" * 500], "key_concepts": ["c" * 494], "created_by": "caller"}
    assert storage.summaries.put(episode.id, **parts).key_steps == ["s" * 500]
    for call in (
        lambda: storage.summaries.put(episode.id, **{**parts, "key_steps": ["s" * 501]}),
        lambda: storage.episodes.save(
            ms.Episode(task_description="d", summary=ms.EpisodeSummary(**{**parts, "text": "t" * 19_001}))
        ),
    ):
        with raises(ms.ValidationError, field="summary", value=20_001, setting="limits.summary"):
            call()


def test_an_episode_that_would_be_too_large_is_refused(storage):
    limits = {"document_bytes": 3_000}
    small = ms.MemoryStorage(storage.engine, storage.settings.model_copy(update={"limits": ms.Limits(**limits)}))
    small = small.in_namespace(storage.namespace)
    episode = small.episodes.save(ms.Episode(task_description="d" * 2_000))
    for call in (
        lambda: small.summaries.put(episode.id, "t" * 1_000),
        lambda: small.summaries.summarize(episode.id, ms.ExtractiveSummarizer(max_chars=2_000)),
        lambda: small.summaries.summarize_many(ms.ExtractiveSummarizer(max_chars=2_000)),
    ):
        with raises(ms.ValidationError, field="document", setting="limits.document_bytes"):
            call()
    assert small.episodes.get(episode.id) == episode
    # As large as it may be, to the byte, and replaced by one that is no larger.
    document = "SELECT octet_length(document) FROM episodes WHERE id = ?"
    small.summaries.put(episode.id, "t")
    with small.transaction() as tx:
        room = 3_000 - tx.execute([(document, [str(episode.id)])])[0][0][0]
    assert small.summaries.put(episode.id, "t" * (room + 1)).text == "t" * (room + 1)
    fitting = Recording()
    fitting.summarize = lambda episode: ms.EpisodeSummary(text="u" * (room + 1), created_by="caller")
    assert small.summaries.summarize(episode.id, fitting).text == "u" * (room + 1)
    with raises(ms.ValidationError, field="document"):
        small.summaries.put(episode.id, "t" * (room + 2))


def test_an_episode_is_summarized_by_its_own_sentences(storage, episode):
    summary = storage.summaries.summarize(episode.id)
    assert summary == storage.summaries.get(episode.id)
    assert summary.created_by == "ExtractiveSummarizer"
    assert summary.text == "Fix the login\n1 failed"
    assert summary.key_steps == ["1: pytest → failed: 1 failed", "2: edit"]
    version = storage.episodes.get(episode.id).version
    assert storage.summaries.summarize(episode.id) == summary
    assert storage.episodes.get(episode.id).version == version == 2


@pytest.mark.parametrize("change", ["a step", "the description", "a deleted step"])
def test_what_changed_during_the_call_is_summarized_again(storage, episode, change):
    def interfere(read):
        if summarizer.texts:
            return
        if change == "a step":
            storage.episodes.append_step(episode.id, ms.Step(tool="late"))
        elif change == "a deleted step":
            storage.steps.delete(read.steps[-1].id)
        else:
            storage.episodes.save(read.model_copy(update={"task_description": "changed"}))

    summarizer = Recording(interfere)
    summary = storage.summaries.summarize(episode.id, summarizer)
    count = {"a step": 3, "the description": 2, "a deleted step": 1}[change]
    task = "changed" if change == "the description" else "Fix the login"
    assert summarizer.texts == ["2 steps of Fix the login", f"{count} steps of {task}"]
    assert storage.summaries.get(episode.id) == summary
    assert summary.text == summarizer.texts[-1]


def test_an_episode_that_keeps_changing_is_a_conflict(storage, episode):
    summarizer = Recording(lambda read: storage.episodes.append_step(episode.id, ms.Step(tool="late")))
    with raises(ms.ConflictError, match="3 times while it was summarized", id=episode.id):
        storage.summaries.summarize(episode.id, summarizer)
    assert len(summarizer.texts) == 3
    assert storage.summaries.find(episode.id) is None


def test_an_episode_that_is_deleted_during_the_call_is_not_found(storage, episode):
    with raises(ms.NotFoundError):
        storage.summaries.summarize(episode.id, Recording(lambda read: storage.episodes.delete(read.id)))


def test_the_summarizer_runs_in_no_transaction(storage, episode):
    with storage.transaction() as tx:
        for call in (lambda: tx.summaries.summarize(episode.id), lambda: tx.summaries.summarize_many()):
            with raises(ms.ValidationError, field="summarizer"):
                call()
        tx.summaries.put(episode.id, TEXT)
    assert storage.summaries.get(episode.id).text == TEXT
    other = storage.episodes.save(ms.Episode(task_description="other"))
    writes = Recording(lambda read: storage.episodes.archive(other.id))  # which a transaction would block
    assert storage.summaries.summarize(episode.id, writes).created_by == "Recording"


@in_memory
def test_what_cannot_summarize_is_refused(storage, episode):
    for wrong in (ms.ExtractiveSummarizer, len, "x", object):
        with raises(ms.ValidationError, field="summarizer"):
            storage.summaries.summarize(episode.id, wrong)
    returning = Recording()
    for wrong in ("a text", None, {"text": "t"}):
        returning.summarize = lambda episode, wrong=wrong: wrong
        with raises(ms.ValidationError, field="summary"):
            storage.summaries.summarize(episode.id, returning)
    returning.summarize = lambda episode: ms.EpisodeSummary(text=" ")
    with raises(ms.ValidationError, field="text"):
        storage.summaries.summarize(episode.id, returning)
    with raises(ZeroDivisionError):  # its own error is the caller's
        storage.summaries.summarize(episode.id, Recording(lambda read: 1 / 0))
    assert storage.episodes.get(episode.id) == episode


def test_all_episodes_of_a_filter_are_summarized_in_batches(storage):
    saved = storage.episodes.save_many([ms.Episode(task_description=f"task {n}", tags=["all"]) for n in range(230)])
    storage.episodes.save(ms.Episode(task_description="another"))
    kept = storage.summaries.put(saved[7].id, "by hand")
    seen = []
    assert storage.summaries.summarize_many(progress=lambda *facts: seen.append(facts), tags_all=["all"]) == 229
    assert seen == [("summarized", 100, 100), ("summarized", 200, 200), ("summarized", 229, 229)]
    assert storage.summaries.get(saved[7].id) == kept
    found = {one.id: one.summary for one in storage.episodes.iterate()}
    assert [found[one.id].text for one in saved if one.id != saved[7].id] == [f"task {n}" for n in range(230) if n != 7]
    assert sum(one is None for one in found.values()) == 1
    assert storage.summaries.summarize_many(tags_all=["all"]) == 0
    assert storage.summaries.summarize_many(tags_all=["all"], replace=True) == 1
    assert storage.summaries.get(saved[7].id).text == "task 7"
    assert_consistent(storage.engine)


def test_episodes_that_change_or_vanish_during_a_batch_are_right(storage):
    saved = storage.episodes.save_many([ms.Episode(task_description=f"task {n}") for n in range(3)])

    def interfere(read):
        if read.id == saved[0].id and len(read.steps) < 1:
            storage.episodes.append_step(read.id, ms.Step(tool="late"))
        if read.id == saved[1].id:
            storage.episodes.delete(read.id)

    assert storage.summaries.summarize_many(Recording(interfere)) == 2
    assert storage.summaries.get(saved[0].id).text == "1 steps of task 0"
    assert storage.summaries.get(saved[2].id).text == "0 steps of task 2"


def test_a_summary_is_embedded_and_its_absence_is_not(storage):
    bare = ms.Episode(task_description="d", tags=["t"], outcome=ms.Success(verdict="v"))
    assert text_of(bare) == "d\ngeneral t\nv"  # as before there were summaries: no vector becomes stale
    full = bare.model_copy(update={"summary": ms.EpisodeSummary(text="s", key_steps=["k"], key_concepts=["c"])})
    assert text_of(full) == "d\ngeneral t\nv\ns\nc\nk"
    embedder = Embedded()
    settings = storage.settings.model_copy(update={"embed": "on_save"})
    embedding = ms.MemoryStorage(storage.engine, settings, embedder=embedder).in_namespace(storage.namespace)
    episode = embedding.episodes.save(ms.Episode(task_description="Fix the login"))
    embedding.summaries.put(episode.id, TEXT)
    embedding.summaries.put(episode.id, TEXT)
    embedding.summaries.summarize(episode.id, Recording())
    embedding.summaries.summarize_many(ms.ExtractiveSummarizer(), replace=True)
    embedding.summaries.delete(episode.id)
    ends = [text.removeprefix("Fix the login\ngeneral") for text in embedder.texts]
    assert ends == ["", f"\n{TEXT}", "\n0 steps of Fix the login", "\nFix the login\nfix\nlogin", ""]


def test_a_summary_is_exported_and_imported(storage, episode):
    summary = storage.summaries.put(episode.id, TEXT, key_steps=["1"], key_concepts=["c"], created_by="me")
    lines = io.BytesIO()
    for line in export_lines(storage):
        lines.write(line.encode() if isinstance(line, str) else line)
    other = storage.in_namespace(f"{storage.namespace} copy")
    import_stream(other, io.BytesIO(lines.getvalue()))
    assert other.summaries.get(episode.id) == summary
    assert other.episodes.count(text="clockwork") == 1
    other.episodes.delete(episode.id)


@given(summary=strategies.summaries())
def test_any_summary_is_read_back_equal(storage, summary):
    saved = storage.episodes.save(ms.Episode(task_description="d", summary=summary))
    assert storage.episodes.get(saved.id) == saved
    assert storage.summaries.get(saved.id) == saved.summary == summary
    if summary.text.strip():
        storage.summaries.delete(saved.id)
        fields = summary.model_dump(exclude={"created_at"})
        stored = storage.summaries.put(saved.id, **fields)
        assert stored.model_dump(exclude={"created_at"}) == fields
        assert storage.episodes.get(saved.id).summary == storage.summaries.put(saved.id, **fields) == stored


def test_a_summary_says_more_than_some_of_the_steps():
    steps = [ms.Step(tool="tool", action=f"action {n}", step_number=n) for n in range(1, 101)]
    summary = ms.EpisodeSummary(text="It was `frozen`", key_steps=["7: <b>key</b>"], key_concepts=["ice"])
    episode = ms.Episode(task_description="d", steps=steps, summary=summary)
    complete = episode.to_markdown()
    assert "- Summary: It was \\`frozen\\`\n- Key steps:\n  - 7: &lt;b>key&lt;/b>\n- Key concepts: ice\n" in complete
    assert complete.count("action") == 100
    shorter = episode.to_markdown(max_chars=1_000)
    assert shorter.endswith("- Summary: It was \\`frozen\\`\n- Key steps:\n  - 7: &lt;b>key&lt;/b>")
    assert "action" not in shorter
    few = episode.model_copy(update={"steps": steps[:2]}).to_markdown(max_chars=1_000)
    assert "- Summary" in few
    assert few.count("action") == 2


def test_exports_show_the_summary():
    summary = ms.EpisodeSummary(text="# frozen", key_steps=["7: *key*"], key_concepts=["ice"], created_by="me")
    episode = ms.Episode(task_description="d", summary=summary)
    document = io.BytesIO()
    Markdown(document).write(episode, Notes())
    assert (
        "### Summary\n\n\\# frozen\n\n- key steps: 7: \\*key\\*\n- key concepts: ice\n" in document.getvalue().decode()
    )
    assert "summary" in used_fields(episode)  # what other formats say that they omit


def test_a_recall_shows_the_summary_within_its_budget(storage):
    steps = [ms.Step(tool="tool", action=f"did something {n}") for n in range(60)]
    episode = ms.Episode(task_description="Fix the login", steps=steps, outcome=ms.Success(verdict="v"))
    saved = storage.episodes.save(episode)
    before = str(storage.recall("Fix the login", budget_tokens=300))
    storage.summaries.put(saved.id, TEXT)
    recall = storage.recall("Fix the login", budget_tokens=300)
    assert recall.tokens <= 300
    assert TEXT not in before
    assert f"- Summary: {TEXT}" in str(recall)
    assert "steps that are not shown" not in str(recall)
