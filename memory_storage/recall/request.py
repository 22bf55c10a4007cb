"""The request of a recall, validated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from memory_storage.errors import ValidationError
from memory_storage.models import EpisodeFilter, RecallFilters, RecallWeights
from memory_storage.sql.validation import MAX_K, check_k, finite, function, instance, refuse_unstorable

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

    @property
    def wanted_failures(self) -> int:
        """How many failures to recall: half of `k`, if the caller leaves it open."""
        return (self.k + 1) // 2 if self.failures is None else self.failures

    @property
    def wanted_patterns(self) -> int:
        """How many patterns to recall: half of `k`, if the caller leaves it open."""
        return (self.k + 1) // 2 if self.patterns is None else self.patterns
