"""Data sets as their authors distribute them: what lies where, and how it becomes masks."""
