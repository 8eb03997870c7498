"""Studies: many runs from one command."""
