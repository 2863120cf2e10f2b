"""Real-time connections for trio that outlive their sockets.

General layout, from the bottom up; a module imports only from lower layers:

    errors, options, message       the vocabulary
    protocol/                      sans-I/O: codec, backoff, lifecycle, lanes, pulse,
                                   verdict, url, route, inbox, frames, outgoing,
                                   incoming, requests, session (plain and numbered links)
    _streams, _outlet, wires/      bytes: sockets, TLS, one live WebSocket
    delivery, _subscription,       the faces of lanes and inbox in trio
    _mailbox, _states
    _tasks, _dial, _accept         one link: its tasks, and how it comes to be
    _welcome                       the first words of a session's link
    _endpoint, _verbs, _requests   what a connection and a server's peer can do alike
    _connection, _connect          connect()
    _peer, _sessions, _server      serve()
    _http_serve                    HTTP on the same port
    _broadcast                     the same messages to many peers
    hub/                           rooms
    http/                          a column of its own: the HTTP client
    testing/                       a virtual network to run programs in

Everything public is imported here; the modules with an underscore may change.
"""

from ._accept import AcceptHook
from ._connect import connect
from ._connection import Connection, RawConnection
from ._dial import OpenStream
from ._endpoint import Statistics
from ._handshake import Handshake
from ._hooks import Attempt, Credentials, Greeting
from ._http_serve import HttpHandler, HttpRequest, HttpResponse
from ._peer import Peer, RawPeer
from ._requests import Exchange, Request, traceparent
from ._server import Server, serve, serve_listeners
from ._states import StateStream
from ._subscription import Stream
from ._verbs import Sender
from .delivery import Delivery
from .errors import (
    AttemptsExhausted,
    BodyInvalid,
    BodyTooLarge,
    BrokerError,
    CallTimeout,
    CircuitOpen,
    ConnectionFailed,
    CredentialsRefused,
    DecodeError,
    DialError,
    HandshakeError,
    HookError,
    HookFailed,
    HttpError,
    LinkClosed,
    LinkDead,
    LinkError,
    NoSession,
    NotCached,
    Offline,
    OptionError,
    PayloadError,
    ProtocolBroken,
    QueueFull,
    Refuse,
    Refused,
    ServerRefused,
    StreamOverflow,
    TakenOver,
    TrioRtError,
    Undelivered,
    UsageError,
)
from .message import Gap, Malformed, Message, Outcome, Priority, Reset
from .options import (
    Conflate,
    InboxLimits,
    Liveness,
    OutboxLimits,
    Reconnect,
    ServerLimits,
    SessionLimits,
)
from .protocol.codec import Codec, JsonCodec, Meta, MsgpackCodec
from .protocol.lifecycle import Phase, State

__all__ = [
    "AcceptHook",
    "Attempt",
    "AttemptsExhausted",
    "BodyInvalid",
    "BodyTooLarge",
    "BrokerError",
    "CallTimeout",
    "CircuitOpen",
    "Codec",
    "Conflate",
    "Connection",
    "ConnectionFailed",
    "Credentials",
    "CredentialsRefused",
    "DecodeError",
    "Delivery",
    "DialError",
    "Exchange",
    "Gap",
    "Greeting",
    "Handshake",
    "HandshakeError",
    "HookError",
    "HookFailed",
    "HttpError",
    "HttpHandler",
    "HttpRequest",
    "HttpResponse",
    "InboxLimits",
    "JsonCodec",
    "LinkClosed",
    "LinkDead",
    "LinkError",
    "Liveness",
    "Malformed",
    "Message",
    "Meta",
    "MsgpackCodec",
    "NoSession",
    "NotCached",
    "Offline",
    "OpenStream",
    "OptionError",
    "OutboxLimits",
    "Outcome",
    "PayloadError",
    "Peer",
    "Phase",
    "Priority",
    "ProtocolBroken",
    "QueueFull",
    "RawConnection",
    "RawPeer",
    "Reconnect",
    "Refuse",
    "Refused",
    "Request",
    "Reset",
    "Sender",
    "Server",
    "ServerLimits",
    "ServerRefused",
    "SessionLimits",
    "State",
    "StateStream",
    "Statistics",
    "Stream",
    "StreamOverflow",
    "TakenOver",
    "TrioRtError",
    "Undelivered",
    "UsageError",
    "connect",
    "serve",
    "serve_listeners",
    "traceparent",
]
