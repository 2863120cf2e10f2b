"""What the store itself does, in Lua: each script is one step that nobody sees half done.

All keys begin with the prefix and a colon, then a kind, and for most another colon and
a name: whatever is in a name, it cannot make one key look like another.

    b    stream   the bus: everything that happens in any room, for all nodes to read
    bm   hash     of the bus: g generation, n entries ever, c bytes ever
    m:R  hash     a room: e epoch, n last offset, c bytes ever, t ms of the last message,
                  k number of its newest hash of keys, ks when that began (ms), kn how many
                  are in it, x when its keys were last told to expire (ms)
    l:R  stream   its log. The id is `offset-0`; h "c t": as in `m`, as of that message
    k<i>:R hash   keys of drafts, hashed: "offset ms". Only the two newest are known
    p:R  hash     its roster: device -> node (16 characters) and the rest, packed by us
    r:R  hash     its marks: user -> offset
    n:N  string   the lease of a node: it expires; the value is the number of its link
    ns   set      all nodes that had a lease, and are not cleared away yet
    d:N  hash     what a node has in rosters: "length of the room's name:room device"

An entry of the bus has the fields r (the room), h ("kind g n c ...") and more by kind:

    i  a message: h goes on with epoch, offset, ms; b body; then, where there are, u only, x but
    e  a device is there: d, v as in the roster
    a  it is not: h goes on with 1 if it left as it wished, or 0; d
    m  a mark: h goes on with the offset; u        z  the room has a new epoch

The bus's counter n is consecutive, so that a reader knows exactly whether it has missed
something, whatever the reason. A key that is of another type than it should be, or
nonsense, is garbage: it is deleted, counted (`healed`), and what it was is begun anew.

Every script reads before it writes, and what it writes first is a command that is refused
when the store is full: so it, or each of its operations, is done wholly or not at all.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["APPLY", "CLEAR", "PAGE", "RENEW", "SCRIPTS", "TAIL", "WATCH", "sha_of"]

# ARGV: prefix, seed, messages, total_bytes, keep_ms (0: for ever), repeat_ms, most keys,
# entries of the bus, bytes of the bus; what follows is each script's own. The seed is
# fresh: epochs and generations are made of it.
_COMMON: Final = """
local P, SEED = ARGV[1] .. ':', ARGV[2]
local MESSAGES, BYTES, KEEP, REPEAT = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local KEYS_MOST, BUS_MESSAGES, BUS_BYTES = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
local healed, seeds = 0, 0

local function text(n) return string.format('%.0f', n) end

local function whole(s)
  local n = s and #s <= 15 and string.match(s, '^%d+$') and tonumber(s)
  return n or nil
end

local function fresh()
  seeds = seeds + 1
  return SEED .. '-' .. text(seeds)
end

