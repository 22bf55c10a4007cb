"""A recall: candidates are read, chosen, read with their steps, and laid out within the budget."""

from __future__ import annotations

from itertools import chain
from uuid import UUID

from memory_storage.models import Episode, Recall, RecallKind, new_id
from memory_storage.repositories.episodes.recalls import keep
from memory_storage.session import Session

from .candidates import read_candidates, with_steps
from .effectiveness import expected_success
from .layout import Block, lay_out
from .ranking import Choice, choose
from .request import RecallRequest


def recall(session: Session, request: RecallRequest) -> Recall:
    """Return what the namespace's memory has about a task, and remember the receipt.

    Args:
        session: The session of the namespace.
        request: The request.

    Returns:
        The recall; empty if there is nothing relevant, or the budget is too small for any of it.
    """
    now = session.now()
    candidates = read_candidates(session, request)
    expected: dict[UUID, float] | None = None
    if request.weights.effectiveness:
        expected = expected_success(
            chain.from_iterable(candidates.values()), request.explore_with, request.filters.get("domain")
        )
    choices: dict[RecallKind, list[Choice]] = {
        kind: choose(found, request.counts[kind], request.weights, request.diversity, now, expected)
        for kind, found in candidates.items()
    }
    chosen = [choice for found in choices.values() for choice in found]
    items = [choice.candidate.item for choice in chosen]
    episodes = with_steps(session, [item for item in items if isinstance(item, Episode)])
    blocks = [
        Block(choice, episodes.get(choice.candidate.item.id, choice.candidate.item), place)
        for found in choices.values()
        for place, choice in enumerate(found, start=1)
    ]
    page = lay_out(blocks, request.budget_tokens, request.count_tokens)
    made = Recall(
        id=new_id(),
        task=request.task,
        items=page.items,
        tokens=page.tokens,
        left_out=len(blocks) - len(page.items),
        namespace=session.namespace,
        _text=page.text,
    )
    session.recalls.add(made)
    if request.keep:
        keep(session, made)
    return made
