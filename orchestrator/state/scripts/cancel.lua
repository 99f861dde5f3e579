--[[ cancel: end a run that has not ended; its queued, running and waiting steps with it.
KEYS[1-16]                 as in _run.lua
ARGV[1]   status   string  cancelled; failed where the deadline has passed; orphaned where the run it is a child of, or its step, has ended
ARGV[2]   reason   string
ARGV[3]   by       string  who asked; empty for the deadline's timer, which must then be due
ARGV[4]   dispatch_ms int  > 0
Returns   {'cancelled', ''} | {'undoing', '', step, agent} it undoes another: publish it
          | {'early', ''} the deadline has not passed
          | {'closed', ''} the run has ended, or is being undone, or its parent goes on
          | {'gone', ''} there is no such run
Atomic    the run's end and its index entries together; a step that begins or commits later finds it closed
]]
local v = redis.call('HMGET', RUN, 'status', 'deadline_ms', 'retention_ms')
if not v[1] then
  redis.call('ZREM', TIMERS, ID)
  return told('gone')
end
if not live(v[1]) then return told('closed') end
local done
if ARGV[1] == 'failed' then
  if tonumber(v[2]) > NOW then return told('early') end
  local facts = {reason = ARGV[2], kind = 'deadline'}
  if v[1] == 'undoing' then
    -- Why it was undone is still what people want to know.
    local ending = cjson.decode(redis.call('HGET', RUN, 'ending'))
    local before = (ending.reason or '') == '' and '' or ending.reason .. '; '
    facts = {reason = before .. 'not everything is undone in time', kind = 'undo', step = ending.step}
  end
  done = finish('failed', tonumber(v[3]), 'RunFailed', facts, tonumber(ARGV[4]))
else
  if v[1] == 'undoing' then return told('closed') end
  if ARGV[1] == 'orphaned' then
    -- A child lives in its parent's shard. One that was redriven since the caretaker looked goes on with its children.
    local parent = redis.call('HGET', RUN, 'parent')
    local above = redis.call('HGET', string.sub(RUN, 1, -#ID - 1) .. parent, 'status')
    if above and above ~= 'failed' and above ~= 'cancelled' and above ~= 'undoing' then
      -- The run goes on, maybe without the step that has started this one.
      local step = redis.call('HGET', RUN, 'parent_step')
      local asked = step and redis.call('HGET', string.sub(RUN, 1, -#ID - 1) .. parent, 'step:' .. step)
      local status = asked and cjson.decode(asked).status
      if status ~= 'failed' and status ~= 'cancelled' then return told('closed') end
    end
    redis.call('HSET', RUN, 'orphan', parent)
  end
  done = finish('cancelled', tonumber(v[3]), 'RunCancelled', {reason = ARGV[2], by = ARGV[3]}, tonumber(ARGV[4]))
end
return told(done == 'undoing' and 'undoing' or 'cancelled')
