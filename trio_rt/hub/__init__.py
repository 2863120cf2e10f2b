"""Rooms for the peers of a server: membership, presence, history, on a store of your choice.

On the server `open_hub()` gives a handler for `trio_rt.serve()`; at a client `open_room()`
is membership of one room, as a scope. What they say to each other are ordinary messages,
specified in `docs/hub.md`, so that any client of the envelope can take part.

General layout, from the bottom up:

    _names, _broker, _words    the vocabulary: names, stores, what goes over the wire
    _log, brokers/             stores: in memory, in SQLite, in Redis or Valkey
    _server/                   what the server runs
        roster, rules, guest, room    a room, and a peer in it
        extension                     what a program adds: commands, other dialects
        rooms, tongue, told, tell     all rooms of a node; who is told what, in which words
        drafts, commands, intake      what peers ask for
        guests, hub                   who is here; `open_hub()`
        statistics, metrics           what there is to measure
        files, site                   HTTP beside it: files, routes, origins
    _client/                   a client's rooms
        items, shelf, channel         what a member receives, and where it lies until then
        follow, company, letters      the cursor; who is there; payloads as they are wanted
        calls, desk                   commands under way; what rooms of one connection share
        member, membership, opening   one member; its face; `open_room()`
"""

from ..errors import BrokerError
from ._broker import (
    Broker,
    Draft,
    Head,
    Item,
    LogLimits,
    Page,
    Position,
    Present,
    Sink,
    Snapshot,
    Way,
)
from ._client.follow import Since
from ._client.items import HistoryPage, Joined, Left, Marked, RoomItem, RoomMessage
from ._client.membership import Membership
from ._client.opening import open_room
from ._server.hub import Hub, HubStatistics, open_hub
from ._server.metrics import Monitor
from ._server.rules import HubLimits, Rules, Who
from ._server.site import CONTENT_SECURITY_POLICY, Site, allow_origins
from ._server.tell import Lagging
from .brokers.memory import MemoryBroker
from .brokers.redis import RedisBroker
from .brokers.sqlite import SqliteBroker

__all__ = [
    "CONTENT_SECURITY_POLICY",
    "Broker",
    "BrokerError",
    "Draft",
    "Head",
    "HistoryPage",
    "Hub",
    "HubLimits",
    "HubStatistics",
    "Item",
    "Joined",
    "Lagging",
    "Left",
    "LogLimits",
    "Marked",
    "Membership",
    "MemoryBroker",
    "Monitor",
    "Page",
    "Position",
    "Present",
    "RedisBroker",
    "RoomItem",
    "RoomMessage",
    "Rules",
    "Since",
    "Sink",
    "Site",
    "Snapshot",
    "SqliteBroker",
    "Way",
    "Who",
    "allow_origins",
    "open_hub",
    "open_room",
]
