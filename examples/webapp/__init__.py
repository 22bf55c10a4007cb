"""An example: an agent's memory behind HTTP."""
