--[[ fail: a step failed for good, and its run with it.
KEYS[1-13]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   reason   string  short, without the payload
Returns   'failed' | 'stale' the step is another's | 'closed' the run has ended; nothing was written
Atomic    fence check and the run's end together
]]
local step = ARGV[1]
local status, _, retention_ms, _, rec = run_fields(step)
if not status or not rec then return 'closed' end
if rec.status == 'failed' and rec.fence == ARGV[2] then return 'failed' end
if not live(status) then return 'closed' end
if rec.status ~= 'running' or rec.fence ~= ARGV[2] then return 'stale' end
redis.call('ZREM', LEASES, member(step))
fail_run(status, retention_ms, step, rec, ARGV[3])
return 'failed'
