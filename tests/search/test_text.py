"""Full-text and hybrid search: matches, snippets, and the parts of a score."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms
from memory_storage.embedders import HashingEmbedder

NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)
TEXTS = (
    "refund a cancelled flight to Paris",
    "refund a flight, refund a bag",
    "change the seat on a flight",
    "book a hotel in Paris",
    "nothing of the kind",
)


@pytest.fixture
def storage(target):
    with ms.MemoryStorage.open(target, now=lambda: NOW) as opened:
        yield opened


@pytest.fixture
def episodes(storage) -> list[ms.Episode]:
    """One for each text, a week older each, better rewarded each; their vectors are those of their words."""
    saved = storage.episodes.save_many(
        [
            ms.Episode(
                task_description=text,
                started_at=NOW - timedelta(weeks=number),
                reward=ms.RewardScore(total=number / 4),
                outcome=ms.Success(verdict="v") if number % 2 else ms.Failure(reason="r"),
                steps=[ms.Step(tool="look", action=f"the word number{number} is only here")],
            )
            for number, text in enumerate(TEXTS)
        ]
    )
    storage.embeddings.embed(HashingEmbedder(64), text_of=lambda episode: episode.task_description)
    return saved


def _found(hits) -> list[str]:
    return [hit.item.task_description for hit in hits]


class TestWords:
    def test_any_of_them_finds_and_more_and_rarer_ones_count_more(self, storage, episodes):
        assert _found(storage.episodes.search("refund paris flight"))[0] == TEXTS[0]
        assert set(_found(storage.episodes.search("refund paris flight"))) == set(TEXTS[:4])

    def test_they_may_be_anywhere_in_an_episode(self, storage):
        where = {
            "description": {"task_description": "needle in hay"},
            "tag": {"tags": ["needle"]},
            "verdict": {"outcome": ms.Success(verdict="a needle")},
            "reflection": {"reflection": ms.Reflection(insights=["a needle"])},
            "step": {"steps": [ms.Step(tool="t", result=ms.StepOk(output="here is a needle in it"))]},
            "parameters": {"steps": [ms.Step(tool="t", parameters={"q": "needle"})]},
        }
        saved = {
            name: storage.episodes.save(ms.Episode(**{"task_description": name, **fields}))
            for name, fields in where.items()
        }
        hits = storage.episodes.search("needle")
        assert {hit.item.id for hit in hits} == {one.id for one in saved.values()}
        assert all("[needle]" in hit.snippet for hit in hits)

    def test_a_snippet_of_a_step_shows_the_first_that_has_it(self, storage, episodes):
        (hit,) = storage.episodes.search("number3")
        assert "[number3]" in hit.snippet
        assert hit.item == storage.episodes.get(episodes[3].id)

    def test_one_episode_is_one_hit_however_many_steps_have_the_word(self, storage):
        steps = [ms.Step(tool="t", action="needle needle") for _ in range(30)]
        storage.episodes.save(ms.Episode(task_description="needle", steps=steps))
        assert len(storage.episodes.search("needle")) == 1

    def test_scores_are_reciprocal_ranks(self, storage, episodes):
        hits = storage.episodes.search("refund paris flight", explain=True)
        assert [hit.score for hit in hits] == pytest.approx([61 / (61 + place) for place in range(4)])
        assert {(hit.method, hit.similarity) for hit in hits} == {("text", None)}
        assert hits.plan == ""

    def test_filters_hold(self, storage, episodes):
        assert _found(storage.episodes.search("paris", outcome="success")) == [TEXTS[3]]
        assert _found(storage.episodes.search("paris", until=NOW)) == [TEXTS[3]]
        storage.episodes.archive(episodes[3].id)
        assert _found(storage.episodes.search("paris", archived=True)) == [TEXTS[3]]
        assert _found(storage.episodes.search("paris")) == [TEXTS[0]]
        assert _found(storage.in_namespace("other").episodes.search("paris")) == []

    def test_a_change_is_found_at_once(self, storage, episodes):
        storage.episodes.save(episodes[4].model_copy(update={"task_description": "now about zebras"}))
        assert _found(storage.episodes.search("zebras")) == ["now about zebras"]
        assert _found(storage.episodes.search("kind")) == []

    @pytest.mark.parametrize("text", ["", "  ", "?!", "🎉", "absent"])
    def test_no_words_or_unknown_ones_find_nothing(self, storage, episodes, text):
        hits = storage.episodes.search(text)
        assert (list(hits), hits.next_cursor) == ([], None)


class TestHybrid:
    QUERY = "refund flight"

    def _options(self) -> dict:
        embedder = HashingEmbedder(64)
        return {"vector": embedder.embed_query("a hotel in Paris"), "model": embedder.model}

    def test_scores_are_fused_from_the_places_in_both_orders(self, storage, episodes):
        options = self._options()
        by_text = [hit.item.id for hit in storage.episodes.search(self.QUERY)]
        by_vector = [hit.item.id for hit in storage.episodes.similar_to(**options)]
        expected = {
            one.id: sum(61 / (61 + order.index(one.id)) for order in (by_text, by_vector) if one.id in order)
            for one in episodes
        }
        hits = storage.episodes.search(self.QUERY, **options)
        assert {hit.item.id: hit.score for hit in hits} == pytest.approx(expected)
        assert [hit.score for hit in hits] == sorted(expected.values(), reverse=True)
        assert ({hit.method for hit in hits}, hits.plan) == ({"hybrid"}, "exact")

    def test_the_parts_sum_to_the_score(self, storage, episodes):
        weights = ms.Weights(text=2.0, vector=0.5, recency=0.25, reward=0.125, half_life=7)
        hits = storage.episodes.search(self.QUERY, **self._options(), weights=weights, explain=True)
        assert len(hits) == 5
        for hit in hits:
            assert sum(hit.parts.values()) == pytest.approx(hit.score)
            weeks = (NOW - hit.item.started_at) / timedelta(weeks=1)
            assert hit.parts["recency"] == pytest.approx(0.25 / (1 + weeks))
            assert hit.parts.get("reward", 0.0) == pytest.approx(0.125 * hit.item.reward.total)
        assert max(hit.parts.get("text", 0.0) for hit in hits) == 2.0
        assert max(hit.parts["vector"] for hit in hits) == 0.5
        assert all(hit.parts is None for hit in storage.episodes.search(self.QUERY, **self._options()))

    def test_recency_and_reward_may_decide(self, storage, episodes):
        newest = storage.episodes.search("flight paris", weights=ms.Weights(text=0, recency=1))
        assert _found(newest) == list(TEXTS[:4])
        best = storage.episodes.search("flight paris", weights=ms.Weights(text=0, reward=1))
        assert _found(best) == list(TEXTS[3::-1])

    def test_a_reward_beyond_one_counts_as_one_and_a_loss_as_nothing(self, storage, episodes):
        for total in (-5.0, 7.0):
            storage.episodes.save(ms.Episode(task_description="odd", reward=ms.RewardScore(total=total)))
        hits = storage.episodes.search("odd", weights=ms.Weights(reward=1), explain=True)
        assert [hit.parts.get("reward", 0.0) for hit in hits] == [1.0, 0.0]

    def test_a_threshold_is_for_vectors(self, storage, episodes):
        options = self._options()
        hits = storage.episodes.search(self.QUERY, **options, min_similarity=0.99)
        assert {hit.item.id for hit in hits} == {hit.item.id for hit in storage.episodes.search(self.QUERY)}
        assert {hit.similarity for hit in hits} == {None}

    def test_an_embedder_makes_the_vector(self, storage, episodes):
        embedder = HashingEmbedder(64)
        hits = storage.episodes.search("a hotel in Paris", embedder=embedder)
        assert (hits[0].item.id, hits[0].method) == (episodes[3].id, "hybrid")
        same = {"vector": embedder.embed_query("a hotel in Paris"), "model": embedder.model}
        assert hits == storage.episodes.search("a hotel in Paris", **same)

    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_pages_have_no_gaps_and_no_repeats(self, storage, episodes, k):
        options = {**self._options(), "k": k}
        found, cursor = [], None
        for _ in range(9):
            hits = storage.episodes.search(self.QUERY, **options, cursor=cursor)
            found += [hit.item.id for hit in hits]
            cursor = hits.next_cursor
            if cursor is None:
                break
        assert len(found) == len(set(found))
        assert (
            found == [hit.item.id for hit in storage.episodes.search(self.QUERY, **{**options, "k": 5})][: len(found)]
        )


class TestPatterns:
    @pytest.fixture
    def patterns(self, storage) -> list:
        saved = storage.patterns.save_many(
            [
                ms.Heuristic(condition="a flaky test", action="retry it alone", success_rate=0.25),
                ms.ErrorRecovery(error_type="Timeout", recovery_steps=["wait", "retry"], success_rate=0.75),
                ms.ToolSequence(tools=["grep", "edit"], tags=["refactoring"], description="find, then change"),
                ms.DecisionPoint(condition="two ways", action="ask"),
                ms.ContextPattern(context_features=["monorepo"], recommended_approach="build one package"),
            ]
        )
        storage.embeddings.embed(HashingEmbedder(64), owner_type="pattern")
        return saved

    @pytest.mark.parametrize(
        ("text", "place"),
        [("flaky", 0), ("timeout", 1), ("wait", 1), ("grep", 2), ("refactoring", 2), ("ways", 3), ("monorepo", 4)],
    )
    def test_their_words_find_them(self, storage, patterns, text, place):
        (hit,) = storage.patterns.search(text)
        assert (hit.item, hit.method) == (patterns[place], "text")
        assert f"[{text}]" in hit.snippet.lower()

    def test_words_and_vectors_together(self, storage, patterns):
        hits = storage.patterns.search("retry", embedder=HashingEmbedder(64), explain=True)
        assert {hit.item.id for hit in hits[:2]} == {patterns[0].id, patterns[1].id}
        assert len(hits) == 5
        assert all(sum(hit.parts.values()) == pytest.approx(hit.score) for hit in hits)
        best = storage.patterns.search("retry", weights=ms.Weights(text=0, reward=1))
        assert [hit.item.success_rate for hit in best] == [0.75, 0.25]

    def test_filters_hold(self, storage, patterns):
        assert [hit.item.id for hit in storage.patterns.search("retry", kind="heuristic")] == [patterns[0].id]
        vector = HashingEmbedder(64).embed_query("retry")
        hits = storage.patterns.similar_to(vector, kind="heuristic")
        assert [hit.item.id for hit in hits] == [patterns[0].id]

    def test_a_change_or_deletion_is_found_at_once(self, storage, patterns):
        storage.patterns.save(patterns[0].model_copy(update={"action": "use a zebra"}))
        storage.patterns.delete(patterns[1].id)
        assert [hit.item.id for hit in storage.patterns.search("zebra retry")] == [patterns[0].id]
        assert len(storage.patterns.similar_to(HashingEmbedder(64).embed_query("retry"))) == 4
