"""Programs that run by themselves: `python examples/quickstart.py`.

In this order they are a short course: quickstart, offline_queue,
token_refresh, market_feed, virtual_network. All but the first run in virtual
time, and through a network that is cut on purpose. What a real program would
take over has a connection or a peer as its argument; `main()` sets the scene.
"""
