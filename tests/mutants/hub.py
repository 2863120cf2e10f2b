"""Known mistakes of the hub: its stores, its rooms, what is told, and the client's rooms."""

from __future__ import annotations

from typing import Final

from .table import Mutant

__all__ = ["HUB_MUTANTS"]

BROKERS: Final = "tests/hub/test_brokers.py"
LOG: Final = "tests/hub/test_log.py"
MEMORY: Final = "tests/hub/test_memory_broker.py"
SQLITE: Final = "tests/hub/test_sqlite_broker.py"
# Without a server.
_REDIS: Final = "tests/hub/test_redis_broker.py::"
REDIS_LOST: Final = _REDIS + "test_what_is_lost_with_a_link"
REDIS_ORDER: Final = _REDIS + "test_drafts_of_a_lost_batch_keep_their_order"
REDIS_DEVICES: Final = _REDIS + "test_devices_of_a_lost_batch_are_said_again"
REDIS_HOLE: Final = _REDIS + "test_a_page_ends_at_a_hole"
ROOM: Final = "tests/hub/test_room.py"
ROSTER: Final = "tests/hub/test_roster.py"
HUB: Final = "tests/hub/test_hub.py"
RULES: Final = "tests/hub/test_hub_rules.py"
BAD_INPUT: Final = "tests/hub/test_hub_bad_input.py"
LAG: Final = "tests/hub/test_hub_lag.py"
FOLLOW: Final = "tests/hub/test_follow.py"
CLIENT: Final = "tests/hub/test_client.py"
CLIENT_FAULTS: Final = "tests/hub/test_client_faults.py"
SITE: Final = "tests/hub/test_site.py"

