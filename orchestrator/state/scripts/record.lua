--[[ record: keep the result of a sub-step, so that another attempt does not do it again.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   name     string  of the effect
ARGV[4]   field    string  of its result among the run's data
ARGV[5]   value    bytes   JSON or claim check
ARGV[6]   limit    int     results that a step may have
Returns   {'recorded', value} | {'known', value} what was recorded first stands | {'full', ''} the limit is reached
          | {'stale', ''} the step is another's or done | {'closed', ''} the run has ended; nothing was written
Atomic    fence check, result and event together: two attempts must not both record
]]
local step, field = ARGV[1], ARGV[4]
local status, _, _, _, rec = run_fields(step)
if not status or not live(status) then return {'closed', ''} end
if not rec or rec.status ~= 'running' or rec.fence ~= ARGV[2] then return {'stale', ''} end
local known = redis.call('HGET', DATA, field)
if known then return {'known', known} end
if (rec.effects or 0) >= tonumber(ARGV[6]) then return {'full', ''} end
redis.call('HSET', DATA, field, ARGV[5])
rec.effects = (rec.effects or 0) + 1
save(step, rec)
emit('EffectRecorded', {step = step, name = ARGV[3], value = field})
return {'recorded', ARGV[5]}
