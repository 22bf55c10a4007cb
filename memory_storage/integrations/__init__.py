"""Adapters for agent frameworks. Each needs the extra of its name, and is imported explicitly."""