HUB_MUTANTS: Final = (
    # Stores
    Mutant(
        "hub: a key is known for ever",
        "trio_rt/hub/_log.py",
        "        while seen and seen[0][0] <= old:\n",
        "        while seen and seen[0][0] <= -old:\n",
        (LOG,),
    ),
    Mutant(
        "hub: one message more than the log's limit",
        "trio_rt/hub/_log.py",
        "len(times) > limits.messages or",
        "len(times) > limits.messages + 1 or",
        (LOG,),
    ),
    Mutant(
        "hub: a repeated message is told again",
        "trio_rt/hub/brokers/memory.py",
        "            if room.watched:\n                sink.item(item)\n        if not",
        "        if room.watched:\n            sink.item(log._items[offset])\n        if not",
        (BROKERS,),
    ),
    Mutant(
        "hub: a forgotten log's epoch is used again",
        "trio_rt/hub/brokers/memory.py",
        '            self._epoch = f"{self._epochs}-{self._forgotten:x}"\n',
        "",
        (MEMORY,),
    ),
    Mutant(
        "hub: a mark goes back",
        "trio_rt/hub/brokers/memory.py",
        "        if marks.get(user, 0) < offset <= there.log.last:\n",
        "        if offset <= there.log.last:\n",
        (MEMORY, BROKERS),
    ),
    Mutant(
        "hub: the devices of a hub that has ended stay",
        "trio_rt/hub/brokers/memory.py",
        "                room.present.clear()\n",
        "",
        (MEMORY, BROKERS),
    ),
    Mutant(
        "hub: the file's keys are old too late",
        "trio_rt/hub/brokers/_sqlite_file.py",
        "(room.id, draft.key, now - self._limits.repeat_s)",
        "(room.id, draft.key, now - self._limits.keep_s)",
        (SQLITE, BROKERS),
    ),
    Mutant(
        "hub: marks that a commit lost stay lost",
        "trio_rt/hub/brokers/sqlite.py",
        "            for mark, offset in marks.items():\n"
        "                self._marks[mark] = max(offset, self._marks.get(mark, 0))\n",
        "",
        (SQLITE,),
    ),
    Mutant(
        "hub: a post overtakes what waits for the disk",
        "trio_rt/hub/brokers/sqlite.py",
        "        if room.watched and not len(self._queue):\n",
        "        if room.watched:\n",
        (SQLITE, BROKERS),
    ),
    Mutant(
        "hub: nobody looks anew after the file was away",
        "trio_rt/hub/brokers/sqlite.py",
        "            self._sink.lost(None)\n",
        "            pass\n",
        (SQLITE,),
    ),
    Mutant(
        "hub: drafts of a lost batch come in another order",
        "trio_rt/hub/brokers/_redis_queue.py",
        "self._waiting.extendleft(reversed(batch.entries))",
        "self._waiting.extendleft(batch.entries)",
        (REDIS_ORDER,),
    ),
    Mutant(
        "hub: what passes is sent again",
        "trio_rt/hub/brokers/_redis_queue.py",
        "            if not entry.stored:\n",
        "            if False:\n",
        (REDIS_LOST,),
    ),
    Mutant(
        "hub: devices of a lost batch are not said again",
        "trio_rt/hub/brokers/_redis_queue.py",
        "            self._changed = dict.fromkeys(batch.devices) | self._changed\n",
        "",
        (REDIS_DEVICES,),
    ),
    Mutant(
        "hub: who leaves on the way stays in the store",
        "trio_rt/hub/brokers/_redis_queue.py",
        "        if key in self._given or flying:\n",
        "        if flying:\n",
        (REDIS_DEVICES,),
    ),
    Mutant(
        "hub: a page of the store may have holes",
        "trio_rt/hub/brokers/_redis_wire.py",
        "    while end < len(items) and items[end].offset == items[end - 1].offset + step:\n",
        "    while end < len(items):\n",
        (REDIS_HOLE,),
    ),
    # The roster
    Mutant(
        "hub: a user has left with the first device",
        "trio_rt/hub/_server/roster.py",
        "        if devices:\n            return\n",
        "",
        (ROSTER,),
    ),
    Mutant(
        "hub: who is back in the grace leaves nevertheless",
        "trio_rt/hub/_server/roster.py",
        "        self._leaving.pop(user, None)\n",
        "",
        (ROSTER,),
    ),
    Mutant(
        "hub: a grace for who left as it wished",
        "trio_rt/hub/_server/roster.py",
        "        if for_good:\n",
        "        if for_good and self._grace_s == 0:\n",
        (ROSTER, HUB),
    ),
    Mutant(
        "hub: words from before a loss are the last",
        "trio_rt/hub/_server/roster.py",
        "        self._early = {}\n\n    def _drop",
        "        self._early = self._early or {}\n\n    def _drop",
        (ROSTER,),
    ),
    Mutant(
        "hub: a snapshot undoes a newer word",
        "trio_rt/hub/_server/roster.py",
        "                entered[device] = word\n",
        "                entered.setdefault(device, word)\n",
        (ROSTER,),
    ),
    # Rooms
    Mutant(
        "hub: a loss during a snapshot is in it",
        "trio_rt/hub/_server/room.py",
        "            self._again = True\n            return False\n",
        "            return False\n",
        (ROOM,),
    ),
    Mutant(
        "hub: a newcomer is told what it was given",
        "trio_rt/hub/_server/room.py",
        "        self.newcomers[guest] = len(self.waiting)\n",
        "        self.newcomers[guest] = 0\n",
        (ROOM, HUB),
    ),
    Mutant(
        "hub: a hole in the log is passed over",
        "trio_rt/hub/_server/room.py",
        "            if item.epoch != head.epoch or item.offset > head.last + 1:\n",
        "            if item.epoch != head.epoch:\n",
        (ROOM,),
    ),
    Mutant(
        "hub: marks of another log stay",
        "trio_rt/hub/_server/room.py",
        "        if snapshot.head.epoch == self.head.epoch or not self.opened.is_set():\n",
        "        if True:\n",
        (ROOM,),
    ),
    Mutant(
        "hub: a room goes while somebody is about to join",
        "trio_rt/hub/_server/rooms.py",
        "        if not room.size and not room.expected and self._rooms",
        "        if not room.size and self._rooms",
        (HUB, BAD_INPUT),
    ),
    # What is told
    Mutant(
        "hub: who lags is written to",
        "trio_rt/hub/_server/tell.py",
        "                if guest.lag is not None:\n"
        "                    guest.lag.missed[room] = None\n"
        "                    continue\n",
        "",
        (LAG,),
    ),
    Mutant(
        "hub: who lagged is not told what it missed",
        "trio_rt/hub/_server/tell.py",
        "                    self._lags(guest).missed[room] = None\n",
        "                    self._lags(guest)\n",
        (LAG,),
    ),
    Mutant(
        "hub: who left in a slice is told on",
        "trio_rt/hub/_server/tell.py",
        "                if guest not in members:\n                    continue\n",
        "",
        (HUB, LAG),
    ),
    Mutant(
        "hub: what is for one user is for all",
        "trio_rt/hub/_server/told.py",
        "    if event.only and event.only != user:\n        return None\n",
        "",
        (HUB,),
    ),
    Mutant(
        "hub: each member is encoded for",
        "trio_rt/hub/_server/told.py",
        "            found = self._common[tongue] = self._broadcast",
        "            found = self._broadcast",
        (HUB,),
    ),
    # Commands
    Mutant(
        "hub: one room too many",
        "trio_rt/hub/_server/commands.py",
        "            if len(guest.rooms) >= hub.limits.rooms_per_peer:\n",
        "            if len(guest.rooms) > hub.limits.rooms_per_peer:\n",
        (HUB,),
    ),
    Mutant(
        "hub: a hook's None lets in",
        "trio_rt/hub/_server/commands.py",
        "    if allowed is not True:\n",
        "    if allowed is False:\n",
        (BAD_INPUT,),
    ),
    Mutant(
        "hub: who was removed while it asked may still speak",
        "trio_rt/hub/_server/commands.py",
        "        _joined(guest, command.room)  # still\n",
        "",
        (BAD_INPUT,),
    ),
    Mutant(
        "hub: a mark beyond the log is taken",
        "trio_rt/hub/_server/commands.py",
        "        if not 0 <= command.offset <= room.head.last:\n",
        "        if not 0 <= command.offset:\n",
        (BAD_INPUT, HUB),
    ),
    Mutant(
        "hub: a key is not of its user alone",
        "trio_rt/hub/_server/drafts.py",
        '    return Draft(command.room, f"{user}\\n{id}", body, command.user, spared)\n',
        "    return Draft(command.room, id, body, command.user, spared)\n",
        (HUB, BAD_INPUT),
    ),
    # The client's way through the log
    Mutant(
        "hub: a double is given twice",
        "trio_rt/hub/_client/follow.py",
        "        elif event.offset > self.cursor:\n",
        "        else:\n",
        (FOLLOW,),
    ),
    Mutant(
        "hub: what is behind a hole is given at once",
        "trio_rt/hub/_client/follow.py",
        "        if event.offset > self.cursor + 1:\n            self._keep(event)\n        elif",
        "        if",
        (FOLLOW,),
    ),
    Mutant(
        "hub: a new log's page by an old offset is believed",
        "trio_rt/hub/_client/follow.py",
        "                items = ()  # it was asked for by an offset of the former log\n",
        "                pass\n",
        (FOLLOW,),
    ),
    Mutant(
        "hub: pages come faster than they are taken",
        "trio_rt/hub/_client/member.py",
        "                elif self.follow.behind and self.channel.has_drained:\n",
        "                elif self.follow.behind:\n",
        (CLIENT, CLIENT_FAULTS),
    ),
    Mutant(
        "hub: all rooms ask at once",
        "trio_rt/hub/_client/desk.py",
        "            self._free -= 1\n",
        "",
        (CLIENT_FAULTS, CLIENT),
    ),
    Mutant(
        "hub: a refused command is tried again without a pause",
        "trio_rt/hub/_client/membership.py",
        "            await trio.sleep(next(waits))\n",
        "            next(waits)\n",
        (CLIENT,),
    ),
    Mutant(
        "hub: a publish whose answer was lost is another message",
        "trio_rt/hub/_client/membership.py",
        "            if event is None:\n                continue\n",
        "            if event is None:\n"
        '                if "id" in body:\n'
        '                    body["id"] += "x"\n'
        "                continue\n",
        (CLIENT_FAULTS, CLIENT),
    ),
    # The site
    Mutant(
        "hub: a name that begins with a dot is served",
        "trio_rt/hub/_server/site.py",
        '        if name.startswith(".") or _FORBIDDEN.search(name):\n',
        "        if _FORBIDDEN.search(name):\n",
        (SITE,),
    ),
    Mutant(
        "hub: an encoded slash is one",
        "trio_rt/hub/_server/site.py",
        r'_FORBIDDEN: Final = re.compile(r"[/\\\x00-',
        r'_FORBIDDEN: Final = re.compile(r"[\x00-',
        (SITE,),
    ),
    Mutant(
        "hub: any origin that ends as the own one",
        "trio_rt/hub/_server/site.py",
        "        if handshake.origin is not None and handshake.origin not in known | _own(handshake):\n",
        "        if handshake.origin is not None and not handshake.origin.endswith(\n"
        "            tuple(each.partition('//')[2] for each in known | _own(handshake))\n"
        "        ):\n",
        (SITE,),
    ),
)
