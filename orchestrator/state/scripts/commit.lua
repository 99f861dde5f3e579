--[[ commit: record a step's output, once, and make ready what follows by its gate's verdict.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   name     string  the output's name, unique to the attempt
ARGV[4]   output   string  JSON, or its claim check
ARGV[5]   verdict  string  complete | answer | partial | revise | fallback | wait
ARGV[6]   details  JSON    complete, answer: reason, where the output is a degraded one, and accepted, where no other member
                           of its fan-out is needed any more; partial: reason; revise: feedback;
                           fallback: agent, reason; wait: question, timeout_ms, default, fallback, and accepted, should
                           a person approve
ARGV[7]   dispatch_ms int  > 0
ARGV[8]   tokens   int     used by the attempt
ARGV[9]   cost     number  likewise
Returns   {'next', step, ready...} | {'joins', step, ready...} a member of that fan-out, or a source of that blackboard, is
          done | {'finished', '', ready...}
          | {'again', step, ready...} | {'waiting', ''} | {'late', ''} recorded; the others went on without it
          | {'stale', ''} the step is another's | {'closed', ''} the run has ended; nothing was written.
          ready: steps to be published, by turns with their agents
Atomic    fence, output, event and what follows together: a death between them would lose or double a step
]]
local step, fence, verdict, dispatch_ms = ARGV[1], ARGV[2], ARGV[5], tonumber(ARGV[7])
local status, _, retention_ms, _, rec = run_fields(step)
if not status or not rec then return told('closed') end
if not live(status) or rec.status ~= 'running' or rec.fence ~= fence then
  if redis.call('HGET', DATA, ARGV[3]) ~= ARGV[4] then
    local over = not live(status)
    if over and status ~= 'completed' and status ~= 'failed' then return told('closed') end
    if rec.status ~= 'cancelled' or not (rec.fan or rec.board or rec.talk) or rec.fence ~= fence then
      return told((over or rec.status == 'cancelled') and 'closed' or 'stale')
    end
    -- The others went on without it: what it gave is kept for people to read, and counts for nothing. They may have come
    -- to the run's end by then.
    redis.call('HSET', DATA, ARGV[3], ARGV[4])
    rec.output = ARGV[3]
    spend(rec, ARGV[8], ARGV[9])
    save(step, rec)
    emit('StepLate', {step = step, output = rec.output, tokens = rec.tokens, cost = rec.cost})
    return told('late')
  end
  if rec.status == 'cancelled' and (rec.fan or rec.board or rec.talk) then return told('late') end
  -- The reply to this very commit was lost and the caller asks again: told `stale`, it would drop what is recorded.
  if verdict == 'wait' then return told('waiting') end
  if verdict == 'partial' and not rec.undoes then return told((rec.fan or rec.board or rec.talk) and 'joins' or 'finished', rec.fan or rec.board or rec.talk) end
  if verdict == 'answer' then rec = load(rec.next) end
  if verdict ~= 'complete' and verdict ~= 'answer' and verdict ~= 'partial' then return told('again', rec.start or step) end
  return rec.next and told('next', rec.next) or told((rec.fan or rec.board or rec.talk) and 'joins' or 'finished', rec.fan or rec.board or rec.talk)
end
local details = cjson.decode(ARGV[6])
redis.call('HSET', DATA, ARGV[3], ARGV[4])
redis.call('ZREM', LEASES, member(step))
rec.output = ARGV[3]
spend(rec, ARGV[8], ARGV[9])
if verdict == 'complete' then
  if details.reason then rec.degraded, rec.reason = true, details.reason end
  return complete(retention_ms, step, rec, details.accepted, dispatch_ms)
