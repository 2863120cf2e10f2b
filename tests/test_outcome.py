"""What becomes of a send."""

from __future__ import annotations

import copy
import pickle
from typing import get_args

import pytest

from trio_rt import message
from trio_rt import outcome as module
from trio_rt.outcome import (
    ACKED,
    INDETERMINATE,
    KEPT,
    WITHDRAWN,
    WRITTEN,
    DropReason,
    Outcome,
    dropped,
)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (ACKED, "acked"),
        (WRITTEN, "written"),
        (WITHDRAWN, "withdrawn"),
        (INDETERMINATE, "indeterminate"),
        (KEPT, "kept"),
        (dropped("expired"), "dropped (expired)"),
    ],
)
def test_outcome_text(outcome: Outcome, text: str) -> None:
    """An outcome reads as what it is."""
    assert str(outcome) == text


@pytest.mark.parametrize("reason", get_args(DropReason))
def test_dropped(reason: DropReason) -> None:
    """Each reason has one outcome, always the same object."""
    outcome = dropped(reason)
    assert outcome is dropped(reason)
    assert (outcome.kind, outcome.reason) == ("dropped", reason)


def test_reasons() -> None:
    """The reasons are those that the documentation promises."""
    promised = "evicted expired replaced offline receiver closed oversize"
    assert set(get_args(DropReason)) == set(promised.split())


def test_one_object_each() -> None:
    """There is one object for each outcome, also after a copy or a pickle."""
    everything = [ACKED, WRITTEN, WITHDRAWN, INDETERMINATE, KEPT]
    everything += [dropped(reason) for reason in get_args(DropReason)]
    assert len(set(everything)) == 12
    for outcome in everything:
        assert copy.copy(outcome) is copy.deepcopy(outcome) is outcome
        assert pickle.loads(pickle.dumps(outcome)) is outcome


@pytest.mark.parametrize("name", ["kind", "reason", "other"])
def test_frozen(name: str) -> None:
    """An outcome cannot be changed, nor carry more."""
    with pytest.raises(AttributeError):
        setattr(dropped("expired"), name, None)


def test_public() -> None:
    """The outcomes are also where the messages are."""
    assert all(getattr(message, name) is getattr(module, name) for name in module.__all__)
