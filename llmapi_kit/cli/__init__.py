"""The kit from a terminal."""
