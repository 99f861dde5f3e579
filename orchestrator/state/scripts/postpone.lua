--[[ postpone: give a step back that is to run again later, or when its turn comes.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   delay_ms int     >= 0
ARGV[4]   why      string
ARGV[5]   counts   int     1: the attempt counts; 0: it did not come to it, and waits at most as long as it has time
ARGV[6]   total_ms int     from when the step was first ready, beyond which it does not begin again; 0: no limit
ARGV[7]   tokens   int     used by the attempt
ARGV[8]   cost     number  likewise
Returns   'delayed' | 'late' the step's time would have passed; nothing was written
          | 'stale' the step is another's | 'closed' the run has ended; nothing was written
Atomic    fence, state and timer together: a death between them would leave neither lease nor timer
]]
local step, delay_ms, total_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[6])
local status, deadline_ms, _, _, rec = run_fields(step)
if not status or not rec or not live(status) or rec.status == 'cancelled' then return 'closed' end
if rec.status == 'delayed' and rec.fence == ARGV[2] then return 'delayed' end
if rec.status ~= 'running' or rec.fence ~= ARGV[2] then return 'stale' end
local due_ms = NOW + delay_ms
if ARGV[5] == '0' then
  -- It waits as long as it may: not to give it back would leave it to a worker that does nothing for it.
  due_ms = math.max(NOW, math.min(due_ms, deadline_ms - 1, (rec.until_ms or deadline_ms) - 1))
elseif due_ms >= deadline_ms or (rec.until_ms and due_ms >= rec.until_ms) then
  return 'late'
elseif total_ms > 0 and due_ms > rec.first_ms + total_ms then
  return 'late'
end
redis.call('ZREM', LEASES, member(step))
if ARGV[5] == '0' then rec.attempt = rec.attempt - 1 end
spend(rec, ARGV[7], ARGV[8])
make_delayed(step, rec, due_ms - NOW, ARGV[4])
emit('StepDelayed', {step = step, attempt = rec.attempt, due_ms = rec.due_ms, why = rec.why, tokens = rec.tokens, cost = rec.cost})
return 'delayed'
