"""Adapters to agent frameworks and protocols. Each needs the extra of its name, and is imported explicitly."""
