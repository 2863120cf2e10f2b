"""The hub: what `serve()` runs for each peer, and the HTTP beside it."""
