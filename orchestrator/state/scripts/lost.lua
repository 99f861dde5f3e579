--[[ lost: a step's lease has expired: let it run again, later each time, or fail it when it was begun too often.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   max_attempts int > 0
ARGV[3]   dispatch_ms  int > 0
ARGV[4]   pause_ms int     > 0, before the third begin; doubled for each further one
ARGV[5]   jitter   number  0 to 1, random: how much of the upper half of the pause
ARGV[6]   lease_ms int     > 0
Returns   {'ready', step, ready...} | {'delayed', step} its timer will publish it | {'failed', '', ready...}
          | {'undoing', '', ready...} a step is ready that undoes another
          | {'held', ''} the lease is alive | {'closed', ''} nothing to do.
          ready: steps to be published, by turns with their agents
Atomic    expiry and state together: between them the holder may renew or commit
]]
local step = ARGV[1]
local status, _, retention_ms, _, rec = run_fields(step)
if not status or not rec or not live(status) or rec.status ~= 'running' then
  redis.call('ZREM', LEASES, member(step))
  return told('closed')
end
local expiry = redis.call('ZSCORE', LEASES, member(step))
if expiry and tonumber(expiry) > NOW then return told('held') end
redis.call('ZREM', LEASES, member(step))
rec.losses = (rec.losses or 0) + 1
-- What it had used when its lease was last renewed.
local tokens, cost, fence = string.match(redis.call('HGET', RUN, 'spent:' .. step) or '', '^(%S+) (%S+) (.*)$')
if fence and fence == rec.fence then spend(rec, tokens, cost) end
-- What kills its worker does so soon, as a rule: one whose lease had been renewed may have been a bystander. So may any
-- that is lost a second time, since the second begin comes at once, beside all that were lost with it. One that is put
-- off comes apart from them: those that were renewed before the first loss can never have too many strikes by another's.
local renewed = expiry and tonumber(expiry) > rec.started_ms + 1.1 * tonumber(ARGV[6])
rec.strikes = (rec.strikes or 0) + ((renewed or rec.losses == 2) and 1 or 2)
if rec.strikes >= 2 * tonumber(ARGV[2]) - 1 then
  local reason = 'begun ' .. rec.losses .. ' times and never finished; last on ' .. rec.worker
  return told(fail_step(retention_ms, step, rec, reason, 'poison', tonumber(ARGV[3])))
end
local facts = {step = step, attempt = rec.attempt, worker = rec.worker, losses = rec.losses, strikes = rec.strikes,
               tokens = rec.tokens, cost = rec.cost}
if rec.losses == 1 then
  emit('StepLost', facts)
  make_ready(step, rec, tonumber(ARGV[3]))
  return told('ready', step)
end
-- One that kills its worker shall not kill them as fast as they come back.
local pause_ms = math.min(tonumber(ARGV[4]) * 2 ^ (rec.losses - 2), 60000)
make_delayed(step, rec, math.floor(pause_ms * (1 + tonumber(ARGV[5])) / 2), 'its worker was lost ' .. rec.losses .. ' times')
facts.due_ms, facts.why = rec.due_ms, rec.why
emit('StepLost', facts)
return told('delayed', step)
