"""A chat as a program takes part in it: `open_chat()` and what is behind it."""
