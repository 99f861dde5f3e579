--[[ renew: extend the leases of steps of one shard that the caller still holds.
KEYS[1]    leases    zset    {sNN}:leases
KEYS[2..]  run       hash    {sNN}:run:<id>, for each step
ARGV[1]    lease_ms  int     > 0
ARGV[2..]  held      string  step, fence, and the tokens and cost that its attempt has used so far, by turns
Returns    for each step: 'renewed' | 'stale' the step is another's or done | 'closed' the run has ended, or goes on without the step
Atomic     check and expiry together: between them a step may be lost and begun by another
What was used is kept beside the step, with the fence, for the case that its worker dies: lost.lua counts it.
]]
local TIME = redis.call('TIME')
local UNTIL = TIME[1] * 1000 + math.floor(TIME[2] / 1000) + tonumber(ARGV[1])
local replies = {}
for i = 2, #KEYS do
  local step, fence, tokens, cost = ARGV[4 * i - 6], ARGV[4 * i - 5], ARGV[4 * i - 4], ARGV[4 * i - 3]
  local found = redis.call('HMGET', KEYS[i], 'status', 'step:' .. step)
  local status = found[1]
  if status ~= 'queued' and status ~= 'running' and status ~= 'waiting' and status ~= 'undoing' then
    replies[i - 1] = 'closed'
  else
    local rec = found[2] and cjson.decode(found[2]) or {}
    if rec.status == 'running' and rec.fence == fence then
      redis.call('ZADD', KEYS[1], 'XX', UNTIL, string.match(KEYS[i], '([^:]+)$') .. '/' .. step)
      if tonumber(tokens) > 0 or tonumber(cost) > 0 then
        redis.call('HSET', KEYS[i], 'spent:' .. step, tokens .. ' ' .. cost .. ' ' .. fence)
      end
      replies[i - 1] = 'renewed'
    else
      replies[i - 1] = rec.status == 'cancelled' and 'closed' or 'stale'
    end
  end
end
return replies
