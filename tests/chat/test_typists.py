"""Who is typing in a room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_rt.chat._client.typists import HOLDS_S, MOST, Typists


def test_who_types_is_named_once() -> None:
    """A word is a change; the same again, or on another device, is none."""
    typists = Typists()
    assert typists.heard("ann", "d1", True, 0.0)
    assert not typists.heard("ann", "d1", True, 1.0)
    assert not typists.heard("ann", "d2", True, 1.0)
    assert typists.heard("bob", "d1", True, 1.0)
    assert typists.users == ("ann", "bob")


def test_a_word_holds_for_six_seconds() -> None:
    """Six seconds after the last word its user types no more."""
    typists = Typists()
    typists.heard("ann", "d1", True, 0.0)
    typists.heard("ann", "d1", True, 3.0)
    assert typists.next_at == 3.0 + HOLDS_S
    assert not typists.expire(8.9)
    assert typists.expire(9.0)
    assert not typists.users
    assert typists.next_at is None


def test_a_user_types_as_long_as_one_device_does() -> None:
    """The end on one device is no change while there is another."""
    typists = Typists()
    typists.heard("ann", "d1", True, 0.0)
    typists.heard("ann", "d2", True, 1.0)
    assert not typists.heard("ann", "d1", False, 2.0)
    assert typists.heard("ann", "d2", False, 2.0)
    assert not typists.heard("ann", "d2", False, 2.0)
    assert not typists.users


def test_a_message_ends_typing_of_its_device() -> None:
    """What was said is not typed any more; another device may."""
    typists = Typists()
    typists.heard("ann", "d1", True, 0.0)
    assert not typists.said("ann", "d2")
    assert typists.said("ann", "d1")
    assert not typists.users


def test_leave_and_loss_end_typing() -> None:
    """A user who left types on no device, and after a loss nobody is known to."""
    typists = Typists()
    for user, device in (("ann", "d1"), ("ann", "d2"), ("bob", "d1")):
        typists.heard(user, device, True, 0.0)
    assert typists.left("ann")
    assert not typists.left("ann")
    assert typists.users == ("bob",)
    assert typists.clear()
    assert not typists.clear()
    assert not typists.users
    assert typists.next_at is None


def test_ones_own_user_is_never_among_them() -> None:
    """Not by another device, and not when one learns only later who one is."""
    typists = Typists()
    typists.heard("me", "d1", True, 0.0)
    typists.me = "me"
    assert not typists.users
    assert not typists.heard("me", "d2", True, 1.0)
    assert not typists.clear()
    typists.heard("ann", "d1", True, 1.0)
    assert not typists.left("me")
    assert typists.users == ("ann",)


def test_what_is_no_user_is_not_shown() -> None:
    """A name that hides something does not come to the program."""
    typists = Typists()
    assert not typists.heard("a\x1bnn", "d1", True, 0.0)
    assert not typists.users


def test_devices_are_bounded() -> None:
    """One more than fits, and the one that spoke longest ago is forgotten."""
    typists = Typists()
    for number in range(MOST):
        typists.heard(f"u{number}", "d", True, float(number))
    typists.heard("u0", "d", True, float(MOST))
    assert typists.heard("one more", "d", True, float(MOST))
    assert len(typists.users) == MOST
    assert "u1" not in typists.users
    assert "u0" in typists.users


WORDS = st.tuples(
    st.sampled_from(["on", "off", "said", "left", "expire"]),
    st.sampled_from(["ann", "bob", "me"]),
    st.sampled_from(["d1", "d2"]),
    st.floats(0.0, 4.0),
)


@given(st.lists(WORDS, max_size=30))
def test_it_is_as_a_plain_model_says(words: list[tuple[str, str, str, float]]) -> None:
    """A table of words says the same, and each change, and no other, is told."""
    typists, table, now = Typists("me"), {}, 0.0
    for word, user, device, pause in words:
        now += pause
        before = set(typists.users)
        match word:
            case "on" | "off":
                changed = typists.heard(user, device, word == "on", now)
                table[user, device] = now + HOLDS_S if word == "on" else 0.0
            case "said":
                changed = typists.said(user, device)
                table[user, device] = 0.0
            case "left":
                changed = typists.left(user)
                table.update({key: 0.0 for key in table if key[0] == user})
            case _:
                changed = typists.expire(now)
                table = {key: at for key, at in table.items() if at > now}
        typing = {key: at for key, at in table.items() if at and key[0] != "me"}
        assert set(typists.users) == {user for user, _ in typing}
        assert changed == (set(typists.users) != before)
        assert typists.next_at == min(typing.values(), default=None)
