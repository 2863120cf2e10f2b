"""Percentiles of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["percentile", "spread"]


def percentile(values: Sequence[float], share: float) -> float:
    """One of `values` that about this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def spread(times_ms: Sequence[float]) -> str:
    """As reports have it."""
    return f"p50 {percentile(times_ms, 0.5):.1f} ms, p99 {percentile(times_ms, 0.99):.1f} ms"
