"""A clinic as a node of a federation: its key, its approval of the plan, and the processes that serve it."""
