"""P4, P6, P7, P8, P10: the life of the links, the dials, and the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from trio_rt import ConnectionFailed, LinkClosed, LinkDead, LinkError, Liveness
from trio_rt.options import Reconnect
from trio_rt.testing import LinkProfile

from .records import LinkRecord, Lost, Side, Story
from .scene import ADVICE_S, Boom, is_cancellation
from .story import DRAIN_S
from .traces import Trace

__all__ = ["LINK_CHECKS", "delay_shares"]

#: Rounding of sums of floats.
EPSILON_S: Final = 1e-6

#: What an end of a link can hold of a peer's bytes: the buffer of the virtual
#: network, and one write of the outlet before a control frame gets its turn.
BACKLOG_BYTES: Final = 2 * (64 << 10)

#: A second bound of 0 becomes this (`protocol.backoff`).
LEAST_SECOND_BOUND_S: Final = 0.1

#: Advice is spread by up to half of itself.
ADVICE_SPREAD: Final = 1.5

#: A handshake that was under way when the server was cancelled may still come to a link.
LATE_S: Final = 1.0

#: `ServerLimits.handshake_s`.
HANDSHAKE_S: Final = 10.0


def _round_trip_s(profile: LinkProfile) -> float:
    """The longest that an answer may take: behind full buffers, both ways."""
    one_way_s = profile.latency_s + profile.jitter_s
    return 2 * (one_way_s + BACKLOG_BYTES / profile.bandwidth_bytes_per_s)


def links_end_for_a_reason(story: Story) -> Iterator[str]:
    """P4, P7: a link ends by the network, by its handler, or by a silence that was one."""
    if story.network is None:
        return
    trace = Trace(story)
    for link in story.links:
        if link.cause is not None:
            yield from _judge_end(story, trace, link)


def _judge_end(story: Story, trace: Trace, link: LinkRecord) -> Iterator[str]:
    cause, carrier, peer = link.cause, link.carrier, story.peer_of(link)
    assert carrier is not None
    where = f"the link of dial {link.dial}, lost at {link.lost_at:.3f}"
    if isinstance(cause, LinkDead):
        yield from _judge_death(story, trace, link, where)
    elif story.restarted_at <= link.lost_at and link.opened_at <= story.restarted_at + LATE_S:
        if not isinstance(cause, LinkClosed):
            yield f"{where}: {cause!r}"
    elif isinstance(cause, LinkClosed) and cause.code in (1000, 1011, 1012):
        if peer is None or peer.left_at == math.inf:
            yield f"{where}: {cause}, but its handler had not ended"
    elif not (isinstance(cause, LinkClosed) and cause.code == 1006):
        yield f"{where}: {cause!r}"
    elif not carrier.cut_by and (peer is None or peer.left_at > link.lost_at):
        yield from _judge_hang_up(story, trace, link, where)


def _judge_death(story: Story, trace: Trace, link: LinkRecord, where: str) -> Iterator[str]:
    """The client found it dead."""
    liveness = story.plan.liveness
    silent_s = link.lost_at - max(link.opened_at, trace.last_read(link, "<", link.lost_at))
    if silent_s < _shortest_silence_s(story, liveness) - EPSILON_S:
        yield f"{where}: dead after {silent_s:.3f} s of silence ({liveness})"
    assert link.carrier is not None
    healthy = not link.carrier.cut_by and not trace.troubled(link.opened_at, link.lost_at)
    if healthy and _round_trip_s(link.profile) < liveness.timeout_s:
        yield f"{where}: a healthy link was found dead"
    if any(jump.dial == link.dial and jump.at == link.lost_at for jump in story.jumps):
        yield f"{where}: found dead after a jump, while a pong lay unread"


def _judge_hang_up(story: Story, trace: Trace, link: LinkRecord, where: str) -> Iterator[str]:
    """The server aborted it: then it has found it dead."""
    assert link.carrier is not None
    liveness = story.plan.server_liveness
    closed_at = trace.first(f"{link.carrier.name} > closed")
    heard_at = trace.last_read(link, ">", closed_at)
    if closed_at == math.inf:
        yield f"{where}: {link.cause}, and nobody closed it"
    elif closed_at - heard_at < _shortest_silence_s(story, liveness) - EPSILON_S:
        yield f"{where}: the server closed it {closed_at - heard_at:.3f} s after a byte"
    elif not trace.troubled(link.opened_at, closed_at) and (
        _round_trip_s(link.profile) < liveness.timeout_s
    ):
        yield f"{where}: the server found a healthy link dead"


def _shortest_silence_s(story: Story, liveness: Liveness) -> float:
    """After a sleep of the machine a ping goes out at once, and has only its own time."""
    asleep = story.plan.sleeps_at_s < math.inf
    return liveness.timeout_s + (0.0 if asleep else liveness.interval_s)


def dead_links_are_noticed(story: Story) -> Iterator[str]:
    """P7: within `interval_s + timeout_s` of the last byte that can have come, at both ends."""
    if story.network is None:
        return
    trace, plan = Trace(story), story.plan
    for link in story.links:
        carrier = link.carrier
        assert carrier is not None
        if carrier.cut_by != "vanish" or story.jumps:
            continue
        cut_at = trace.first(f"{carrier.name} cut vanish")
        last_at = cut_at + _round_trip_s(link.profile) / 2
        # A stall may hold back what had passed before the cut.
        heard_at = max(last_at, trace.last_read(link, "<", math.inf))
        noticed_at = story.body_ended_at if link.cause is None else link.lost_at
        if noticed_at > _notice_at(plan.liveness, heard_at, link.opened_at):
            yield f"dial {link.dial}: cut at {cut_at:.3f}, noticed at {noticed_at:.3f}"
        peer = story.peer_of(link)
        if peer is not None:
            heard_at = max(last_at, trace.last_read(link, ">", math.inf))
            limit = _notice_at(plan.server_liveness, heard_at, peer.opened_at)
            if min(peer.left_at, story.drained_at) <= limit:  # then it was being closed
                closing_at = min(peer.left_at, story.drained_at + DRAIN_S)
                limit = max(limit, closing_at + plan.server_close_timeout_s + EPSILON_S)
            if peer.tap.ended_at > limit:
                yield f"{peer.name}: cut at {cut_at:.3f}, ended at {peer.tap.ended_at:.3f}"


def _notice_at(liveness: Liveness, last_at: float, opened_at: float) -> float:
    """When a link must be found dead, on which nothing has come after `last_at`."""
    silence_s = liveness.interval_s + liveness.timeout_s
    return max(last_at, opened_at) + silence_s + EPSILON_S


def dials_fail_for_a_reason(story: Story) -> Iterator[str]:
    """P10: an attempt fails by what the network did, and with nothing but a `LinkError`."""
    for loss in story.losses:
        if not isinstance(loss.state.cause, LinkError):
            yield f"at {loss.at:.3f}: {loss.state.cause!r} is no LinkError"
        if loss.link is not None or story.network is None:
            continue
        # A greeting may meet the close of a handler that has left, or was cancelled.
        if story.plan.greets and isinstance(loss.state.cause, LinkClosed):
            continue
        if not Trace(story).troubled(loss.dial.at, loss.at):
            yield f"dial {loss.dial.number} failed without a cause: {loss.state.cause!r}"


def no_herds(story: Story) -> Iterator[str]:
    """P8: each delay is within its bound, which grows until a link has proved itself."""
    reconnect = story.plan.reconnect
    for loss, delay_s, bound_s in _delays(story):
        if delay_s > bound_s + EPSILON_S:
            yield f"at {loss.at:.3f}: a delay of {delay_s} s, of at most {bound_s}"
        if 0 < delay_s == reconnect.cap_s:
            yield f"at {loss.at:.3f}: a delay of exactly the cap"
        advice = _advice_s(loss)
        if advice and delay_s < advice - EPSILON_S and _may_wait(reconnect):
            yield f"at {loss.at:.3f}: a delay of {delay_s} s, where the server advised {advice}"


def delay_shares(story: Story) -> list[float]:
    """Of each delay from the third on, the share of its bound: uniform from 0 to 1."""
    reconnect = story.plan.reconnect
    return [
        delay_s / bound_s
        for loss, delay_s, bound_s in _delays(story)
        if bound_s > reconnect.first_s * reconnect.factor and not _advice_s(loss)
        if _may_wait(reconnect)
    ]


def _may_wait(reconnect: Reconnect) -> bool:
    """The end of `give_up_after_s` does not shorten the delay."""
    return reconnect.give_up_after_s == math.inf


def _advice_s(loss: Lost) -> float | None:
    cause = loss.state.cause
    return ADVICE_S if isinstance(cause, LinkClosed) and cause.code == 1012 else None


def _delays(story: Story) -> Iterator[tuple[Lost, float, float]]:
    """Each loss with the delay that followed, and its bound by the rules."""
    reconnect = story.plan.reconnect
    bound_s = reconnect.first_s
    for loss in story.losses:
        if _proved(story, loss) is not False and not loss.state.attempt:
            bound_s = reconnect.first_s
        assert loss.state.retry_at is not None
        bound_s = min(bound_s, reconnect.cap_s)
        advice = _advice_s(loss)
        most_s = max(bound_s, advice * ADVICE_SPREAD if advice else 0.0)
        yield loss, loss.state.retry_at - loss.at, most_s
        bound_s = bound_s * reconnect.factor or LEAST_SECOND_BOUND_S


def _proved(story: Story, loss: Lost) -> bool | None:
    """Whether it was a link that proved itself: by `min_uptime_s`, and a pong or a message.

    None: nobody knows, since there may have been a pong.
    """
    link = loss.link
    if link is None or link.lost_at - link.opened_at < story.plan.reconnect.min_uptime_s:
        return False
    return True if link.received_after > link.received_before else None


def attempts_are_counted(story: Story) -> Iterator[str]:
    """P8: the count starts anew with a proven link and never else, and has its bound."""
    reconnect = story.plan.reconnect
    count = 0
    for loss in story.losses:
        count += 1
        proved = _proved(story, loss)
        fit = {True: (0,), False: (count,), None: (0, count)}[proved]
        if loss.state.attempt not in fit:
            yield f"at {loss.at:.3f}: attempt {loss.state.attempt}, not {fit}"
        count = loss.state.attempt
        if count >= reconnect.max_attempts:
            yield f"at {loss.at:.3f}: attempt {count} of {reconnect.max_attempts}"


def no_dial_before_its_time(story: Story) -> Iterator[str]:
    """P8: nobody dials before the delay is over, but for the last words at the end."""
    for loss in story.losses:
        later = [dial for dial in story.dials if dial.number == loss.dial.number + 1]
        for dial in later:
            assert loss.state.retry_at is not None
            early = dial.at < loss.state.retry_at - EPSILON_S
            if early and dial.at < story.body_ended_at:
                yield f"dial {dial.number} at {dial.at:.3f}, not {loss.state.retry_at:.3f}"


def nothing_is_left(story: Story) -> Iterator[str]:
    """P6: left in time, at once if cancelled, without a task or a socket."""
    yield from story.debris
    plan = story.plan
    if story.network is not None:
        took_s = story.left_at - story.body_ended_at
        if took_s > plan.close_timeout_s + EPSILON_S:
            yield f"connect() took {took_s} s to leave, of {plan.close_timeout_s}"
        if story.cancelled_at < math.inf and story.left_at > story.cancelled_at:
            yield f"cancelled at {story.cancelled_at}, left at {story.left_at}"
        # Whoever is in the handshake has its time, and is closed behind it.
        most_s = DRAIN_S + HANDSHAKE_S + 2 * plan.server_close_timeout_s + EPSILON_S
        if story.drain_s > most_s:
            yield f"the server's drain took {story.drain_s} s, of {most_s}"
        for peer in story.peers:
            yield from _judge_handler(story, peer)
    for line in story.logged:
        yield f"logged: {line}"


def _judge_handler(story: Story, peer: Side) -> Iterator[str]:
    """A handler that left has its close within the time for it."""
    limit = peer.left_at + story.plan.server_close_timeout_s + EPSILON_S
    if peer.left_at < math.inf and peer.tap.ended_at > limit and not story.jumps:
        yield f"{peer.name}: left at {peer.left_at}, and closed at {peer.tap.ended_at}"


def one_exception_leaves(story: Story) -> Iterator[str]:
    """P10: the body's own error as it is, or one `ConnectionFailed`, or the cancellation."""
    raised, left = story.raised, story.left
    own = raised is not None and not is_cancellation(raised)
    if isinstance(left, ConnectionFailed):
        if not isinstance(left.__cause__, LinkError):
            yield f"{left!r} has no cause"
        if own:
            yield f"{left!r} hides the body's own {raised!r}"
    elif own and left is not raised:
        yield f"the body raised {raised!r}, and {left!r} left"
    elif not own and left is not None and not is_cancellation(left):
        yield f"{left!r} left, and the body raised {raised!r}"
    if left is not None and is_cancellation(left):
        if story.plan.ending not in ("cancel", "cancel_step"):
            yield "a cancellation left that nobody asked for"
    elif story.plan.ending == "error" and not _has_boom(left):
        yield f"the body's error is lost: {left!r}"


def _has_boom(error: BaseException | None) -> bool:
    """Whether the body's error is there; a failure may have come before it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Boom)[0] is not None
    return isinstance(error, (Boom, ConnectionFailed))


LINK_CHECKS: Final[tuple[Callable[[Story], Iterator[str]], ...]] = (
    links_end_for_a_reason,
    dead_links_are_noticed,
    dials_fail_for_a_reason,
    no_herds,
    attempts_are_counted,
    no_dial_before_its_time,
    nothing_is_left,
    one_exception_leaves,
)
