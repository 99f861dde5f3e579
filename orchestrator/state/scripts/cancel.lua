--[[ cancel: end a run that has not ended; its queued, running and waiting steps with it.
KEYS[1-13]                 as in _run.lua
ARGV[1]   status   string  cancelled, or failed where the deadline has passed
ARGV[2]   reason   string
ARGV[3]   by       string  who asked; empty for the deadline's timer, which must then be due
Returns   'cancelled' | 'early' the deadline has not passed | 'closed' the run has ended | 'gone' there is no such run
Atomic    the run's end and its index entries together; a step that begins or commits later finds it closed
]]
local v = redis.call('HMGET', RUN, 'status', 'deadline_ms', 'retention_ms')
if not v[1] then
  redis.call('ZREM', TIMERS, ID)
  return 'gone'
end
if not live(v[1]) then return 'closed' end
if ARGV[1] == 'failed' then
  if tonumber(v[2]) > NOW then return 'early' end
  finish(v[1], 'failed', tonumber(v[3]), 'RunFailed', {reason = ARGV[2]})
else
  finish(v[1], 'cancelled', tonumber(v[3]), 'RunCancelled', {reason = ARGV[2], by = ARGV[3]})
end
return 'cancelled'
