"""Learning: counts of what episodes have done, kept up to date, and the patterns that follow from them."""
