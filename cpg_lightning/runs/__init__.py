"""The folder of a run: its files, and reading and writing them."""
