"""Files stored by earlier commits, and what their code read from them."""
