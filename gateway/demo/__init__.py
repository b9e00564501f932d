"""The demo: the whole story, every part of it real, told by the same commands that a user types."""
