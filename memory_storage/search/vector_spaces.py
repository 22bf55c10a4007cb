"""The vector space of a namespace and model: looked up, and chosen for new vectors."""

from __future__ import annotations

from typing import NamedTuple

from memory_storage.errors import ValidationError
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.sql.session import SessionProtocol
from memory_storage.sql.validation import refuse_unstorable

from . import vector_sql as sql


class Stored(NamedTuple):
    """A vector space of a model, its dimension, and whether it holds the namespace's vectors."""

    space: VectorSpace
    dimension: int
    is_own: bool


class Choice(NamedTuple):
    """The vector space for new vectors, and whether it has to be created."""

    space: VectorSpace
    is_new: bool = False


def as_model_name(model: str) -> str:
    """Return the name of a model; ValidationError if it is not a string of 1 to 200 characters."""
    if not isinstance(model, str) or not 1 <= len(model) <= 200:
        raise ValidationError("model", "a name of 1 to 200 characters", model)
    refuse_unstorable("model", model)
    return model


def stored_spaces(session: SessionProtocol, model: str) -> list[Stored]:
    """Return the spaces of a model, over all namespaces."""
    rows = session.read(sql.SPACES.bind(namespace=session.namespace, model=model))
    return [Stored(VectorSpace.of(token, name, size), size, bool(is_own)) for token, name, size, is_own in rows]


def choose_space(session: SessionProtocol, model: str, dimension: int) -> Choice:
    """Return the space for new vectors of a dimension.

    Args:
        session: The session of the namespace.
        model: The name of the model.
        dimension: Numbers in each vector.

    Raises:
        ValidationError: the namespace has vectors of another dimension of this model.
    """
    spaces = stored_spaces(session, model)
    for one in spaces:
        if one.is_own and one.dimension != dimension:
            raise wrong_dimension(model, one.dimension, dimension)
    for one in sorted(spaces, key=lambda one: not one.is_own):
        if one.dimension == dimension:
            return Choice(one.space)
    first = VectorSpace(model)
    is_taken = any(one.space == first for one in spaces)
    return Choice(VectorSpace(model, dimension) if is_taken else first, is_new=True)


def wrong_dimension(model: str, dimension: int, value: int) -> ValidationError:
    """Return the error for a vector whose dimension is not that of the stored ones."""
    return ValidationError("vector", f"{dimension:,} numbers, as all vectors of {model!r} have", value)
