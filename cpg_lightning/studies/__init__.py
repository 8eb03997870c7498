"""Studies: many runs from one command, and what can be concluded from them."""
