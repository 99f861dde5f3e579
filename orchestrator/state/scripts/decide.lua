--[[ decide: settle a step that waits at its gate: by a person, or by its timer.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   choice   string  approve | reject | fallback; empty: the default, if its time has come
ARGV[3]   by       string  who
ARGV[4]   note     string  why
ARGV[5]   dispatch_ms int  > 0
Returns   {'next', step, ready...} | {'joins', ''} | {'finished', ''} | {'again', step, ready...}
          | {'rejected', '', ready...} | {'undoing', '', ready...} rejected, and a step is ready that undoes another
          | {'decided'} so already, by the same person for the same reason | {'early'} the timer is not due | {'no fallback'} | {'not waiting'} | {'closed'}
Atomic    decision and what follows together: two people, or a person and the timer, decide once
]]
local step, choice, by, dispatch_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local status, _, retention_ms, _, rec = run_fields(step)
local decided = rec and rec.status ~= 'waiting' and rec.decision
if decided and choice ~= '' and decided.choice == choice and decided.by == by and decided.note == ARGV[4] then
  -- The reply to this very decision was lost and the caller asks again.
  return told('decided')
end
if not status or not rec or not live(status) or rec.status ~= 'waiting' then
  -- Decided in the meantime, it may be delayed by now: that timer is all that brings it on.
  if not rec or rec.status ~= 'delayed' then redis.call('ZREM', TIMERS, member(step)) end
  return told(status and rec and live(status) and 'not waiting' or 'closed')
end
local waiting = rec.waiting
if choice == '' then
  if waiting.until_ms > NOW then return told('early') end
  choice = waiting.default
end
if choice == 'fallback' and not waiting.fallback then return told('no fallback') end
rec.decision = {choice = choice, by = by, note = ARGV[4]}
rec.waiting = nil
emit('StepDecided', {step = step, decision = rec.decision})
rec.decision.at_ms = NOW
redis.call('ZREM', TIMERS, member(step))
rec.status = 'running'
waits(-1)
if choice == 'approve' then
  return complete(retention_ms, step, rec, waiting.accepted or false, dispatch_ms)
elseif choice == 'fallback' then
  fall_back(step, rec, waiting.fallback, ARGV[4], load(rec.start or step).input, dispatch_ms)
  return told('again', step)
end
-- A person's no is no dead letter: nothing is to be tried again.
local why = 'rejected by ' .. by .. (ARGV[4] ~= '' and ': ' .. ARGV[4] or '')
local what = fail_step(retention_ms, step, rec, why, nil, dispatch_ms)
return told(what == 'undoing' and 'undoing' or 'rejected')
