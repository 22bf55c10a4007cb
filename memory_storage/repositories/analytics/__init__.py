"""Analytics: the repository, its statements, and confidence intervals."""
