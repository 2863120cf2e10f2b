"""The matrix of faults and wires, over real sockets: `python -m tests.faults`."""
