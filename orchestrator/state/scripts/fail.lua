--[[ fail: a step failed for good, and its run, or the fan-out's member that it is part of, with it.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin; empty: the time by which the step must be done, if it has passed
ARGV[3]   reason   string
ARGV[4]   kind     string  of the dead letter: failed | deadline
ARGV[5]   dispatch_ms int  > 0
ARGV[6]   tokens   int     used by the attempt
ARGV[7]   cost     number  likewise
Returns   {'failed', '', ready...} | {'undoing', '', ready...} a step is ready that undoes another
          | {'stale', ''} the step is another's | {'early', ''} its time has not passed, or only just
          | {'closed', ''} the run has ended or goes on without the step; nothing was written.
          ready: steps to be published, by turns with their agents
Atomic    fence check and the run's end together
]]
local GRACE_MS = 1000
local step = ARGV[1]
local status, _, retention_ms, _, rec = run_fields(step)
if not status or not rec then
  redis.call('ZREM', TIMERS, by_then(step))
  return told('closed')
end
if ARGV[2] == '' then
  -- Two caretakers may have seen the same timer: the second must not fail what is being undone by now.
  local over = rec.status == 'completed' or rec.status == 'failed' or rec.status == 'cancelled'
  if not live(status) or over or not rec.until_ms then
    redis.call('ZREM', TIMERS, by_then(step))
    return told('closed')
  end
  -- Whoever is at work sees by itself that the time is over, and may have a fixed output to end with.
  local at_work = rec.status == 'running' and not rec.rules and not rec.converses
  if rec.until_ms + (at_work and GRACE_MS or 0) > NOW then return told('early') end
else
  if rec.status == 'failed' and rec.fence == ARGV[2] then
    return told(status == 'undoing' and 'undoing' or 'failed')
  end
  if not live(status) or rec.status == 'cancelled' then return told('closed') end
  if rec.status ~= 'running' or rec.fence ~= ARGV[2] then return told('stale') end
end
spend(rec, ARGV[6], ARGV[7])
return told(fail_step(retention_ms, step, rec, ARGV[3], ARGV[4], tonumber(ARGV[5])))
