"""A run is its folder: what is written there, and how."""
