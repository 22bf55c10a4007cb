"""The vectors of a namespace: validated and packed, and the vector space in which those of a model are stored."""

from __future__ import annotations

import math
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Set
from functools import lru_cache
from typing import Any, NamedTuple

from memory_storage.errors import ValidationError
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.schema.vectors import MAX_DIMENSION
from memory_storage.sql.session import SessionProtocol
from memory_storage.sql.validation import refuse_unstorable

from . import vector_sql as sql

LONGEST = 1e15
"""The largest Euclidean norm of a vector; its inverse is the smallest: the engine squares norms as 32-bit floats."""

_REMEMBERED = 1_000  # vector spaces


def packed(vector: Any, field: str = "vector") -> bytes:
    """Return a vector as little-endian 32-bit floats.

    Args:
        vector: A sequence of numbers, or a one-dimensional array or buffer of 32-bit or 64-bit floats.
        field: The name that an error gives it.

    Raises:
        ValidationError: not a sequence of numbers, empty or too long, NaN or infinite, or a norm out of range.
    """
    # They can be iterated, but their items are no coordinates: bytes, keys, or members without an order.
    if isinstance(vector, str | bytes | bytearray | Mapping | Set):
        raise ValidationError(field, "a sequence of numbers", vector)
    try:
        data = _as_floats(vector)
        dimension, length = len(data) // 4, math.hypot(*memoryview(data).cast("f"))
    except (TypeError, OverflowError, ValueError) as error:
        raise ValidationError(field, "a sequence of numbers", vector) from error
    if not 1 <= dimension <= MAX_DIMENSION:
        raise ValidationError(field, f"1 to {MAX_DIMENSION:,} numbers", dimension)
    if not math.isfinite(length):
        raise ValidationError(field, "finite 32-bit numbers only", "NaN or infinity")
    if not 1 / LONGEST <= length <= LONGEST:
        raise ValidationError(field, f"a length from {1 / LONGEST:g} to {LONGEST:g}", length)
    return data


def _as_floats(vector: Any) -> bytes:
    # An array of floats is copied as a whole, without converting each number in Python.
    try:
        view = memoryview(vector)
    except TypeError:
        return array("f", vector).tobytes()
    if view.ndim == 1 and view.format in {"f", "<f"}:
        return view.tobytes()
    if view.ndim == 1 and view.format in {"d", "<d"}:
        return array("f", array("d", view.tobytes())).tobytes()
    return array("f", vector).tobytes()


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
    # Namespaces share the space of a dimension; the namespace's own one goes first.
    for one in sorted(spaces, key=lambda one: not one.is_own):
        if one.dimension == dimension:
            return Choice(one.space)
    first = VectorSpace(model)
    is_taken = any(one.space == first for one in spaces)
    return Choice(VectorSpace(model, dimension) if is_taken else first, is_new=True)


def wrong_dimension(model: str, dimension: int, value: int) -> ValidationError:
    """Return the error for a vector whose dimension is not that of the stored ones."""
    return ValidationError("vector", f"{dimension:,} numbers, as all vectors of {model!r} have", value)


class KnownSpaces:
    """A cache of the vector space of each namespace and model, where it is not the model's first. Thread-safe.

    An entry is a guess: another process may have deleted a namespace's vectors and stored others. Each statement that
    uses a space reports whether it is the namespace's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._variants: OrderedDict[tuple[str, str], VectorSpace] = OrderedDict()

    def guess(self, namespace: str, model: str) -> VectorSpace:
        """Return the space to try first."""
        return self._variants.get((namespace, model)) or _first_space(model)

    def look_up(self, session: SessionProtocol, model: str) -> Stored | None:
        """Read the space of the vectors of a model in the session's namespace, and learn it; None if it has none."""
        found = next((one for one in stored_spaces(session, model) if one.is_own), None)
        if found is not None:
            self.learn(session.namespace, found.space)
        return found

    def learn(self, namespace: str, space: VectorSpace) -> None:
        """Store the space of a namespace, replacing that of the same model."""
        key = namespace, space.model
        # The first space is the guess for a namespace without an entry.
        if space.variant is None and key not in self._variants:
            return
        with self._lock:
            self._variants.pop(key, None)
            if space.variant is not None:
                self._variants[key] = space
            if len(self._variants) > _REMEMBERED:
                self._variants.popitem(last=False)


@lru_cache(maxsize=_REMEMBERED)
def _first_space(model: str) -> VectorSpace:
    # Each search and each write asks for it, and hashes it for its statement: its token is a digest, computed once.
    return VectorSpace(model)
