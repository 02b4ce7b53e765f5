"""The command `graphs`."""
