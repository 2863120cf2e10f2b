"""A chat in rooms of the hub."""
