--[[ _steps: what becomes of a run where a step is done, fails or is closed; the registry puts it behind _run.lua.
]]
local UNDO_MS = 86400000  -- the time in which everything must be undone
local LONGEST_REASON = 2000
local LONGEST_FENCE = 200  -- bytes that a claim check may have beside the name of its value
local open_board, close_board, source_ended  -- of blackboards: in _board.lua
local talks  -- of conversations: in _talk.lua
local talks_charged = false  -- whether what was used within turns is to be looked at

-- A step's turn has come. A blackboard has no worker of its own, nor has a conversation: its sources' or members' steps are
-- what is ready.
local function start(step, rec, dispatch_ms)
  if rec.rules then open_board(step, rec, dispatch_ms)
  elseif rec.converses then talks().open(step, rec, dispatch_ms)
  else make_ready(step, rec, dispatch_ms) end
end

-- A step is over, one way or another: what it has used may count for a conversation's end.
local function charge(step, rec)
  if not (rec.tokens or rec.cost) then return end
  -- Whatever is within a turn has its number in its name.
  local inside = rec.talk or string.find(rec.board or rec.fan or '', '#', 1, true)
  if inside and redis.call('HEXISTS', RUN, 'talks') == 1 then talks().charge(step, rec) end
end

-- A run waits as long as one of its steps waits for a person.
local function waits(by)
  local count, status = redis.call('HINCRBY', RUN, 'waits', by), redis.call('HGET', RUN, 'status')
  if status == 'running' or status == 'waiting' then set_status(status, count > 0 and 'waiting' or 'running') end
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
  for _, name in ipairs(redis.call('HKEYS', DATA)) do
    -- A claim check is its value's name and a fence: the values themselves may be gigabytes, which nobody wants to see
    -- here. Names are as long as they are: those of flows within flows, in any script.
    local stored = redis.call('HSTRLEN', DATA, name) <= #name + LONGEST_FENCE and redis.call('HGET', DATA, name)
    local blob = stored and string.byte(stored) == 1 and RUN .. ':blob:' .. string.sub(stored, 2)
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

local function close_open(step, rec)
  if ended(rec) then return end
  if rec.status == 'waiting' then waits(-1) end
  close(step, rec)
end

-- Close what is not done of all steps.
local function close_all()
  local fields = redis.call('HGETALL', RUN)
  for i = 1, #fields, 2 do
    local step = string.match(fields[i], '^step:(.*)$')
    if step then
      local rec = cjson.decode(fields[i + 1])
      close_open(step, rec)
      if rec.rules or rec.converses then redis.call('ZREM', TIMERS, joined_by(step)) end
    end
    -- Of a fan-out that is not joined its time is of no interest any more.
    local fan = string.match(fields[i], '^fan:(.*)$')
    if fan then redis.call('ZREM', TIMERS, joined_by(fan)) end
  end
end

local close_members

-- Close what is not done of a member of a fan-out, or of what a blackboard's source does, and of all within it.
local function close_member(step, rec)
  while step do
    rec = rec or load(step)
    local within = rec.joins and load_fan(step)
    if rec.rules then close_board(step, rec) end
    if rec.converses then talks().close(step, rec) end
    close_open(step, rec)
    if within and within.first and not within.verdict then
      redis.call('ZREM', TIMERS, joined_by(step))
      close_members(within)
    end
    step, rec = rec.next, nil
  end
end

-- Close what is not done of a fan-out's members: they are a list, which costs as much as it is long, where to look at
-- the whole run would cost as much as there are others in it. Returns the first of them.
close_members = function(fan)
  local entry, late = fan.first, nil
  while entry do
    local first = load(entry)
    if not first.outcome and first.round == fan.round then
      late = late or entry
      close_member(entry, first)
    end
    entry = first.after
  end
  return late
end

