"""Studies: many runs from one command, and their comparison."""
