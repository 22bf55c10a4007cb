"""Records of CrewAI as items, and their embeddings as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pydantic

from memory_storage.errors import CorruptDataError, ValidationError
from memory_storage.integrations._packages import needs
from memory_storage.models import Item, PutItem
from memory_storage.models.model import as_validation_error
from memory_storage.schema import unpack_vector
from memory_storage.search.vectors import packed
from memory_storage.sql.validation import to_list

from .criteria import micros, scope_path
from .records import MEMORY_PATH, VECTOR_FIELD, VECTOR_MODEL

if TYPE_CHECKING:
    from crewai.memory.types import MemoryRecord


def require_crewai() -> None:
    """Import CrewAI's types. ConfigurationError if it is not installed."""
    problem = "MemoryStorageBackend needs CrewAI, version 1.15 or later: pip install 'memory-storage[crewai]'"
    with needs(problem, "crewai"):
        import crewai.memory.types  # noqa: F401 - here, so that the first call of a method does not take seconds


def put_of(field: str, record: Any) -> PutItem:
    """Return what stores a record.

    Args:
        field: The name that an error gives it.
        record: The record.

    Raises:
        ValidationError: It is no valid MemoryRecord.
    """
    from crewai.memory.types import MemoryRecord

    if not isinstance(record, MemoryRecord):
        raise ValidationError(field, "a MemoryRecord of CrewAI", record)
    fields = record.model_dump(exclude={"id", "embedding"}, warnings=False)
    try:  # `model_copy`, by which CrewAI updates records, does not validate: what is stored must be readable
        MemoryRecord.model_validate({**fields, "id": record.id})
    except pydantic.ValidationError as error:
        problem = as_validation_error(error)
        raise ValidationError(f"{field}.{problem.field}", problem.limit, problem.value) from error
    for name in ("created_at", "last_accessed"):
        fields[name] = fields[name].isoformat()
    value = {
        **fields,
        # What the filters compare.
        "scope_path": scope_path(f"{field}.scope", record.scope),
        "created": micros(f"{field}.created_at", record.created_at),
    }
    vector = as_vector(f"{field}.embedding", record.embedding or ())
    vectors = {} if vector is None else {VECTOR_FIELD: vector}
    return PutItem(path=MEMORY_PATH, key=record.id, value=value, vectors=vectors, model=VECTOR_MODEL)


def record_of(item: Item, vector: bytes | None = None) -> MemoryRecord:
    """Return the record of an item.

    Args:
        item: The item.
        vector: Its packed vector; None for a record without an embedding.

    Raises:
        CorruptDataError: Its value is no record.
    """
    from crewai.memory.types import MemoryRecord

    try:
        record = MemoryRecord.model_validate({**fields_of(item), "id": item.key})
    except pydantic.ValidationError as error:
        raise corrupt(item) from error
    record.embedding = None if vector is None else unpack_vector(vector)
    return record


def fields_of(item: Item) -> dict[str, Any]:
    """Return the value of the item of a record; CorruptDataError if it is none."""
    if not isinstance(item.value, dict):
        raise corrupt(item)
    return item.value


def corrupt(item: Item) -> CorruptDataError:
    """Return the error for an item at the path of the records that is none."""
    return CorruptDataError(f"items: {item.key!r} is no record of CrewAI", table="items", id=item.key)


def as_vector(field: str, vector: Any) -> Sequence[float] | None:
    """Return an embedding as 32-bit floats; None without a number that is not zero: it has no direction.

    Args:
        field: The name that an error gives it.
        vector: The numbers.

    Raises:
        ValidationError: They are no finite numbers, or too many.
    """
    numbers = to_list(vector, field)
    return memoryview(packed(numbers, field)).cast("f") if any(numbers) else None


def mismatch(stored: int, dimension: int) -> ValueError:
    """Return CrewAI's error for an embedding of another dimension.

    Args:
        stored: The dimension of the stored ones.
        dimension: That of the embedding.
    """
    from crewai.memory.storage.backend import EmbeddingDimensionMismatchError

    error: ValueError = EmbeddingDimensionMismatchError(stored, dimension)
    return error