-- Runs that a step has started are of no use where that has ended without them; the caretaker sees to it.
local function end_children()
  if redis.call('EXISTS', CHILDREN) == 1 then redis.call('ZADD', TIMERS, NOW, by_then('')) end
end

-- The steps in the flow's order; members come after it as they were given out, and last of all what undoes others.
local function in_order()
  local names = cjson.decode(redis.call('HGET', RUN, 'order'))
  for number = 1, tonumber(redis.call('HGET', RUN, 'orders') or 0) do
    for _, name in ipairs(cjson.decode(redis.call('HGET', RUN, 'order:' .. number))) do names[#names + 1] = name end
  end
  return names
end

local function save_order(names)
  for number = 1, tonumber(redis.call('HGET', RUN, 'orders') or 0) do redis.call('HDEL', RUN, 'order:' .. number) end
  redis.call('HDEL', RUN, 'orders')
  redis.call('HSET', RUN, 'order', cjson.encode(names), 'size', #names)
end

-- What a fan-out adds is a list of its own: to write that of a run of thousands again for each would take for ever.
local function add_to_order(names)
  redis.call('HSET', RUN, 'order:' .. redis.call('HINCRBY', RUN, 'orders', 1), cjson.encode(names))
  redis.call('HINCRBY', RUN, 'size', #names)
end

-- The names and the records of all steps as they are done: a fan-out's members before the step that joins them, and
-- what a blackboard's sources do before the blackboard.
local function as_done(order)
  local records, of, names = {}, {}, {}
  for _, name in ipairs(order) do
    local rec = load(name)
    records[name] = rec
    local fan = rec.fan or rec.board or rec.talk or ''
    of[fan] = of[fan] or {}
    table.insert(of[fan], name)
  end
  local function add(fan)
    for _, name in ipairs(of[fan] or {}) do
      if records[name].joins or records[name].rules or records[name].converses then add(name) end
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
    -- What it had done before a later gate sent it back, the last first.
    for j = #(rec.earlier or {}), 1, -1 do
      local before = rec.earlier[j]
      steps[#steps + 1] = {name = names[i] .. '~undo@' .. before.revision, agent = rec.undo, input = before.output,
                           undoes = names[i], revision = before.revision}
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
  save_order(order)
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
    close_all()
  end
  local found = redis.call('HMGET', RUN, 'status', 'boards', 'talks')
  local from, boards, held = found[1], found[2], found[3]
  if to ~= 'completed' then
    end_children()
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
  for _, board in ipairs(boards and cjson.decode(boards) or {}) do
    redis.call('PEXPIRE', RUN .. ':board:' .. board, retention_ms)
  end
  for _, talk in ipairs(held and cjson.decode(held) or {}) do
    redis.call('PEXPIRE', RUN .. ':talk:' .. talk, retention_ms)
  end
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

-- What follows a step that failed is all that is left of its member: where that has given work out itself, it has come
-- together before. To look for more in the whole run, at each failure, would keep Redis as long as thousands are many.
local function close_following(rec)
  local following = rec.next
  while following do
    local pending = load(following)
    if not ended(pending) then close(following, pending) end
    following = pending.next
  end
end

-- A step has failed for good, and its run with it, or the member of a fan-out that it is part of. Returns 'failed', or
-- 'undoing': a step is ready that undoes another.
local function fail_step(retention_ms, step, rec, reason, kind, dispatch_ms)
  if rec.status == 'waiting' then waits(-1) end
  settle(rec)
  rec.status, rec.reason, rec.ended_ms = 'failed', reason, NOW
  save(step, rec)
  charge(step, rec)
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
  if rec.board then
    close_following(rec)
    return source_ended(step, rec, reason, dispatch_ms)
  end
  if rec.talk then
    close_following(rec)
    return talks().turn_ended(step, rec, reason, dispatch_ms)
  end
  facts = {reason = step .. ': ' .. reason, kind = kind, step = step}
  if finish('failed', retention_ms, 'RunFailed', facts, dispatch_ms) == 'undoing' then return 'undoing' end
  return 'failed'
end

-- Whether a member's output rests on what a fallback gave, or on a fan-out that came together with less than it takes;
-- and why.
local function is_lesser(last, rec)
  local name, lesser, why = rec.member, false, nil
  while true do
    local each = name == last and rec or load(name)
    local fan = each.joins and load_fan(name)
    if each.degraded then
      lesser, why = true, each.reason or why
    elseif fan and fan.degraded then
      lesser, why = true, why or fan.why or fan.fault
    end
    if name == last then return lesser, why end
    name = each.next
  end
end

-- The step's output is in: what follows becomes ready, or the run is completed. Returns the reply to the caller.
local function complete(retention_ms, step, rec, accepted, dispatch_ms)
  settle(rec)
  rec.status, rec.ended_ms = 'completed', NOW
  save(step, rec)
  charge(step, rec)
  if rec.until_ms then redis.call('ZREM', TIMERS, by_then(step)) end
  emit('StepCompleted', {step = step, output = rec.output, tokens = rec.tokens, cost = rec.cost,
                         reason = rec.degraded and rec.reason or nil, accepted = accepted or nil, says = rec.says})
  if rec.undoes then
    local done, which, left = load(rec.undoes), rec.revision or 0, {}
    for _, before in ipairs(done.earlier or {}) do
      if before.revision ~= which then left[#left + 1] = before end
    end
    done.earlier = #left > 0 and left or nil
    done.undone = done.undone or which == (done.revision or 0) or done.status ~= 'completed' or nil
    save(rec.undoes, done)
  end
  if rec.next then
    local following = load(rec.next)
    if not rec.undoes then following.input = rec.output end
    start(rec.next, following, dispatch_ms)
    return told('next', rec.next)
  end
  if rec.undoes then
    end_undoing(retention_ms)
  elseif rec.board then
    source_ended(step, rec, nil, dispatch_ms)
    return told('joins', rec.board)
  elseif rec.talk then
    talks().turn_ended(step, rec, nil, dispatch_ms)
    return told('joins', rec.talk)
  elseif rec.fan then
    local lesser, why = is_lesser(step, rec)
    member_ended(retention_ms, step, rec, lesser and 'degraded' or 'ok', rec.output, why, accepted, dispatch_ms)
    return told('joins', rec.fan)
  else
    finish('completed', retention_ms, 'RunCompleted', {output = rec.output})
  end
  return told('finished')
end

local function save_fan(name, fan)
  redis.call('HSET', RUN, 'fan:' .. name, cjson.encode(fan))
end

-- How many members of a fan-out may be in flight: one within another has its share of that one's, and one at least.
local function room(name, fan)
  if not string.find(name, '#', 1, true) then return fan.width end
  local outer = load(name).fan
  if not outer then return fan.width end  -- within a blackboard's source
  local others = load_fan(outer)
  local share = math.floor(room(outer, others) / math.max(others.opened - others.ended, 1))
  return math.min(fan.width, math.max(share, 1))
end

-- Let members begin that wait for their place.
local function open_members(fan_name, fan, dispatch_ms)
  local width = fan.head and room(fan_name, fan)
  while fan.head and fan.opened - fan.ended < width do
    local name = fan.head
    local rec = load(name)
    fan.head = rec.after
    while rec.status == 'completed' and not rec.outcome do  -- of a member that was redriven
      name = rec.next
      rec = load(name)
    end
    if rec.status == 'pending' then
      fan.opened = fan.opened + 1
      start(name, rec, dispatch_ms)
    end
  end
end

-- What the fan-out has come to, if it has: met | accepted | missed, and why.
local function verdict_of(fan)
  if fan.size == 0 then return 'met' end  -- whatever is needed: nothing was asked for
  local because = fan.fault and '; the first: ' .. fan.fault or ''
  if fan.accept then
    return fan.ended >= fan.size and 'missed' or nil, 'no answer was acceptable' .. because
  end
  local has, all = fan.share and fan.good_weight or fan.good, fan.share and fan.weight or fan.size
  if has >= fan.need then return 'met' end
  local best = all - (fan.share and fan.bad_weight or fan.failed)
  if fan.ended >= fan.size or (fan.otherwise == 'fail' and best < fan.need) then
    local why = fan.failed .. ' of ' .. fan.size .. ' assignments failed'
    if fan.failed == 0 then why = fan.size == 1 and 'there is 1 assignment' or 'there are ' .. fan.size .. ' assignments' end
    if fan.share and fan.need < fan.weight then
      why = why .. string.format(', %.4g of the weight is needed and %.4g can come', fan.need / all, best / all)
    elseif not fan.share and fan.need ~= fan.size then
      why = why .. ', and ' .. fan.need .. ' are needed'
    end
    return 'missed', why .. because
  end
end

-- The members of a fan-out come together: those that have not ended are late, and the step that joins them is ready;
-- or it fails, where they did not give what it takes.
local function join(retention_ms, name, fan, verdict, why, dispatch_ms)
  local late = fan.size - fan.ended
  if late > 0 then
    local first = close_members(fan)
    if verdict == 'overdue' and first then why = why .. '; the first: ' .. first end
    end_children()
  end
  fan.verdict, fan.why, fan.head = verdict, why, nil
  if fan.failed > 0 and verdict ~= 'accepted' or verdict == 'missed' or verdict == 'overdue' then fan.degraded = true end
  if fan.until_ms then redis.call('ZREM', TIMERS, joined_by(name)) end
  save_fan(name, fan)
  emit('FanOutJoined', {fan = name, verdict = verdict, why = why, good = fan.good, failed = fan.failed, late = late})
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
  first.outcome, first.answer, first.fault, first.accepted = outcome, answer, fault, accepted or nil
  save(rec.member, first)
  fan.ended = fan.ended + 1
  if outcome == 'failed' then
    fan.failed, fan.bad_weight = fan.failed + 1, fan.bad_weight + (first.weight or 1000)
    fan.fault = fan.fault or step .. ': ' .. fault
    end_children()
    close_following(rec)
  else
    fan.good, fan.good_weight = fan.good + 1, fan.good_weight + (first.weight or 1000)
  end
  local verdict, why = verdict_of(fan)
  if accepted then verdict, why = 'accepted', nil end
  local done = 'failed'
  if verdict then
    done = join(retention_ms, name, fan, verdict, why, dispatch_ms)
  else
    open_members(name, fan, dispatch_ms)
    save_fan(name, fan)
  end
  return talks_charged and talks().spent(dispatch_ms) or done
end

-- A step is its first agent's again, and takes what that one takes.
local function give_back(rec)
  if rec.instead_of then rec.agent, rec.instead_of = rec.instead_of, nil end
  if rec.took then rec.input, rec.took = rec.took, nil end
end

-- Another agent takes the step: of a gate what its gate's first step took, else what the step itself took.
local function fall_back(step, rec, agent, reason, input, dispatch_ms)
  local own = rec.took or rec.input
  rec.took = own ~= input and own or nil
  rec.instead_of = rec.instead_of or rec.agent
  rec.agent, rec.reason, rec.degraded = agent, reason, true
  rec.input, rec.attempt = input, 0
  rec.draft, rec.output = nil, nil  -- another agent's, of another type
  rec.first_ms, rec.losses, rec.strikes = nil, nil, nil
  rec.asked, rec.said = nil, nil
  emit('StepFellBack', {step = step, agent = agent, input = input, took = rec.took, reason = reason, rung = rec.rung,
                        tokens = rec.tokens, cost = rec.cost})
  make_ready(step, rec, dispatch_ms)
end
