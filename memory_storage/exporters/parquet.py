"""A Parquet file with one row per episode; its steps are a list of structs. JSON objects are columns of JSON text.

Rows are written in groups of up to 1,000 episodes, or of some 16 MB.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from memory_storage.errors import ConfigurationError
from memory_storage.models import Episode

from .notes import Notes
from .turns import output_of

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise ConfigurationError(
        "pyarrow is not installed; nothing was written; run: pip install 'memory-storage[parquet]'"
    ) from error

_GROUP_ROWS = 1_000
_GROUP_BYTES = 16_000_000

_TEXT, _TEXTS, _TIME = pa.string(), pa.list_(pa.string()), pa.timestamp("us", tz="UTC")
_STEP = pa.struct(
    {
        "id": _TEXT,
        "step_number": pa.int32(),
        "started_at": _TIME,
        "tool": _TEXT,
        "action": _TEXT,
        "parameters": _TEXT,
        "status": _TEXT,
        "output": _TEXT,
        "latency_ms": pa.int64(),
        "tokens_used": pa.int64(),
        "metadata": _TEXT,
    }
)
_OUTCOME = pa.struct(
    {
        "kind": _TEXT,
        "verdict": _TEXT,
        "artifacts": _TEXTS,
        "completed": _TEXTS,
        "failed": _TEXTS,
        "reason": _TEXT,
        "error_details": _TEXT,
        "stopped_at_step": pa.int64(),
        "infeasibility_signals": _TEXTS,
    }
)
_REWARD = pa.struct(
    dict.fromkeys(
        ("total", "base", "efficiency", "complexity_bonus", "quality_multiplier", "learning_bonus"), pa.float64()
    )
)
_REFLECTION = pa.struct({"successes": _TEXTS, "improvements": _TEXTS, "insights": _TEXTS, "generated_at": _TIME})
_SUMMARY = pa.struct(
    {"text": _TEXT, "key_steps": _TEXTS, "key_concepts": _TEXTS, "created_by": _TEXT, "created_at": _TIME}
)
_CONTEXT = pa.struct(
    {"language": _TEXT, "framework": _TEXT, "complexity": _TEXT, "domain": _TEXT, "tags": _TEXTS},
)

SCHEMA = pa.schema(
    {
        "id": _TEXT,
        "version": pa.int64(),
        "task_description": _TEXT,
        "task_type": _TEXT,
        "context": _CONTEXT,
        "started_at": _TIME,
        "completed_at": _TIME,
        "outcome": _OUTCOME,
        "reward": _REWARD,
        "reflection": _REFLECTION,
        "artifacts": _TEXTS,
        "tags": _TEXTS,
        "metadata": _TEXT,
        "summary": _SUMMARY,
        "recalled": _TEXT,
        "steps": pa.list_(_STEP),
        "created_at": _TIME,
        "updated_at": _TIME,
        "archived_at": _TIME,
    }
)


class ParquetEpisodes:
    """Collects rows, and writes them in groups."""

    def __init__(self, stream: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(stream, SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, episode: Episode, notes: Notes) -> None:  # noqa: ARG002 - it has all of an episode
        """Add an episode to the group; write the group if it is large."""
        row = _row_of(episode)
        self._rows.append(row)
        self._bytes += len(row["metadata"]) + sum(
            len(step["output"] or "") + len(step["parameters"]) + len(step["metadata"]) for step in row["steps"]
        )
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write the last group and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
            self._rows, self._bytes = [], 0


def _row_of(episode: Episode) -> dict[str, Any]:
    row = episode.model_dump(exclude={"steps", "metadata", "recalled"})
    return {
        **row,
        "id": str(episode.id),
        "metadata": _json(episode.metadata),
        "recalled": None if episode.recalled is None else episode.recalled.model_dump_json(),
        "steps": [
            {
                **step.model_dump(exclude={"result"}),
                "id": str(step.id),
                "parameters": _json(step.parameters),
                "metadata": _json(step.metadata),
                "status": step.result.status if step.result else None,
                "output": output_of(step),
            }
            for step in episode.steps
        ],
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
