"""The chat store and the memory block of LlamaIndex."""
