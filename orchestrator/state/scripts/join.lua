--[[ join: the time of a fan-out, or of a blackboard, is over: what there is comes together as it is.
KEYS[1-16]                 as in _run.lua
ARGV[1]   fan      string  the step where they come together; the blackboard's
ARGV[2]   dispatch_ms int  > 0
Returns   {'joined', fan, ready...} | {'early', ''} | {'closed', ''} it was joined before, or the run has ended.
          ready: steps to be published, by turns with their agents
Atomic    the verdict and what follows together: the last member may end at this moment
]]
local name = ARGV[1]
local status, _, retention_ms, _, rec = run_fields(name)
if rec and rec.rules then
  local overdue = overrun(name, rec, status, tonumber(ARGV[2]))
  return told(overdue, overdue == 'joined' and name or '')
end
if rec and rec.converses then
  local ended = talks().due(name, rec, status, tonumber(ARGV[2]))
  return told(ended, ended == 'joined' and name or '')
end
local stored = redis.call('HGET', RUN, 'fan:' .. name)
local fan = stored and cjson.decode(stored)
-- Two caretakers may have seen the same timer: the second must not revive what has been closed by now.
local pending = status and live(status) and rec and rec.status == 'pending'
if not pending or not fan or fan.verdict or not fan.until_ms then
  redis.call('ZREM', TIMERS, joined_by(name))
  return told('closed')
end
if fan.until_ms > NOW then return told('early') end
local why = (fan.size - fan.ended) .. ' of ' .. fan.size .. ' assignments were not done in time'
join(retention_ms, name, fan, 'overdue', why, tonumber(ARGV[2]))
return told('joined', name)