elseif verdict == 'answer' then
  -- Nothing is to be done by others: the step where their work would come together gives what this one gave.
  if details.reason then rec.degraded, rec.reason = true, details.reason end
  settle(rec)
  rec.status, rec.ended_ms = 'completed', NOW
  save(step, rec)
  charge(step, rec)
  if rec.until_ms then redis.call('ZREM', TIMERS, by_then(step)) end
  emit('StepCompleted', {step = step, output = rec.output, tokens = rec.tokens, cost = rec.cost,
                         reason = rec.degraded and rec.reason or nil, answers = true})
  local before = redis.call('HGET', RUN, 'fan:' .. rec.next)
  -- What an earlier revision gave out is of no part in this answer, only its members' names are not given twice.
  if before then save_fan(rec.next, {total = cjson.decode(before).total}) end
  local joins = load(rec.next)
  joins.output = rec.output
  return complete(retention_ms, rec.next, joins, details.accepted, dispatch_ms)
elseif verdict == 'partial' and (rec.undoes or rec.fan or rec.board or rec.talk) then
  -- Half undone is not undone, and no reason for the run to be completed; nor is a member's part the run's.
  rec.output = nil
  fail_step(retention_ms, step, rec, details.reason, nil, dispatch_ms)
  return rec.undoes and rec.next and told('next', rec.next) or told((rec.fan or rec.board or rec.talk) and 'joins' or 'finished', rec.fan or rec.board or rec.talk)
elseif verdict == 'partial' then
  -- The run ends with what it has: an output of an earlier step, which the flow's type does not fit.
  -- Nothing ran of the step where that happens, and no fallback took its place.
  settle(rec)
  rec.status, rec.ended_ms, rec.degraded, rec.reason = 'cancelled', NOW, nil, details.reason
  save(step, rec)
  leave_indexes(step, rec)
  emit('StepCompleted', {step = step, output = rec.output, tokens = rec.tokens, cost = rec.cost, reason = rec.reason, partial = true})
  finish('completed', retention_ms, 'RunCompleted', {output = rec.output, partial = true})
  return told('finished')
elseif verdict == 'wait' then
  rec.status = 'waiting'
  rec.waiting = {question = details.question, until_ms = NOW + details.timeout_ms,
                 default = details.default, fallback = details.fallback, accepted = details.accepted}
  save(step, rec)
  redis.call('ZADD', TIMERS, rec.waiting.until_ms, member(step))
  emit('StepWaiting', {step = step, output = rec.output, waiting = rec.waiting, tokens = rec.tokens, cost = rec.cost})
  waits(1)
  return told('waiting')
elseif verdict == 'fallback' then
  fall_back(step, rec, details.agent, details.reason, load(rec.start or step).input, dispatch_ms)
  return told('again', step)
end
-- revise: from the gate's start to the gated step, everything runs again; the first one gets the feedback.
local first = rec.start or step
local draft = first == step and ARGV[3] or nil
rec.output = nil
save(step, rec)
emit('StepRevised', {step = step, feedback = details.feedback, draft = draft, tokens = rec.tokens, cost = rec.cost})
local name = first
while true do
  local back = load(name)
  if back.until_ms then redis.call('ZREM', TIMERS, by_then(name)) end
  if back.undo and back.status == 'completed' then
    -- It will be done once more, and is to be undone once more where the run fails.
    back.earlier = back.earlier or {}
    table.insert(back.earlier, {output = back.output, revision = back.revision or 0})
  end
  back.status, back.attempt, back.revision = 'pending', 0, (back.revision or 0) + 1
  back.first_ms, back.until_ms, back.rung, back.losses, back.strikes = nil, nil, nil, nil, nil
  back.asked, back.said = nil, nil
  -- A gate's own count: what an outer gate sends back starts afresh at the gates within.
  back.sent_back = name == step and (back.sent_back or 0) + 1 or nil
  give_back(back)
  back.degraded, back.reason = nil, nil
  if name == first then
    back.feedback = back.feedback or {}
    back.feedback[#back.feedback + 1] = details.feedback
    back.draft = draft
    make_ready(name, back, dispatch_ms)
  else
    save(name, back)
  end
  if name == step then break end
  name = back.next
end
return told('again', first)
