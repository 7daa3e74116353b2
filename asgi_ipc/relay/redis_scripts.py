"""What the server runs for queues: each script is one change, whole or absent, by its own clock.

A queue has a stream of its frames, a set of their deadlines and a set of the wires that wait for
it. ``KEYS`` are these three and the set of all queues; all of them expire. Times are milliseconds.
The set of deadlines finds dead frames behind living ones; each frame has its own deadline too, in
case a server short of memory has evicted the set.
"""

from __future__ import annotations

#: Looks at the clock, and removes up to a thousand dead frames.
_BEGIN = b"""
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local dead = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)
for _, id in ipairs(dead) do
  redis.call('XDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
local function live()
  return redis.call('ZCOUNT', KEYS[2], '(' .. now, '+inf')
end
local function keep(key, milliseconds)
  if redis.call('PTTL', key) < milliseconds then redis.call('PEXPIRE', key, milliseconds) end
end
local function wake(queue, ready)
  while true do
    local waiting = redis.call('ZPOPMIN', KEYS[3])
    if #waiting == 0 or redis.call('PUBLISH', ready .. waiting[1], queue) > 0 then return end
  end
end
"""

#: Arguments: frame, lifetime, capacity, queue, beginning of the names that wake wires.
PUSH = (
    _BEGIN
    + b"""
local count = live()
if count >= tonumber(ARGV[3]) then return {count, 'capacity'} end
local lifetime = tonumber(ARGV[2])
if lifetime <= 0 then return {count, ''} end
local id = redis.call('XADD', KEYS[1], '*', 'd', now + lifetime, 'f', ARGV[1])
redis.call('ZADD', KEYS[2], now + lifetime, id)
keep(KEYS[1], lifetime + 5000)
keep(KEYS[2], lifetime + 5000)
local known = redis.call('ZSCORE', KEYS[4], ARGV[4])
if not known or tonumber(known) < now + lifetime then
  redis.call('ZADD', KEYS[4], now + lifetime, ARGV[4])
end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
keep(KEYS[4], lifetime + 5000)
wake(ARGV[4], ARGV[5])
return {count + 1, ''}
"""
)

#: Arguments: limit, name of the wire. At most some 16 MiB and a frame, as no reply may be longer
#: than a client takes at once.
POP = (
    _BEGIN
    + b"""
local limit = tonumber(ARGV[1])
local found, size = {}, 0
while #found < limit and size < 16777216 do
  local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(limit - #found, 1000))
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    if size >= 16777216 then break end
    redis.call('XDEL', KEYS[1], entry[1])
    redis.call('ZREM', KEYS[2], entry[1])
    if tonumber(entry[2][2]) > now then
      found[#found + 1] = entry[2][4]
      size = size + #entry[2][4]
    end
  end
end
if #found < limit then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - 600000)
  redis.call('ZADD', KEYS[3], 'NX', now + clock[2] % 1000 / 1000, ARGV[2])
  redis.call('PEXPIRE', KEYS[3], 600000)
end
return found
"""
)

#: Arguments: name of the wire, queue, beginning of the names that wake wires.
DISARM = (
    _BEGIN
    + b"""
redis.call('ZREM', KEYS[3], ARGV[1])
if live() > 0 then wake(ARGV[2], ARGV[3]) end
return 0
"""
)

#: No arguments.
LENGTH = _BEGIN + b"return live()"

#: Key: the set of all queues. Argument: beginning of all names.
CLEAR = b"""
for _, queue in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  redis.call('DEL', ARGV[1] .. 'q:' .. queue, ARGV[1] .. 'd:' .. queue)
end
redis.call('DEL', KEYS[1])
return 0
"""
