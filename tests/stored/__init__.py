"""Files that earlier commits stored, and what their code read from them."""
