--[[ _run: what every script on a run shares; the registry puts it in front of each.
KEYS[1]   run        hash    {sNN}:run:<id>
KEYS[2]   data       hash    {sNN}:run:<id>:data
KEYS[3]   events     stream  {sNN}:run:<id>:events
KEYS[4]   ready      zset    {sNN}:ready
KEYS[5]   leases     zset    {sNN}:leases
KEYS[6]   timers     zset    {sNN}:timers
KEYS[7]   marks      hash    {sNN}:marks
KEYS[8]   queued     zset    {sNN}:runs:queued
KEYS[9]   running    zset    {sNN}:runs:running
KEYS[10]  waiting    zset    {sNN}:runs:waiting
KEYS[11]  completed  zset    {sNN}:runs:completed
KEYS[12]  failed     zset    {sNN}:runs:failed
KEYS[13]  cancelled  zset    {sNN}:runs:cancelled
KEYS[14]  undoing    zset    {sNN}:runs:undoing
KEYS[15]  dead       zset    {sNN}:dead
KEYS[16]  children   set     {sNN}:run:<id>:children
]]
local RUN, DATA, EVENTS = KEYS[1], KEYS[2], KEYS[3]
local READY, LEASES, TIMERS, MARKS = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local INDEX = {queued = KEYS[8], running = KEYS[9], waiting = KEYS[10],
               completed = KEYS[11], failed = KEYS[12], cancelled = KEYS[13], undoing = KEYS[14]}
local DEAD, CHILDREN = KEYS[15], KEYS[16]
local ID = string.match(RUN, '([^:]+)$')
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)
local UNDO_MS = 86400000  -- the time in which everything must be undone
local LONGEST_REASON = 2000
local READIED = {}  -- steps that this script has made ready, each with its agent: publish them

-- The run's own fields that the scripts read, in one call; an absent run has no status.
local function run_fields(step)
  local v = redis.call('HMGET', RUN, 'status', 'deadline_ms', 'retention_ms', 'priority', 'step:' .. step)
  local rec = v[5] and cjson.decode(v[5]) or nil
  return v[1], tonumber(v[2] or 0), tonumber(v[3] or 0), v[4], rec
end

local function live(status)
  return status == 'queued' or status == 'running' or status == 'waiting' or status == 'undoing'
end

local function load(step)
  return cjson.decode(redis.call('HGET', RUN, 'step:' .. step))
end

local function save(step, rec)
  redis.call('HSET', RUN, 'step:' .. step, cjson.encode(rec))
end

local function member(step)
  return ID .. '/' .. step
end

-- The entry among the timers of the time by which a step must be done; no step's name begins with a slash.
local function by_then(step)
  return ID .. '//' .. step
end

-- Likewise of the time that a fan-out has.
local function joined_by(fan)
  return ID .. '///' .. fan
end

