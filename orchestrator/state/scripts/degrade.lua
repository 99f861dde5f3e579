--[[ degrade: a step failed and another agent takes it.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   agent    string  who takes it
ARGV[4]   reason   string
ARGV[5]   rung     int     how far down the list of its fallbacks the step is now
ARGV[6]   dispatch_ms int  > 0
ARGV[7]   tokens   int     used by the attempt
ARGV[8]   cost     number  likewise
Returns   {'again', step, step, agent} publish it | {'stale', ''} the step is another's
          | {'closed', ''} the run has ended or goes on without the step; nothing was written
Atomic    fence, agent and dispatch deadline together
]]
local step, rung = ARGV[1], tonumber(ARGV[5])
local status, _, _, _, rec = run_fields(step)
if not status or not rec or not live(status) or rec.status == 'cancelled' then return told('closed') end
if rec.status == 'ready' and rec.fence == ARGV[2] and rec.rung == rung then return told('again', step) end
if rec.status ~= 'running' or rec.fence ~= ARGV[2] then return told('stale') end
redis.call('ZREM', LEASES, member(step))
spend(rec, ARGV[7], ARGV[8])
rec.rung = rung
fall_back(step, rec, ARGV[3], ARGV[4], rec.took or rec.input, tonumber(ARGV[6]))
return told('again', step)
