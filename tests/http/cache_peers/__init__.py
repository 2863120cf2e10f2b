"""Caching rules as others wrote them, to compare with: npm, and a runner of its cases."""
