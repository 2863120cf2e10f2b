"""One question each: the programs behind docs/howto.md.

Run one as `python examples/howto/<name>.py`. Its text ends with what it prints.
"""
