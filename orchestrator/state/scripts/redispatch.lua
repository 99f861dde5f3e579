--[[ redispatch: a ready step was not begun in time: publish it again if its message is lost, else wait longer.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   empty    string  '1' when the step's lane of its queue is empty
ARGV[3]   dispatch_ms  int > 0, doubled for every message already published
ARGV[4]   longest_ms   int the longest wait between two messages
Returns   'publish' | 'wait' a backlog is not a loss | 'closed' nothing to do
Atomic    check and new deadline together: the step may begin in between
]]
local step = ARGV[1]
local status, _, _, priority, rec = run_fields(step)
if not status or not rec or not live(status) or rec.status ~= 'ready' then
  redis.call('ZREM', READY, member(step))
  return 'closed'
end
local due = redis.call('ZSCORE', READY, member(step))
if due and tonumber(due) > NOW then return 'closed' end
-- Lanes are first in, first out: where a later step has begun, this one's message is gone.
local mark = mark_of(rec.agent, priority, redis.call('HGET', RUN, 'tenant'))
local overtaken = tonumber(redis.call('HGET', MARKS, mark) or 0) > rec.ready_ms
local wait_ms = math.min(tonumber(ARGV[3]) * 2 ^ rec.dispatches, tonumber(ARGV[4]))
redis.call('ZADD', READY, NOW + wait_ms, member(step))
if not overtaken and ARGV[2] ~= '1' then return 'wait' end
rec.dispatches = rec.dispatches + 1
save(step, rec)
emit('StepRedispatched', {step = step, dispatches = rec.dispatches})
return 'publish'
