--[[ lost: a step's lease has expired: make it ready again, or fail it when it was begun too often.
KEYS[1-13]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   max_attempts int > 0
ARGV[3]   dispatch_ms  int > 0
Returns   'ready' publish it | 'failed' | 'held' the lease is alive | 'closed' nothing to do
Atomic    expiry and state together: between them the holder may renew or commit
]]
local step = ARGV[1]
local status, _, retention_ms, _, rec = run_fields(step)
if not status or not rec or not live(status) or rec.status ~= 'running' then
  redis.call('ZREM', LEASES, member(step))
  return 'closed'
end
local expiry = redis.call('ZSCORE', LEASES, member(step))
if expiry and tonumber(expiry) > NOW then return 'held' end
redis.call('ZREM', LEASES, member(step))
if rec.attempt >= tonumber(ARGV[2]) then
  fail_run(status, retention_ms, step, rec, 'begun ' .. rec.attempt .. ' times and never finished; last on ' .. rec.worker)
  return 'failed'
end
emit('StepLost', {step = step, attempt = rec.attempt, worker = rec.worker})
make_ready(step, rec, tonumber(ARGV[3]))
return 'ready'
