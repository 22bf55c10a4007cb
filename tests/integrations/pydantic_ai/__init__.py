"""Memory and conversations for agents of Pydantic AI."""
