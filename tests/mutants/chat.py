"""Known mistakes of the chat: who may say what, what a client shows, and files."""

from __future__ import annotations

from typing import Final

from .table import Mutant

__all__ = ["CHAT_MUTANTS"]

TOKENS: Final = "tests/chat/test_tokens.py"
RULES: Final = "tests/chat/test_rules.py"
STANDING: Final = "tests/chat/test_standing.py"
SERVICE: Final = "tests/chat/test_service.py"
PLAIN: Final = "tests/chat/test_plain.py"
TYPING: Final = "tests/chat/test_typing.py"
TYPISTS: Final = "tests/chat/test_typists.py"
ROOM: Final = "tests/chat/test_room.py"
ROOM_LOG: Final = "tests/chat/test_room_log.py"
SAID: Final = "tests/chat/test_said.py"
FILES: Final = "tests/chat/test_files.py"
UPLOADS: Final = "tests/chat/test_uploads.py"

CHAT_MUTANTS: Final = (
    # Who it is
    Mutant(
        "chat: a message says whose it is",
        "trio_rt/chat/_service/rules.py",
        '    if body.name not in ("", who.user, seen(who.info)["name"]):\n',
        "    if False:\n",
        (RULES,),
    ),
    Mutant(
        "chat: anybody is the service",
        "trio_rt/chat/_service/rules.py",
        "        if who.user == SERVICE:\n",
        "        if False:\n",
        (RULES,),
    ),
    Mutant(
        "chat: a guest owns what its name owns",
        "trio_rt/chat/_service/rules.py",
        "(who.user in self.owners.get(room, ()) and not is_guest)",
        "who.user in self.owners.get(room, ())",
        (RULES, SERVICE),
    ),
    Mutant(
        "chat: a token is good at its end",
        "trio_rt/chat/_service/tokens.py",
        '    if now >= claims["exp"]:\n',
        '    if now > claims["exp"]:\n',
        (TOKENS,),
    ),
    Mutant(
        "chat: a token chooses its algorithm",
        "trio_rt/chat/_service/tokens.py",
        "algorithms=[_ALGORITHM]",
        'algorithms=["HS256", "HS384", "HS512", "none"]',
        (TOKENS,),
    ),
    Mutant(
        "chat: a token without an end",
        "trio_rt/chat/_service/tokens.py",
        '    if not _is_time(claims["exp"]) or',
        "    if",
        (TOKENS,),
    ),
    Mutant(
        "chat: a token's user may be a guest's name",
        "trio_rt/chat/_service/tokens.py",
        "    if not is_name(user) or _is_reserved(user):\n",
        "    if not is_name(user):\n",
        (TOKENS,),
    ),
    Mutant(
        "chat: of two tokens the first counts",
        "trio_rt/chat/_service/tokens.py",
        "        if any(other != first for other in others):\n",
        "        if False:\n",
        (TOKENS,),
    ),
    # What may be done
    Mutant(
        "chat: a banned user may read",
        "trio_rt/chat/_service/rules.py",
        "    async def may_read(self, who: Who, room: str) -> bool:\n"
        "        return await self._is_let_in(who, room)\n",
        "    async def may_read(self, who: Who, room: str) -> bool:\n        return True\n",
        (RULES, SERVICE),
    ),
    Mutant(
        "chat: a banned user may see who is there",
        "trio_rt/chat/_service/rules.py",
        "    async def may_see(self, who: Who, room: str) -> bool:\n"
        "        return await self._is_let_in(who, room)\n",
        "    async def may_see(self, who: Who, room: str) -> bool:\n        return True\n",
        (RULES, SERVICE),
    ),
    Mutant(
        "chat: anybody says what is decided",
        "trio_rt/chat/_service/rules.py",
        "        if message.type == MODERATION:\n"
        '            raise Refused("forbidden", "only the service says that")\n',
        "",
        (RULES, SERVICE),
    ),
    Mutant(
        "chat: an owner edits what others said",
        "trio_rt/chat/_service/rules.py",
        '        if isinstance(body, Edit) or (await self.standing(who, room)).role != "owner":\n',
        '        if (await self.standing(who, room)).role != "owner":\n',
        (RULES,),
    ),
    Mutant(
        "chat: a member deletes what others said",
        "trio_rt/chat/_service/rules.py",
        ' or (await self.standing(who, room)).role != "owner":\n',
        ":\n",
        (RULES,),
    ),
    Mutant(
        "chat: a deleted message is edited",
        "trio_rt/chat/_service/targets.py",
        "            self._known[place] = attrs.evolve(target, deleted=True)\n",
        "            pass\n",
        (RULES,),
    ),
    Mutant(
        "chat: typing has no limit",
        "trio_rt/chat/_service/rules.py",
        "            self._typing.take(who.user, room)\n",
        "            pass\n",
        (RULES,),
    ),
    Mutant(
        "chat: a limit of all users together",
        "trio_rt/chat/_service/rules.py",
        "self._typing.take(who.user, room)",
        "self._typing.take(room)",
        (RULES,),
    ),
    Mutant(
        "chat: a mute for ever is over at once",
        "trio_rt/chat/_service/standing.py",
        "    return until is not None and (until == 0 or now < until)\n",
        "    return until is not None and now < until\n",
        (STANDING,),
    ),
    Mutant(
        "chat: a standing read before it was changed is kept",
        "trio_rt/chat/_service/standing.py",
        "        if key not in changed:\n            self._keep(key, standing, until)\n",
        "        self._keep(key, standing, until)\n",
        (STANDING,),
    ),
    Mutant(
        "chat: a ban ends the mute",
        "trio_rt/chat/_service/moderation.py",
        "            return attrs.evolve(before, banned_until=decision.until)\n",
        "            return Standing(before.role, banned_until=decision.until)\n",
        (SERVICE,),
    ),
    Mutant(
        "chat: a decision is known by what it says",
        "trio_rt/chat/_service/moderation.py",
        "        if (event.user, event.type) != (SERVICE, MODERATION):\n",
        "        if event.type != MODERATION:\n",
        (SERVICE,),
    ),
    Mutant(
        "chat: a banned user stays where the store is away",
        "trio_rt/chat/_service/moderation.py",
        "            self._put_out(order.room, decided.message)\n            raise\n",
        "            raise\n",
        (SERVICE,),
    ),
    # Plain clients
    Mutant(
        "chat: a plain client may type as others",
        "trio_rt/chat/_service/plain.py",
        '                await self._claims.check(hub, guest, "payload.userId", command.user)\n',
        "",
        (PLAIN,),
    ),
    Mutant(
        "chat: a plain client may speak as others",
        "trio_rt/chat/_service/plain.py",
        '        await self._claims.check(hub, guest, "payload.message.userId", said.user, said.username)\n',
        "",
        (PLAIN,),
    ),
    Mutant(
        "chat: short ids of plain clients are unique",
        "trio_rt/chat/_service/plain.py",
        "len(re) >= UNIQUE_LENGTH and is_name(re)",
        "is_name(re)",
        (PLAIN,),
    ),
    Mutant(
        "chat: a plain client is another user each time",
        "trio_rt/chat/_service/claims.py",
        "        elif self._may_claim is None or not _is_unbound(guest):\n",
        "        elif self._may_claim is None:\n",
        (PLAIN,),
    ),
    Mutant(
        "chat: two plain clients are one user",
        "trio_rt/chat/_service/claims.py",
        "        if _is_held(hub, guest, user):\n            raise _taken()\n",
        "",
        (PLAIN,),
    ),
    Mutant(
        "chat: a plain user comes into rooms it may not join",
        "trio_rt/chat/_service/claims.py",
        "            if await hub.rules.may_join(who, room) is not True:\n",
        "            if False:\n",
        (PLAIN,),
    ),
    # What a client shows
    Mutant(
        "chat: who types does so for ever",
        "trio_rt/chat/_client/typists.py",
        "        self._until[key] = now + HOLDS_S\n",
        "        self._until[key] = now + 10 * HOLDS_S\n",
        (TYPISTS, TYPING),
    ),
    Mutant(
        "chat: who has spoken types on",
        "trio_rt/chat/_client/typing.py",
        "            self._note(item.type in KINDS and self._typists.said(item.user, item.device))\n",
        "            pass\n",
        (TYPING,),
    ),
    Mutant(
        "chat: typing is said later",
        "trio_rt/chat/_client/typing.py",
        'key=f"{TYPING}:{room}", when_offline="drop"',
        'when_offline="queue"',
        (TYPING,),
    ),
    Mutant(
        "chat: a message is shown beside its echo",
        "trio_rt/chat/_client/log.py",
        "            self._pending.pop(item.id)\n        self._until",
        "            pass\n        self._until",
        (ROOM_LOG,),
    ),
    Mutant(
        "chat: another user's message is one's own echo",
        "trio_rt/chat/_client/log.py",
        "        if mine and isinstance(body, SaidBody):\n",
        "        if isinstance(body, SaidBody):\n",
        (ROOM_LOG,),
    ),
    Mutant(
        "chat: unread is counted once",
        "trio_rt/chat/_client/log.py",
        "        if self._unread is None or self._unread[0] != mark:\n",
        "        if self._unread is None:\n",
        (ROOM_LOG, ROOM),
    ),
    Mutant(
        "chat: a mark is told that was told",
        "trio_rt/chat/_client/marker.py",
        "                if offset > self._told:\n",
        "                if True:\n",
        (ROOM,),
    ),
    Mutant(
        "chat: a mark goes back with who comes last",
        "trio_rt/chat/_client/marker.py",
        "                furthest = max(self._wanted)\n",
        "                furthest = offset\n",
        (ROOM,),
    ),
    Mutant(
        "chat: the last is said first",
        "trio_rt/chat/_client/speaker.py",
        "                    _, said = self._queue.popitem(last=False)\n"
        "                    await self._say(said)\n",
        "                    _, said = self._queue.popitem()\n"
        "                    await self._say(said)\n",
        (SAID,),
    ),
    Mutant(
        "chat: a retry stands where it failed",
        "trio_rt/chat/_client/pending.py",
        '        if state == "queued":\n            del self._messages[id]\n',
        "",
        (SAID, ROOM_LOG),
    ),
    Mutant(
        "chat: what failed keeps its place in the queue",
        "trio_rt/chat/_client/speaker.py",
        "            return\n        self._release(said.id)\n        message = self._log.moved",
        "            return\n        message = self._log.moved",
        (SAID,),
    ),
    Mutant(
        "chat: an older edit wins",
        "trio_rt/chat/_client/amendments.py",
        "        if self.deleted or offset <= self.edit:\n",
        "        if self.deleted:\n",
        (ROOM_LOG, "tests/chat/test_room_log_model.py"),
    ),
    # Files
    Mutant(
        "chat: a file name has its directories",
        "trio_rt/chat/_service/file_names.py",
        'unicodedata.normalize("NFC", seen))[-1]',
        'unicodedata.normalize("NFC", seen))[0]',
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: a name turns its direction",
        "trio_rt/chat/_service/file_names.py",
        'frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})',
        'frozenset({"Cc", "Cs", "Zl", "Zp"})',
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: any file is shown in the page",
        "trio_rt/chat/_service/file_routes.py",
        '                "attachment" if image is None else "inline", name_in(name)\n',
        '                "inline", name_in(name)\n',
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: a file may run in the browser",
        "trio_rt/chat/_service/file_routes.py",
        '    "Content-Security-Policy": "sandbox; default-src \'none\'",\n',
        "",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: a browser guesses what a file is",
        "trio_rt/chat/_service/file_routes.py",
        '    "X-Content-Type-Options": "nosniff",\n',
        "",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: pages of other origins upload",
        "trio_rt/chat/_service/file_routes.py",
        "        if not _handshake(request).same_origin:\n",
        "        if False:\n",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: an upload may be longer than it said",
        "trio_rt/chat/_service/file_routes.py",
        "    if length is not None and offset + size > length:\n",
        "    if length is not None and size > length:\n",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: anybody goes on with an upload",
        "trio_rt/chat/_service/uploads.py",
        "        return found if found is not None and found.user == user else None\n",
        "        return found\n",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: a file that was there counts twice",
        "trio_rt/chat/_service/disk.py",
        "            is_new = not target.exists()\n",
        "            is_new = True\n",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: what waits is not reserved",
        "trio_rt/chat/_service/uploads.py",
        "        if self._held(length) + self._reserved(kept.values()) > left_bytes:\n",
        "        if self._held(length) > left_bytes:\n",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: bytes go where a client says",
        "trio_rt/chat/_service/files.py",
        "            if offset != upload.offset:\n",
        "            if offset > upload.offset:\n",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: only what is written counts",
        "trio_rt/chat/_service/files.py",
        "                if upload.offset + len(held) + len(piece) > most:\n",
        "                if upload.offset + len(piece) > most:\n",
        (FILES, UPLOADS),
    ),
    Mutant(
        "chat: a lie about the type is believed",
        "trio_rt/chat/_service/files.py",
        "        if kind is None or not may_be(kind, self._types):\n",
        "        if kind is not None and not may_be(kind, self._types):\n",
        (UPLOADS,),
    ),
    Mutant(
        "chat: what failed its checksum stays",
        "trio_rt/chat/_service/files.py",
        "                if checksum is None or is_whole:\n",
        "                if True:\n",
        (FILES, UPLOADS),
    ),
)
