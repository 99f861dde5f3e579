--[[ spend: count what an attempt has used whose step was closed meanwhile: its run was cancelled, or goes on without it.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   tokens   int     used by the attempt
ARGV[4]   cost     number  likewise
Returns   counted | stale: the step is another's, goes on, or has been counted | gone: there is no such run any more
Atomic    fence and account together: told twice, it counts once
]]
local step = ARGV[1]
local status, _, _, _, rec = run_fields(step)
if not status or not rec then return 'gone' end
if rec.status ~= 'cancelled' or rec.fence ~= ARGV[2] then return 'stale' end
rec.fence = nil
spend(rec, ARGV[3], ARGV[4])
save(step, rec)
emit('StepSpent', {step = step, tokens = rec.tokens, cost = rec.cost})
return 'counted'
