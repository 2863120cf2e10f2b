"""Stores of rooms: in memory, in a SQLite file, in Redis or Valkey."""
