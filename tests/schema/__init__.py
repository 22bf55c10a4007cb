"""The schema: its migrations, the plans of its queries, and how many statements each method costs."""
