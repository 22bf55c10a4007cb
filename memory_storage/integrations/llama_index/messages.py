"""LlamaIndex's messages, and the records of logs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pydantic
from llama_index.core.base.llms.types import ChatMessage
from pydantic_core import PydanticSerializationError

from memory_storage.errors import CorruptDataError, ValidationError
from memory_storage.models import LogRecord
from memory_storage.sql.validation import instance, refuse_unstorable, to_list

_log = logging.getLogger(__name__)


def encoded(messages: Sequence[ChatMessage]) -> list[Any]:
    """Return the JSON values of messages, as LlamaIndex serializes them.

    Raises:
        ValidationError: One is no message, has values that are no JSON, or text that cannot be stored.
    """
    return [_encoded(f"messages.{n}", one) for n, one in enumerate(to_list(messages, "messages"))]


def _encoded(at: str, message: ChatMessage) -> Any:
    instance(at, message, ChatMessage, "ChatMessage(content='...')")
    try:
        value = message.model_dump(mode="json")
    except (PydanticSerializationError, UnicodeError, RecursionError) as error:
        raise ValidationError(at, "a message whose values can be serialized as JSON", message) from error
    refuse_unstorable(at, value)
    return value


def decoded(record: LogRecord) -> ChatMessage:
    """Return the message of a record.

    Raises:
        CorruptDataError: It is none.
    """
    try:
        return ChatMessage.model_validate(record.value)
    except pydantic.ValidationError as error:
        name = f"{record.log!r}, {record.number}"
        raise CorruptDataError(f"logs {name}: the record is no ChatMessage", table="logs", id=name) from error


def readable(record: LogRecord) -> ChatMessage | None:
    """Return the message of a record, or None if it is none, which is logged."""
    try:
        return decoded(record)
    except CorruptDataError as error:
        warn(error)
        return None


def warn(error: CorruptDataError) -> None:
    """Log that a record is left out."""
    _log.warning("a message of a conversation was left out: %s", error)
