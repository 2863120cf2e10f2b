"""A client's rooms: `open_room()` and what is behind it."""
