"""Faults that a kernel makes: `python -m tests.netns`, as root, on Linux.

Each scenario runs in a process and a network namespace of its own. The
namespace has no name and ends with the process, so nothing is left of it,
whatever happens. In it are a loopback interface, a server and a client; `tc`,
`iptables`, `ip` and `ss` do to their packets what networks do.
"""
