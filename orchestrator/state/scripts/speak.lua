--[[ speak: commit a step of a conversation's member, with all that it has said; or let it wait for a reply.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   name     string  the output's name, unique to the attempt
ARGV[4]   output   string  JSON, or its claim check; nothing where it asks
ARGV[5]   verdict  string  complete | ask: the last thing said is a question, and the step runs again when it is replied
ARGV[6]   reason   string  where the output is a degraded one, or empty
ARGV[7]   dispatch_ms int  > 0
ARGV[8]   tokens   int     used by the attempt
ARGV[9]   cost     number  likewise
ARGV[10]  says     string  the name of the output's model
ARGV[11..] said    JSON    of each thing said two: its facts, see `say` in _talk.lua; its body, JSON, or empty
Returns   {'joins', step, ready...} the turn is done | {'next', step, ready...} of its flow the next step
          | {'asked', '', ready...} | {'late', ''} recorded; the conversation had ended
          | {'stale', ''} the step is another's | {'closed', ''} the run has ended; nothing was written.
          ready: steps to be published, by turns with their agents
Atomic    the message taken, what is said in reply, the mailboxes, votes and the end together: a death between them would
          lose or double a message
]]
local step, fence, asks, dispatch_ms = ARGV[1], ARGV[2], ARGV[5] == 'ask', tonumber(ARGV[7])
local status, _, retention_ms, _, rec = run_fields(step)
if not status or not rec then return told('closed') end
if not live(status) or rec.status ~= 'running' or rec.fence ~= fence then
  if asks then
    -- The reply to this very call was lost and the caller asks again: who is asked is told by the caretaker, if need be.
    if live(status) and rec.fence == fence and (rec.status == 'delayed' or rec.status == 'ready') then return told('asked') end
    return told((not live(status) or rec.status == 'cancelled') and 'closed' or 'stale')
  end
  if redis.call('HGET', DATA, ARGV[3]) ~= ARGV[4] then
    local over = not live(status)
    if over and status ~= 'completed' and status ~= 'failed' then return told('closed') end
    if rec.status ~= 'cancelled' or rec.fence ~= fence then
      return told((over or rec.status == 'cancelled') and 'closed' or 'stale')
    end
    -- The conversation is over: what it gave is kept for people to read, and what it said reaches nobody.
    redis.call('HSET', DATA, ARGV[3], ARGV[4])
    rec.output = ARGV[3]
    spend(rec, ARGV[8], ARGV[9])
    save(step, rec)
    emit('StepLate', {step = step, output = rec.output, tokens = rec.tokens, cost = rec.cost})
    return told('late')
  end
  if rec.status == 'cancelled' then return told('late') end
  return rec.next and told('next', rec.next) or told('joins', rec.talk)
end
local first = rec.member == step and rec or load(rec.member)
local library = talks()
library.dispatch(dispatch_ms)
local T = library.state_of(rec.talk)
local count = (#ARGV - 10) / 2
redis.call('ZREM', LEASES, member(step))
spend(rec, ARGV[8], ARGV[9])
local function say(number)
  local said, value = cjson.decode(ARGV[9 + 2 * number]), nil
  if ARGV[10 + 2 * number] ~= '' then
    value = rec.talk .. ':m' .. T.sums.messages + 1
    redis.call('HSET', DATA, value, ARGV[10 + 2 * number])
  end
  if first.peer then
    said.from = first.peer
    library.say(T, said, value, first.mail, step)
  end
  return said
end
for number = 1, asks and count - 1 or count do say(number) end
if asks then
  local within_ms = cjson.decode(ARGV[9 + 2 * count]).within_ms
  local id = T.sums.messages + 1
  settle(rec)
  -- What it does when it is replied is another matter than what it did before: its attempts count anew.
  rec.attempt, rec.losses, rec.strikes = 0, nil, nil
  rec.asked = rec.asked or {}
  rec.asked[#rec.asked + 1] = id
  rec.asking, rec.said = id, (rec.said or 0) + count
  make_delayed(step, rec, within_ms, 'waits for a reply to message ' .. id)
  emit('StepAsked', {step = step, id = id, due_ms = rec.due_ms, why = rec.why, said = rec.said, tokens = rec.tokens, cost = rec.cost})
  say(count)
  library.check(T)
  return told('asked')
end
redis.call('HSET', DATA, ARGV[3], ARGV[4])
rec.output, rec.says = ARGV[3], ARGV[10] ~= '' and ARGV[10] or nil
if ARGV[6] ~= '' then rec.degraded, rec.reason = true, ARGV[6] end
if rec.next then
  library.flush(T)
  local reply = complete(retention_ms, step, rec, nil, dispatch_ms)
  library.check(T)
  -- The end of the conversation may have made ready what follows it.
  return told(reply[1], reply[2])
end
return complete(retention_ms, step, rec, nil, dispatch_ms)