local function own(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
    healed = healed + 1
  end
  return key
end

local BUS, BUS_META = P .. 'b', P .. 'bm'
local g, n, c
local said = false

local function begin_bus()
  g, n, c = fresh(), 0, 0
  redis.call('HSET', BUS_META, 'g', g, 'n', 0, 'c', 0)
  redis.call('DEL', BUS)
end

local function open_bus()
  if g then return end
  own(BUS, 'stream')
  own(BUS_META, 'hash')
  local meta = redis.call('HMGET', BUS_META, 'g', 'n', 'c')
  g, n, c = meta[1], whole(meta[2]), whole(meta[3])
  if not (g and n and c) then begin_bus() end
end

local function say(kind, room, more, size, ...)
  open_bus()
  local function add(...)
    local h = kind .. ' ' .. g .. ' ' .. text(n + 1) .. ' ' .. text(c + size) .. more
    return redis.pcall('XADD', BUS, '*', 'r', room, 'h', h, ...)
  end
  local id = add(...)
  if type(id) == 'table' and id.err and string.find(id.err, 'ID', 1, true) then
    healed = healed + 1
    begin_bus()
    id = add(...)
  end
  if type(id) == 'table' and id.err then error(id) end
  n, c, said = n + 1, c + size, true
end

local function keep_bus()
  if said then redis.call('HSET', BUS_META, 'n', text(n), 'c', text(c)) end
  said = false
end

local function trim_bus()
  if not said then return end
  keep_bus()
  redis.call('XTRIM', BUS, 'MAXLEN', '~', BUS_MESSAGES)
  local from, step = '-', 1
  while true do
    local found = redis.call('XRANGE', BUS, from, '+', 'COUNT', step)
    if #found == 0 then return end
    for _, entry in ipairs(found) do
      local at = whole(string.match(entry[2][4] or '', '^%a %S+ %d+ (%d+)'))
      if at and c - at <= BUS_BYTES then
        if from ~= '-' or entry ~= found[1] then redis.call('XTRIM', BUS, 'MINID', entry[1]) end
        return
      end
    end
    from, step = '(' .. found[#found][1], math.min(step * 2, 64)
  end
end

local rooms = {}

local function begin_room(s)
  -- Hashes of keys are numbered from the time on: those of before are not found again.
  s.e, s.n, s.c, s.t, s.k, s.ks, s.kn, s.x = fresh(), 0, 0, 0, NOW, NOW, 0, 0
  redis.call('HSET', s.meta, 'e', s.e, 'n', 0, 'c', 0, 't', 0, 'k', text(NOW), 'ks', text(NOW), 'kn', 0, 'x', 0)
  redis.call('DEL', s.log, s.marks)
end

local function open_room(name)
  local s = rooms[name]
  if s then return s end
  s = {name = name, meta = P .. 'm:' .. name, log = P .. 'l:' .. name, marks = P .. 'r:' .. name,
       keys = P .. 'k'}
  own(s.meta, 'hash')
  own(s.log, 'stream')
  own(s.marks, 'hash')
  local m = redis.call('HMGET', s.meta, 'e', 'n', 'c', 't', 'k', 'ks', 'kn', 'x')
  s.e, s.n, s.c, s.t = m[1], whole(m[2]), whole(m[3]), whole(m[4])
  s.k, s.ks, s.kn, s.x = whole(m[5]), whole(m[6]), whole(m[7]), whole(m[8])
  if not (s.e and s.n and s.c and s.t and s.k and s.ks and s.kn and s.x
          and string.match(s.e, '^[%w%-]+$')) then
    if m[1] then healed = healed + 1 end
    begin_room(s)
  end
  rooms[name] = s
  return s
end

local function stored_at(entry)
  local o = whole(string.match(entry[1], '^(%d+)%-0$'))
  local at, t = string.match(entry[2][2] or '', '^(%d+) (%d+)$')
  if o and at and entry[2][1] == 'h' and entry[2][3] == 'b' and entry[2][4] then
    return o, whole(at), whole(t), #entry[2][4]
  end
end

local function prune(s)
  redis.call('XTRIM', s.log, 'MAXLEN', '=', MESSAGES)
  local from, step = '-', 1
  while true do
    local found = redis.call('XRANGE', s.log, from, '+', 'COUNT', step)
    if #found == 0 then
      if from ~= '-' then redis.call('XTRIM', s.log, 'MAXLEN', '=', 0) end
      s.first = s.n + 1
      return
    end
    for _, entry in ipairs(found) do
      local o, at, t, size = stored_at(entry)
      if o and o <= s.n and o > s.n - MESSAGES and s.c - at + size <= BYTES
         and (KEEP == 0 or t > NOW - KEEP) then
        if from ~= '-' or entry ~= found[1] then redis.call('XTRIM', s.log, 'MINID', entry[1]) end
        s.first = o
        return
      end
    end
    from, step = '(' .. found[#found][1], math.min(step * 2, 64)
  end
end

local function touch(s)
  if KEEP == 0 then return end
  local lasts = 2 * (KEEP + REPEAT)
  if NOW - s.x > lasts / 8 then
    for _, key in ipairs({s.meta, s.log, s.marks}) do redis.call('PEXPIRE', key, text(lasts)) end
    redis.call('HSET', s.meta, 'x', text(NOW))
  end
end
"""

# Do operations, each wholly or not at all, in order. ARGV from 10: node, number of its
# link, then each operation's letter and arguments:
#
#   a room key body only but     append -> {epoch, offset, ms, healed}
#   p room body only but         pass
#   e room device value          enter
#   l room device for_good       leave; 1: as it wished
#   m room user offset           mark
#   v room epoch offset ms       a position that was given; if the room has no such message
#                                there (any more) its epoch is changed, and its marks go
#
# -> {healed, reply, reply, ...}: a reply is 1, an append's, or an error as text. All is
# refused with "SUPERSEDED" if the node has a newer link.
APPLY: Final = (
    _COMMON
    + """
local node, link = ARGV[10], ARGV[11]
local i = 12
local lease = redis.call('GET', own(P .. 'n:' .. node, 'string'))
if lease and lease ~= link then return redis.error_reply('SUPERSEDED by a newer link') end

local function take()
  i = i + 1
  return ARGV[i - 1]
end

local function owned(room, device) return #room .. ':' .. room .. device end

local function message(room, epoch, offset, body, only, but)
  local fields = {'b', body}
  if only ~= '' then fields[#fields + 1] = 'u'; fields[#fields + 1] = only end
  if but ~= '' then fields[#fields + 1] = 'x'; fields[#fields + 1] = but end
  local more = ' ' .. epoch .. ' ' .. text(offset) .. ' ' .. text(NOW)
  return more, #room + #body + #only + #but + 150, fields
end

local function keys_of(s)
  local newest = s.keys .. text(s.k) .. ':' .. s.name
  local older = s.keys .. text(s.k - 1) .. ':' .. s.name
  if not s.checked then
    own(newest, 'hash')
    own(older, 'hash')
    s.checked = true
  end
  return newest, older
end

local function known(s, key)
  local newest, older = keys_of(s)
  local seen = redis.call('HGET', newest, key) or redis.call('HGET', older, key)
  local o, t = string.match(seen or '', '^(%d+) (%d+)$')
  o, t = whole(o), whole(t)
  if o and o <= s.n and t > NOW - REPEAT then return o, t end
end

local function remember(s, key, o)
  if NOW - s.ks >= REPEAT or s.kn >= KEYS_MOST then
    redis.call('HSET', s.meta, 'k', text(s.k + 1), 'ks', text(NOW), 'kn', 0)
    redis.call('DEL', s.keys .. text(s.k - 1) .. ':' .. s.name)
    s.k, s.ks, s.kn, s.checked = s.k + 1, NOW, 0, false
  end
  local newest = keys_of(s)
  redis.call('HSET', newest, key, text(o) .. ' ' .. text(NOW))
  s.kn = s.kn + 1
  if s.kn == 1 then redis.call('PEXPIRE', newest, text(2 * REPEAT + 1000)) end
end

local ops = {}

function ops.a()
  local room, key, body, only, but = take(), take(), take(), take(), take()
  return function()
    local s = open_room(room)
    local o, t = known(s, key)
    if o then return {s.e, text(o), text(t)} end
    open_bus()
    remember(s, key, s.n + 1)
    local function add()
      local stored = {'h', text(s.c + #body) .. ' ' .. text(NOW), 'b', body}
      if only ~= '' then stored[5] = 'u'; stored[6] = only end
      if but ~= '' then stored[#stored + 1] = 'x'; stored[#stored + 1] = but end
      return redis.pcall('XADD', s.log, text(s.n + 1) .. '-0', unpack(stored))
    end
    local id = add()
    if type(id) == 'table' and id.err and string.find(id.err, 'ID', 1, true) then
      healed = healed + 1
      begin_room(s)
      remember(s, key, 1)
      id = add()
    end
    if type(id) == 'table' and id.err then error(id) end
    s.n, s.c, s.t = s.n + 1, s.c + #body, NOW
    redis.call('HSET', s.meta, 'n', text(s.n), 'c', text(s.c), 't', text(NOW), 'kn', text(s.kn))
    s.grown = true
    local more, size, fields = message(room, s.e, s.n, body, only, but)
    say('i', room, more, size, unpack(fields))
    return {s.e, text(s.n), text(NOW)}
  end
end

function ops.p()
  local room, body, only, but = take(), take(), take(), take()
  return function()
    local more, size, fields = message(room, open_room(room).e, 0, body, only, but)
    say('i', room, more, size, unpack(fields))
    return 1
  end
end

function ops.e()
  local room, device, value = take(), take(), take()
  return function()
    open_bus()
    redis.call('HSET', own(P .. 'd:' .. node, 'hash'), owned(room, device), #room)
    redis.call('HSET', own(P .. 'p:' .. room, 'hash'), device, value)
    say('e', room, '', #room + #value + 150, 'd', device, 'v', value)
    return 1
  end
end

function ops.l()
  local room, device, for_good = take(), take(), take()
  return function()
    local roster = own(P .. 'p:' .. room, 'hash')
    local value = redis.call('HGET', roster, device)
    open_bus()
    redis.call('HDEL', own(P .. 'd:' .. node, 'hash'), owned(room, device))
    if value and string.sub(value, 1, 16) == node then
      redis.call('HDEL', roster, device)
      say('a', room, ' ' .. for_good, #room + 150, 'd', device)
    end
    return 1
  end
end

function ops.m()
  local room, user, offset = take(), take(), tonumber(take())
  return function()
    local s = open_room(room)
    if offset > s.n or offset <= (whole(redis.call('HGET', s.marks, user)) or 0) then return 1 end
    redis.call('HSET', s.marks, user, text(offset))
    if redis.call('HLEN', s.marks) == 1 then s.x = 0 end
    say('m', room, ' ' .. text(offset), #room + 150, 'u', user)
    return 1
  end
end

function ops.v()
  local room, epoch, offset, t = take(), take(), tonumber(take()), tonumber(take())
  return function()
    local s = open_room(room)
    if s.e ~= epoch then return 1 end
    local same = s.n == offset and s.t == t
    if s.n > offset then
      local id = text(offset) .. '-0'
      local found = redis.call('XRANGE', s.log, id, id)[1]
      local _, _, at = stored_at(found or {'', {}})
      same = at == t
    end
    if same then return 1 end
    s.e = fresh()
    redis.call('HSET', s.meta, 'e', s.e)
    redis.call('DEL', s.marks)
    say('z', room, '', #room + 150)
    return 1
  end
end

local replies = {}
while i <= #ARGV do
  local op = ops[take()]()
  local ok, reply = pcall(op)
  if not ok then
    reply = 'ERR ' .. tostring(type(reply) == 'table' and reply.err or reply)
    keep_bus()
    rooms, g = {}, nil
  end
  replies[#replies + 1] = reply
end
for _, s in pairs(rooms) do
  if s.grown then prune(s) end
  touch(s)
end
trim_bus()
return {healed, unpack(replies)}
"""
)

# ARGV 10: id of the last entry that was read, or "0-0".
# -> {g, n, id of the newest entry, 1 if the last read is there, healed}
TAIL: Final = (
    _COMMON
    + """
open_bus()
local newest = redis.call('XREVRANGE', BUS, '+', '-', 'COUNT', 1)[1]
local there = #redis.call('XRANGE', BUS, ARGV[10], ARGV[10])
return {g, text(n), newest and newest[1] or '0-0', there, healed}
"""
)

# ARGV 10: room -> {epoch, first, last, ms of the last, roster, nodes with a lease, marks,
# g, n, healed}: g and n are the bus as the snapshot was taken.
WATCH: Final = (
    _COMMON
    + """
local s = open_room(ARGV[10])
open_bus()
prune(s)
touch(s)
local alive = {}
for _, node in ipairs(redis.call('SMEMBERS', own(P .. 'ns', 'set'))) do
  if redis.call('EXISTS', P .. 'n:' .. node) == 1 then alive[#alive + 1] = node end
end
local roster = redis.call('HGETALL', own(P .. 'p:' .. s.name, 'hash'))
return {s.e, text(s.first), text(s.n), text(s.t), roster, alive,
        redis.call('HGETALL', s.marks), g, text(n), healed}
"""
)

# ARGV from 10: room, "after" or "before", offset (from 0), limit, max_bytes
# -> {epoch, first, last, entries on the way from the offset, healed}
PAGE: Final = (
    _COMMON
    + """
local s = open_room(ARGV[10])
prune(s)
touch(s)
local way, offset, limit, budget = ARGV[11], tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local taken, edge = {}, nil
if way == 'after' then
  offset = math.max(offset, s.first - 1)
  edge = text(offset) .. '-18446744073709551615'
else
  offset = math.min(offset, s.n + 1)
  edge = text(offset) .. '-0'
end
local open = way == 'after' and offset < s.n or way == 'before' and offset > s.first
while open and #taken < limit do
  local count = math.min(limit - #taken, 16)
  local found
  if way == 'after' then found = redis.call('XRANGE', s.log, '(' .. edge, '+', 'COUNT', count)
  else found = redis.call('XREVRANGE', s.log, '(' .. edge, '-', 'COUNT', count) end
  if #found < count then open = false end
  for _, entry in ipairs(found) do
    edge = entry[1]
    local o, _, _, size = stored_at(entry)
    if o then
      budget = budget - size
      if #taken > 0 and budget < 0 then open = false; break end
      taken[#taken + 1] = entry
    else
      healed = healed + 1
    end
  end
end
return {s.e, text(s.first), text(s.n), taken, healed}
"""
)

# Hold on to a lease. ARGV from 10: node, lease in ms
# -> {1 if it still was, nodes whose lease is over}
RENEW: Final = (
    _COMMON
    + """
local held = redis.call('PEXPIRE', own(P .. 'n:' .. ARGV[10], 'string'), ARGV[11])
local nodes = own(P .. 'ns', 'set')
redis.pcall('SADD', nodes, ARGV[10])
local over = {}
for _, node in ipairs(redis.call('SMEMBERS', nodes)) do
  if redis.call('EXISTS', P .. 'n:' .. node) == 0 and node ~= ARGV[10] then over[#over + 1] = node end
end
return {held, over}
"""
)

# Clear away up to 500 devices of a node without a lease. ARGV from 10: node, and the number
# of its link if it goes itself (else ""); its lease ends then. -> 1 if there may be more
CLEAR: Final = (
    _COMMON
    + """
local node = ARGV[10]
local lease = redis.call('GET', own(P .. 'n:' .. node, 'string'))
if lease and lease ~= ARGV[11] then return 0 end
redis.call('DEL', P .. 'n:' .. node)
local devices = own(P .. 'd:' .. node, 'hash')
local found = redis.call('HSCAN', devices, '0', 'COUNT', 500)
local all = found[2]
for j = 1, #all, 2 do
  local size, rest = string.match(all[j], '^(%d+):(.*)$')
  size = whole(size)
  if size then
    local room, device = string.sub(rest, 1, size), string.sub(rest, size + 1)
    local roster = own(P .. 'p:' .. room, 'hash')
    local value = redis.call('HGET', roster, device)
    if value and string.sub(value, 1, 16) == node then
      redis.call('HDEL', roster, device)
      say('a', room, ' 0', #room + 150, 'd', device)
    end
  end
  redis.call('HDEL', devices, all[j])
end
trim_bus()
if redis.call('EXISTS', devices) == 1 then return 1 end
redis.call('SREM', own(P .. 'ns', 'set'), node)
return 0
"""
)

SCRIPTS: Final = (APPLY, TAIL, WATCH, PAGE, RENEW, CLEAR)


def sha_of(script: str) -> str:
    """By which the store knows it once it is loaded."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