-- A reply: what was done, its step, and by turns the steps that are ready now and their agents.
local function told(what, step)
  local reply = {what, step or ''}
  for _, name in ipairs(READIED) do reply[#reply + 1] = name end
  return reply
end

-- Facts are a table, or JSON.
local function emit(kind, facts)
  local data = type(facts) == 'string' and facts or cjson.encode(facts)
  redis.call('XADD', EVENTS, '*', 'type', kind, 'v', 1, 'at', NOW, 'data', data)
end

local function set_status(from, to)
  if from ~= to then
    redis.call('ZREM', INDEX[from], ID)
    -- By submission, however late it came to this status: lists give the newest runs first.
    redis.call('ZADD', INDEX[to], redis.call('HGET', RUN, 'created_ms'), ID)
    redis.call('HSET', RUN, 'status', to)
  end
end

-- A step's work or wait has begun again or is over: what it waited for is not of interest any more.
local function settle(rec)
  rec.waiting, rec.due_ms, rec.why = nil, nil, nil
end

-- A ready step has a dispatch deadline from the moment it is ready: a lost message leaves no lease to expire.
local function make_ready(step, rec, dispatch_ms)
  settle(rec)
  rec.status, rec.dispatches, rec.ready_ms = 'ready', 1, NOW
  rec.first_ms = rec.first_ms or NOW
  if rec.within_ms and not rec.until_ms then
    rec.until_ms = NOW + rec.within_ms
    redis.call('ZADD', TIMERS, rec.until_ms, by_then(step))
  end
  save(step, rec)
  redis.call('ZADD', READY, NOW + dispatch_ms, member(step))
  READIED[#READIED + 1] = step
  READIED[#READIED + 1] = rec.agent
end

-- Not before a time: state and a timer, no worker.
local function make_delayed(step, rec, delay_ms, why)
  rec.status, rec.due_ms, rec.why = 'delayed', NOW + delay_ms, why
  save(step, rec)
  redis.call('ZADD', TIMERS, rec.due_ms, member(step))
end

-- A run waits as long as one of its steps waits for a person.
local function waits(by)
  local count, status = redis.call('HINCRBY', RUN, 'waits', by), redis.call('HGET', RUN, 'status')
  if status == 'running' or status == 'waiting' then set_status(status, count > 0 and 'waiting' or 'running') end
end

-- What an attempt has used, added to the step's own account.
local function spend(rec, tokens, cost)
  tokens, cost = tonumber(tokens), tonumber(cost)
  if tokens > 0 then rec.tokens = (rec.tokens or 0) + tokens end
  if cost > 0 then rec.cost = (rec.cost or 0) + cost end
end

local function leave_indexes(step, rec)
  redis.call('ZREM', READY, member(step))
  redis.call('ZREM', LEASES, member(step))
  redis.call('ZREM', TIMERS, member(step))
  if rec.until_ms then redis.call('ZREM', TIMERS, by_then(step)) end
end

-- What is behind claim checks has keys of its own, in the run's slot: where the run lasts longer, so must they.
-- So has the record of its idempotency key: without it the same key would make a second run.
local function keep_values(ttl_ms)
  local record = redis.call('HGET', RUN, 'record')
  local held = record and redis.call('GET', record)
  if held and string.sub(held, 1, #ID) == ID and redis.call('PTTL', record) < ttl_ms then
    redis.call('PEXPIRE', record, ttl_ms)
  end
  for _, stored in ipairs(redis.call('HVALS', DATA)) do
    local blob = string.byte(stored) == 1 and RUN .. ':blob:' .. string.sub(stored, 2)
    -- PEXPIRE's own GT came with Redis 7.
    if blob and redis.call('PTTL', blob) < ttl_ms then redis.call('PEXPIRE', blob, ttl_ms) end
  end
end

-- A step that is not done will not be.
local function close(step, rec)
  settle(rec)
  rec.status = 'cancelled'
  save(step, rec)
  leave_indexes(step, rec)
end

local function ended(rec)
  return rec.status == 'completed' or rec.status == 'failed' or rec.status == 'cancelled'
end

-- Close what is not done of all steps that a function accepts by name.
local function close_all(accepts)
  local fields = redis.call('HGETALL', RUN)
  for i = 1, #fields, 2 do
    local step = string.match(fields[i], '^step:(.*)$')
    if step and accepts(step) then
      local rec = cjson.decode(fields[i + 1])
      if not ended(rec) then
        if rec.status == 'waiting' then waits(-1) end
        close(step, rec)
      end
    end
    -- Of a fan-out that is not joined its time is of no interest any more.
    local fan = string.match(fields[i], '^fan:(.*)$')
    if fan and accepts(fan) then redis.call('ZREM', TIMERS, joined_by(fan)) end
  end
end

local function everything()
  return true
end

-- The steps in the flow's order; members come after it as they were given out, and last of all what undoes others.
local function in_order()
  return cjson.decode(redis.call('HGET', RUN, 'order'))
end

-- The names and the records of all steps as they are done: a fan-out's members before the step that joins them.
local function as_done(order)
  local records, of, names = {}, {}, {}
  for _, name in ipairs(order) do
    local rec = load(name)
    records[name] = rec
    local fan = rec.fan or ''
    of[fan] = of[fan] or {}
    table.insert(of[fan], name)
  end
  local function add(fan)
    for _, name in ipairs(of[fan] or {}) do
      if records[name].joins then add(name) end
      names[#names + 1] = name
    end
  end
  add('')
  return names, records
end

-- What was done is undone, the last first, before a run ends as failed or cancelled. Returns whether there is anything.
local function undo(from, to, event, facts, dispatch_ms)
  local order, steps, plan = in_order(), {}, {}
  local names, records = as_done(order)
  for i = #names, 1, -1 do
    local rec = records[names[i]]
    if rec.undo and rec.status == 'completed' and not rec.undone then
      -- The revision is the step's: what `once` recorded when an earlier doing was undone is of no use to this one.
      steps[#steps + 1] = {name = names[i] .. '~undo', agent = rec.undo, input = rec.output, undoes = names[i],
                           revision = rec.revision}
    end
  end
  if #steps == 0 then return false end
  redis.call('HSET', RUN, 'ending', cjson.encode({status = to, reason = facts.reason, kind = facts.kind, step = facts.step, by = facts.by}))
  local deadline_ms = NOW + UNDO_MS
  redis.call('HSET', RUN, 'deadline_ms', deadline_ms)
  redis.call('ZADD', TIMERS, deadline_ms, ID)
  local kept = redis.call('HMGET', RUN, 'retention_ms', 'dead_ms')
  keep_values(UNDO_MS + math.max(tonumber(kept[1]), tonumber(kept[2] or 0)))
  set_status(from, 'undoing')
  for i, rec in ipairs(steps) do
    rec.next = steps[i + 1] and steps[i + 1].name
    plan[i] = cjson.decode(cjson.encode(rec))
    order[#order + 1] = rec.name
  end
  redis.call('HSET', RUN, 'order', cjson.encode(order))
  emit('RunUndoing', {status = to, reason = facts.reason, kind = facts.kind, step = facts.step, by = facts.by,
                      deadline_ms = deadline_ms, steps = plan})
  for i, rec in ipairs(steps) do
    local name = rec.name
    rec.name, rec.status = nil, 'pending'
    if i == 1 then make_ready(name, rec, dispatch_ms) else save(name, rec) end
  end
  return true
end

-- End the run: close what is unfinished, leave no index entry, let every key expire.
-- Returns 'undoing' where something has to be undone before: it is ready.
local function finish(to, retention_ms, event, facts, dispatch_ms)
  if to ~= 'completed' or facts.partial then
    close_all(everything)
  end
  local from = redis.call('HGET', RUN, 'status')
  if to ~= 'completed' then
    -- Runs that this one has started end with it; the caretaker sees to it.
    if redis.call('EXISTS', CHILDREN) == 1 then redis.call('ZADD', TIMERS, NOW, by_then('')) end
    if from ~= 'undoing' and undo(from, to, event, facts, dispatch_ms) then return 'undoing' end
  end
  if facts.kind then retention_ms = tonumber(redis.call('HGET', RUN, 'dead_ms') or retention_ms) end
  redis.call('ZREM', TIMERS, ID)
  redis.call('ZREM', INDEX[from], ID)
  redis.call('ZADD', INDEX[to], NOW + retention_ms, ID)
  redis.call('HSET', RUN, 'status', to, 'ended_ms', NOW)
  redis.call('HDEL', RUN, 'ending')
  if facts.reason then redis.call('HSET', RUN, 'reason', facts.reason) end
  if facts.output then redis.call('HSET', RUN, 'output', facts.output) end
  if facts.partial then redis.call('HSET', RUN, 'partial', '1') end
  if facts.kind then
    redis.call('HSET', RUN, 'failure', cjson.encode({kind = facts.kind, step = facts.step}))
    redis.call('ZADD', DEAD, NOW + retention_ms, ID)
  end
  emit(event, facts)
  redis.call('PEXPIRE', RUN, retention_ms)
  redis.call('PEXPIRE', DATA, retention_ms)
  redis.call('PEXPIRE', EVENTS, retention_ms)
  redis.call('PEXPIRE', CHILDREN, retention_ms)
  return 'ended'
end

-- Everything is undone that could be: the run ends as it was going to.
local function end_undoing(retention_ms)
  local ending = cjson.decode(redis.call('HGET', RUN, 'ending'))
  local event = ending.status == 'failed' and 'RunFailed' or 'RunCancelled'
  return finish(ending.status, retention_ms, event,
    {reason = ending.reason, kind = ending.kind, step = ending.step, by = ending.by})
end

local member_ended

-- A step has failed for good, and its run with it, or the member of a fan-out that it is part of. Returns 'failed', or
-- 'undoing': a step is ready that undoes another.
local function fail_step(retention_ms, step, rec, reason, kind, dispatch_ms)
  if rec.status == 'waiting' then waits(-1) end
  settle(rec)
  rec.status, rec.reason, rec.ended_ms = 'failed', reason, NOW
  save(step, rec)
  leave_indexes(step, rec)
  local facts = {step = step, reason = reason, tokens = rec.tokens, cost = rec.cost,
                 losses = rec.losses, strikes = rec.strikes}
  if rec.undoes then
    -- The others are undone all the same, and the run tells what was not.
    local ending = cjson.decode(redis.call('HGET', RUN, 'ending'))
    ending.status, ending.kind, ending.step = 'failed', 'undo', step
    ending.reason = ending.reason or ''
    if #ending.reason < LONGEST_REASON then
      local before = ending.reason == '' and '' or ending.reason .. '; '
      ending.reason = before .. rec.undoes .. ' is not undone: ' .. reason
    end
    redis.call('HSET', RUN, 'ending', cjson.encode(ending))
    facts.ending = ending.reason
    emit('StepFailed', facts)
    if rec.next then
      make_ready(rec.next, load(rec.next), dispatch_ms)
      return 'undoing'
    end
    end_undoing(retention_ms)
    return 'failed'
  end
  emit('StepFailed', facts)
  if rec.fan then return member_ended(retention_ms, step, rec, 'failed', nil, reason, false, dispatch_ms) end
  facts = {reason = step .. ': ' .. reason, kind = kind, step = step}
  if finish('failed', retention_ms, 'RunFailed', facts, dispatch_ms) == 'undoing' then return 'undoing' end
  return 'failed'
end

-- Whether a member's output rests on what a fallback gave, or on a fan-out that came together with less than it takes.
local function is_lesser(last, rec)
  local name = rec.member
  while true do
    local each = name == last and rec or load(name)
    local fan = each.joins and redis.call('HGET', RUN, 'fan:' .. name)
    if each.degraded or (fan and cjson.decode(fan).degraded) then return true end
    if name == last then return false end
    name = each.next
  end
end

-- The step's output is in: what follows becomes ready, or the run is completed. Returns the reply to the caller.
local function complete(retention_ms, step, rec, accepted, dispatch_ms)
  settle(rec)
  rec.status, rec.ended_ms = 'completed', NOW
  save(step, rec)
  if rec.until_ms then redis.call('ZREM', TIMERS, by_then(step)) end
  emit('StepCompleted', {step = step, output = rec.output, tokens = rec.tokens, cost = rec.cost,
                         reason = rec.degraded and rec.reason or nil, accepted = accepted or nil})
  if rec.undoes then
    local done = load(rec.undoes)
    done.undone = true
    save(rec.undoes, done)
  end
  if rec.next then
    local following = load(rec.next)
    if not rec.undoes then following.input = rec.output end
    make_ready(rec.next, following, dispatch_ms)
    return told('next', rec.next)
  end
  if rec.undoes then
    end_undoing(retention_ms)
  elseif rec.fan then
    local outcome = is_lesser(step, rec) and 'degraded' or 'ok'
    member_ended(retention_ms, step, rec, outcome, rec.output, nil, accepted, dispatch_ms)
    return told('joins', rec.fan)
  else
    finish('completed', retention_ms, 'RunCompleted', {output = rec.output})
  end
  return told('finished')
end

local function load_fan(name)
  return cjson.decode(redis.call('HGET', RUN, 'fan:' .. name))
end

local function save_fan(name, fan)
  redis.call('HSET', RUN, 'fan:' .. name, cjson.encode(fan))
end

-- Let members begin that wait for their place.
local function open_members(fan, dispatch_ms)
  while fan.head and fan.opened - fan.ended < fan.width do
    local name = fan.head
    local rec = load(name)
    fan.head = rec.after
    if rec.status == 'pending' then
      fan.opened = fan.opened + 1
      make_ready(name, rec, dispatch_ms)
    end
  end
end

-- What the fan-out has come to, if it has: met | accepted | missed, and why.
local function verdict_of(fan)
  if fan.accept then
    return fan.ended >= fan.size and 'missed' or nil, 'no answer was acceptable'
  end
  local has = fan.share and fan.good_weight or fan.good
  if has >= fan.need then return 'met' end
  local best = fan.share and fan.weight - fan.bad_weight or fan.size - fan.failed
  if fan.ended >= fan.size or (fan.otherwise == 'fail' and best < fan.need) then
    local why = fan.failed .. ' of ' .. fan.size .. ' assignments failed'
    return 'missed', fan.need > (fan.share and fan.weight or fan.size) and why .. ', and ' .. fan.need .. ' are needed' or why
  end
end

-- The members of a fan-out come together: those that have not ended are late, and the step that joins them is ready;
-- or it fails, where they did not give what it takes.
local function join(retention_ms, name, fan, verdict, why, dispatch_ms)
  local late = fan.size - fan.ended
  fan.verdict, fan.why, fan.head = verdict, why, nil
  if fan.failed > 0 and verdict ~= 'accepted' or verdict == 'missed' or verdict == 'overdue' then fan.degraded = true end
  if fan.until_ms then redis.call('ZREM', TIMERS, joined_by(name)) end
  save_fan(name, fan)
  emit('FanOutJoined', {fan = name, verdict = verdict, why = why, good = fan.good, failed = fan.failed, late = late})
  if late > 0 then
    -- The names of members, and of all within them, have a # in the path segment after the fan-out's own path.
    local path = string.match(name, '^(.*/)') or ''
    close_all(function(step)
      return string.sub(step, 1, #path) == path and string.find(string.match(step, '^[^/]*', #path + 1), '#', 1, true)
    end)
  end
  local rec = load(name)
  if fan.otherwise == 'fail' and (verdict == 'missed' or verdict == 'overdue') then
    return fail_step(retention_ms, name, rec, why, verdict == 'overdue' and 'deadline' or 'failed', dispatch_ms)
  end
  rec.input = 'fan:' .. name
  make_ready(name, rec, dispatch_ms)
  return 'failed'
end

-- A member of a fan-out has ended: count it, let the next begin, or join. Returns what `fail_step` does.
member_ended = function(retention_ms, step, rec, outcome, answer, fault, accepted, dispatch_ms)
  local name, fan = rec.fan, load_fan(rec.fan)
  local first = rec.member == step and rec or load(rec.member)
  first.outcome, first.answer, first.fault = outcome, answer, fault
  save(rec.member, first)
  fan.ended = fan.ended + 1
  if outcome == 'failed' then
    fan.failed, fan.bad_weight = fan.failed + 1, fan.bad_weight + (first.weight or 1000)
    -- What follows is all that is left of it: where it has given work out itself, that has come together before. To
    -- look for more in the whole run, at each failure, would keep Redis as long as thousands of members are many.
    local following = rec.next
    while following do
      local pending = load(following)
      if not ended(pending) then close(following, pending) end
      following = pending.next
    end
  else
    fan.good, fan.good_weight = fan.good + 1, fan.good_weight + (first.weight or 1000)
  end
  local verdict, why = verdict_of(fan)
  if accepted then verdict, why = 'accepted', nil end
  if verdict then return join(retention_ms, name, fan, verdict, why, dispatch_ms) end
  open_members(fan, dispatch_ms)
  save_fan(name, fan)
  return 'failed'
end

-- Another agent takes the step: of a gate what its gate's first step took, else what the step itself took.
local function fall_back(step, rec, agent, reason, input, dispatch_ms)
  rec.instead_of = rec.instead_of or rec.agent
  rec.agent, rec.reason, rec.degraded = agent, reason, true
  rec.input, rec.attempt = input, 0
  rec.draft, rec.output = nil, nil  -- another agent's, of another type
  rec.first_ms, rec.losses, rec.strikes = nil, nil, nil
  emit('StepFellBack', {step = step, agent = agent, input = input, reason = reason, rung = rec.rung,
                        tokens = rec.tokens, cost = rec.cost})
  make_ready(step, rec, dispatch_ms)
end
