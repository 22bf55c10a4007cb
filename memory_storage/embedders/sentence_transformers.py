"""Models of the package sentence-transformers."""

from __future__ import annotations

from typing import Any

from memory_storage.errors import ConfigurationError, ValidationError

from .protocol import FunctionEmbedder


class SentenceTransformerEmbedder(FunctionEmbedder):
    """Adapts a model of the package sentence-transformers. Vectors are normalized.

    Args:
        model: The name of the model, or a loaded one.
        name: The name under which the vectors are stored; by default that of the model.
        batch_size: The most texts of one call; default: 64.
    """

    def __init__(self, model: Any = "all-MiniLM-L6-v2", *, name: str | None = None, batch_size: int = 64) -> None:
        loaded = _load(model) if isinstance(model, str) else model
        given = model if isinstance(model, str) else None
        document, query = (
            getattr(loaded, f"encode_{kind}", loaded.encode) for kind in ("document", "query")
        )  # these prepend the prompts of the model, if it has any
        options = {"normalize_embeddings": True, "show_progress_bar": False}
        super().__init__(
            lambda texts: document(texts, batch_size=batch_size, **options),
            model=name or given or _card_name(loaded),
            embed_query=lambda text: query([text], **options)[0],
            batch_size=batch_size,
        )


def _load(name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigurationError(
            "sentence-transformers is not installed: pip install 'memory-storage[sentence-transformers]'"
        ) from error
    return SentenceTransformer(name)


def _card_name(loaded: Any) -> str:
    name = getattr(getattr(loaded, "model_card_data", None), "base_model", None)
    if not name:
        raise ValidationError(
            "name", "must be given: the model has no name under which its vectors could be stored", None
        )
    return str(name)
