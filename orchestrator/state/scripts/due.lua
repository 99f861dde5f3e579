--[[ due: what a shard's caretaker has to look at beside its timers; expired runs leave the indexes.
KEYS[1]   leases     zset  {sNN}:leases
KEYS[2]   ready      zset  {sNN}:ready
KEYS[3]   completed  zset  {sNN}:runs:completed
KEYS[4]   failed     zset  {sNN}:runs:failed
KEYS[5]   cancelled  zset  {sNN}:runs:cancelled
KEYS[6]   dead       zset  {sNN}:dead
ARGV[1]   limit      int   > 0, entries of each kind
Returns   {lost leases, overdue dispatches}, each a list of members, oldest first
Atomic    no need; one round trip and the server's clock
]]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for i = 1, 2 do
  found[i] = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', now, 'LIMIT', 0, ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now)
return found
