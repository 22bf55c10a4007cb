"""The model of the package wordllama, whose weights come with it."""

from __future__ import annotations

from pathlib import Path

from memory_storage.errors import ConfigurationError

from .protocol import FunctionEmbedder

_DIMENSION = 256


class WordLlamaEmbedder(FunctionEmbedder):
    """Averages static vectors of word pieces: compares meaning, without PyTorch and without a download.

    The weights (16 MB, 256 dimensions) are in the package wordllama, the extra `wordllama`. It is faster than
    HashingEmbedder, and less accurate than a sentence transformer: `python -m benchmarks embedders` compares them.

    Args:
        batch_size: The most texts of one call; default: 64.

    Raises:
        ConfigurationError: The package wordllama is not installed.
    """

    def __init__(self, *, batch_size: int = 64) -> None:
        try:
            import wordllama
        except ImportError as error:
            raise ConfigurationError("wordllama is not installed: pip install 'memory-storage[wordllama]'") from error
        # Its loader looks for the tokenizer in a folder of another name than the wheel has, unless the folder of the
        # package is named as the cache; without this it would be downloaded.
        package = Path(wordllama.__file__).parent
        model = wordllama.WordLlama.load(dim=_DIMENSION, cache_dir=package, disable_download=True)
        super().__init__(
            lambda texts: model.embed(texts, norm=True),
            model=f"wordllama-l2-supercat-{_DIMENSION}",
            batch_size=batch_size,
        )
