--[[ wake: a delayed step's time, or its turn, has come: make it ready.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   turn     int     1: it may go on whatever its timer says
ARGV[3]   dispatch_ms int  > 0
Returns   'ready' publish it | 'early' | 'waiting' it waits for a decision, not for this
          | 'closed' nothing to do | 'busy' it is ready or running already
Atomic    state, timer and dispatch deadline together
]]
local step = ARGV[1]
local status, _, _, _, rec = run_fields(step)
if status and rec and live(status) and rec.status == 'waiting' then return 'waiting' end
if not status or not rec or not live(status) or rec.status ~= 'delayed' then
  redis.call('ZREM', TIMERS, member(step))
  local busy = status and rec and live(status) and (rec.status == 'ready' or rec.status == 'running')
  return busy and 'busy' or 'closed'
end
if ARGV[2] ~= '1' and rec.due_ms > NOW then return 'early' end
if rec.asking then
  -- Whoever was asked had its time: the step goes on without.
  local talk = library().talks()
  local T = talk.state_of(rec.talk)
  talk.expire(T, rec.asking)
  talk.flush(T)
  rec.asking = nil
end
redis.call('ZREM', TIMERS, member(step))
make_ready(step, rec, tonumber(ARGV[3]))
emit('StepReady', {step = step})
return 'ready'
