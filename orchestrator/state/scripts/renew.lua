--[[ renew: extend the leases of steps of one shard that the caller still holds.
KEYS[1]    leases    zset    {sNN}:leases
KEYS[2..]  run       hash    {sNN}:run:<id>, for each step
ARGV[1]    lease_ms  int     > 0
ARGV[2..]  held      string  step and fence, by turns
Returns    for each step: 'renewed' | 'stale' the step is another's or done | 'closed' the run has ended, or goes on without the step
Atomic     check and expiry together: between them a step may be lost and begun by another
]]
local TIME = redis.call('TIME')
local UNTIL = TIME[1] * 1000 + math.floor(TIME[2] / 1000) + tonumber(ARGV[1])
local replies = {}
for i = 2, #KEYS do
  local step, fence = ARGV[2 * i - 2], ARGV[2 * i - 1]
  local found = redis.call('HMGET', KEYS[i], 'status', 'step:' .. step)
  local status = found[1]
  if status ~= 'queued' and status ~= 'running' and status ~= 'waiting' and status ~= 'undoing' then
    replies[i - 1] = 'closed'
  else
    local rec = found[2] and cjson.decode(found[2]) or {}
    if rec.status == 'running' and rec.fence == fence then
      redis.call('ZADD', KEYS[1], 'XX', UNTIL, string.match(KEYS[i], '([^:]+)$') .. '/' .. step)
      replies[i - 1] = 'renewed'
    else
      replies[i - 1] = rec.status == 'cancelled' and 'closed' or 'stale'
    end
  end
end
return replies
