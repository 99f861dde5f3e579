--[[ timers: which timers of a shard are due.
KEYS[1]   timers     zset  {sNN}:timers
ARGV[1]   limit      int   > 0
Returns   the members, oldest first
Atomic    no need; the server's clock
]]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
