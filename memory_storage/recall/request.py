"""The request of a recall, validated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from memory_storage.errors import ValidationError
from memory_storage.models import (
    AnyPattern,
    Episode,
    EpisodeFilter,
    PatternFilter,
    RecallFilters,
    RecallKind,
    RecallWeights,
)
from memory_storage.sql.validation import MAX_K, check_k, finite, flag, function, instance, refuse_unstorable

from .tokens import estimate_tokens


@dataclass(frozen=True)
class RecallRequest:
    """A recall as the caller requested it; see `MemoryStorage.recall`.

    Raises:
        ValidationError: A field is invalid; names the field, the limit and the value.
    """

    task: str
    k: int = 5
    budget_tokens: int = 2_000
    count_tokens: Callable[[str], int] = estimate_tokens
    weights: RecallWeights = field(default_factory=RecallWeights)
    diversity: float = 0.3
    failures: int | None = None
    patterns: int | None = None
    explore: int | Random | None = None
    keep: bool = False
    filters: RecallFilters = field(default_factory=RecallFilters)

    def __post_init__(self) -> None:
        if not isinstance(self.task, str) or not self.task.strip():
            raise ValidationError("task", "a text that says what is to be done", self.task)
        refuse_unstorable("task", self.task)
        check_k(self.k)
        if type(self.budget_tokens) is not int or self.budget_tokens < 0:
            raise ValidationError("budget_tokens", "a whole number from 0", self.budget_tokens)
        function("count_tokens", self.count_tokens, "lambda text: len(encoding.encode(text))")
        instance("weights", self.weights, RecallWeights, "RecallWeights(similarity=1.0, reward=0.2, recency=0.1)")
        self._check_explore()
        flag("keep", self.keep)
        if not 0 <= finite("diversity", self.diversity) <= 1:
            raise ValidationError("diversity", "a number from 0 to 1", self.diversity)
        for name in ("failures", "patterns"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 0 <= value <= MAX_K):
                raise ValidationError(name, f"a whole number from 0 to {MAX_K:,}, or None", value)
        for name in ("outcome", "completed", "text"):
            if name in self.filters:
                raise ValidationError(name, "no filter of a recall, which reads both successes and failures", name)
        EpisodeFilter(**self.filters)

    def _check_explore(self) -> None:
        if self.explore is None:
            return
        if isinstance(self.explore, bool) or not isinstance(self.explore, int | Random):
            raise ValidationError("explore", "a seed (a whole number), a random.Random, or None", self.explore)
        if not self.weights.effectiveness:
            limit = "only with weights whose effectiveness is above 0, like RecallWeights(effectiveness=0.5)"
            raise ValidationError("explore", limit, self.explore)

    @property
    def explore_with(self) -> Random | None:
        """The generator to draw success rates with; None if their means are taken."""
        return Random(self.explore) if isinstance(self.explore, int) else self.explore  # noqa: S311 - no secret

    @property
    def counts(self) -> dict[RecallKind, int]:
        """How many records of each kind are wanted, in the order of the text."""
        half = (self.k + 1) // 2
        return {
            "success": self.k,
            "failure": half if self.failures is None else self.failures,
            "pattern": half if self.patterns is None else self.patterns,
        }

    def filter(self, kind: RecallKind) -> EpisodeFilter | PatternFilter:
        """Return the filter of a kind of records."""
        if kind == "pattern":  # the search takes the nearest ones: those of other domains would take the places
            return PatternFilter(domain_or_general=self.filters.get("domain"))
        return EpisodeFilter(**self.filters, outcome=kind)

    def allows(self, item: Episode | AnyPattern) -> bool:
        """Return whether a record may be recalled: a pattern of the requested domain, language and framework, or none.

        Episodes have been filtered. A pattern of several domains is of the domain "general".
        """
        if isinstance(item, Episode):
            return True
        context = item.context
        return all(
            self.filters.get(name) in (None, getattr(context, name)) or getattr(context, name) is None
            for name in ("language", "framework")
        )
