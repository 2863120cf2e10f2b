"""Programs that run by themselves: `python examples/quickstart.py`.

In this order they are also a short course: quickstart, offline_queue,
token_refresh, market_feed, virtual_network. All but the first run in virtual
time, through a network that is cut on purpose. In each, what belongs to a
real program takes a connection or a peer, and `main()` is what to leave behind.
"""
