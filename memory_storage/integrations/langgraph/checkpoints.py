"""Checkpoints and pending writes as documents."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from memory_storage import models
from memory_storage.errors import ValidationError
from memory_storage.models import ItemPath, PutItem
from memory_storage.sql.documents import encode_value

THREADS_PATH = ("langgraph", "threads")
"""The path below which a saver keeps its items, by the IDs of their threads."""

CHECKPOINTS, WRITES = "checkpoints", "writes"

# Items are sorted by their keys, and the latest checkpoint is the one with the greatest ID: a key is the ID with each
# character mirrored within printable ASCII, and a last one that is above all of them.
_CHECKPOINT_ID = re.compile(r"[ -~]{1,200}")
_MIRROR = {code: 0x20 + 0x7E - code for code in range(0x20, 0x7F)}
_END = "\x7f"


def label(field: str, value: Any) -> str:
    """Return an ID of a configuration as the label of a path."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValidationError(field, "a string", value)
    return str(value)


def thread_path(config: RunnableConfig) -> ItemPath:
    """Return the path of a thread."""
    configurable = config.get("configurable", {})
    if "thread_id" not in configurable:
        raise ValidationError("config", 'a thread, like {"configurable": {"thread_id": "1"}}', configurable)
    return (*THREADS_PATH, label("thread_id", configurable["thread_id"]))


def namespace_of(config: RunnableConfig) -> str:
    """Return the namespace of checkpoints, which is empty but for subgraphs."""
    return label("checkpoint_ns", config.get("configurable", {}).get("checkpoint_ns", ""))


def checkpoint_key(checkpoint_id: Any) -> str:
    """Return the key of a checkpoint; greater IDs have lower ones."""
    if not isinstance(checkpoint_id, str) or not _CHECKPOINT_ID.fullmatch(checkpoint_id):
        raise ValidationError("checkpoint_id", "1 to 200 printable characters of ASCII", checkpoint_id)
    return checkpoint_id.translate(_MIRROR) + _END


def checkpoint_config(thread_id: Any, namespace: str, checkpoint_id: str) -> RunnableConfig:
    """Return the configuration that names a checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}


class Documents:
    """Makes and reads documents.

    Args:
        serde: Serializes values.
    """

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = serde

    def checkpoint(self, checkpoint: Checkpoint, metadata: CheckpointMetadata, parent: str | None) -> dict[str, Any]:
        """Return the document of a checkpoint.

        Args:
            checkpoint: The checkpoint.
            metadata: Its metadata: filters find it by what of it is JSON.
            parent: The ID of the checkpoint before it.
        """
        plain = {key: value for key, value in metadata.items() if _is_json(value)}
        others = {key: value for key, value in metadata.items() if key not in plain}
        document = {"id": checkpoint["id"], "parent": parent, "metadata": plain, "checkpoint": self._dump(checkpoint)}
        return document | ({"more_metadata": self._dump(others)} if others else {})

    def write(self, path: ItemPath, task: tuple[str, str], index: int, write: tuple[str, Any]) -> PutItem:
        """Return what stores a pending write, once.

        Args:
            path: The path of the writes of the checkpoint.
            task: The ID and the path of the task.
            index: The position of the write; special ones have negative ones, and replace what is stored.
            write: The channel and the value.
        """
        document = {"task": task[0], "task_path": task[1], "index": index, "channel": write[0]}
        document["value"] = self._dump(write[1])
        version = 0 if index >= 0 else None
        return PutItem(path=path, key=f"{task[0]}:{index}", value=document, version=version)

    def tuple(self, item: models.Item, writes: Iterable[models.Item], thread_id: Any) -> CheckpointTuple:
        """Return a checkpoint with its pending writes.

        Args:
            item: The checkpoint.
            writes: Its writes, in any order.
            thread_id: The thread, as the caller names it.
        """
        document: Any = item.value
        namespace = item.path[-1]
        parent = document["parent"]
        return CheckpointTuple(
            config=checkpoint_config(thread_id, namespace, document["id"]),
            checkpoint=self._load(document["checkpoint"]),
            metadata=self.metadata(document),
            parent_config=None if parent is None else checkpoint_config(thread_id, namespace, parent),
            pending_writes=self._pending(writes),
        )

    def metadata(self, document: Mapping[str, Any]) -> CheckpointMetadata:
        """Return the metadata of a document."""
        others = self._load(document["more_metadata"]) if "more_metadata" in document else {}
        return cast("CheckpointMetadata", {**document["metadata"], **others})

    def _pending(self, writes: Iterable[models.Item]) -> list[PendingWrite]:
        documents: list[Any] = [item.value for item in writes]
        documents.sort(key=lambda one: writes_sort_key(one["task_path"], one["task"], one["index"]))
        return [(one["task"], one["channel"], self._load(one["value"])) for one in documents]

    def _dump(self, value: Any) -> list[str]:
        kind, data = self._serde.dumps_typed(value)
        return [kind, base64.b64encode(data).decode()]

    def _load(self, value: list[str]) -> Any:
        kind, data = value
        return self._serde.loads_typed((kind, base64.b64decode(data)))


def _is_json(value: Any) -> bool:
    try:
        encode_value("metadata", value)
    except ValidationError:
        return False
    return True
