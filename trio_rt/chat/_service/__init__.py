"""A chat's server: who may say what, on the hub."""
