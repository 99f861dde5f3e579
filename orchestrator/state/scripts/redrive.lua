--[[ redrive: a failed run goes on from a step, as it is or with another input or agent.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string  from which on everything runs again; empty: the first that is not done, or was undone
ARGV[2]   name     string  of a new input of that step, or empty: what it had
ARGV[3]   input    string  its value, JSON or its claim check
ARGV[4]   agent    string  who is to take that step, or empty: its own
ARGV[5]   deadline_ms int  > 0, from now
ARGV[6]   by       string  who
ARGV[7]   dispatch_ms int  > 0
Returns   {'redriven', step, ready...} | {'not failed', ''} | {'no step', step} | {'member', fan} it goes with its fan-out
          | {'elsewhere', step} an input or agent without a step, and it goes on at another than the one that failed
          | {'undone', step} that comes before it and has to be done again first
          | {'no input', step} nothing before it gave one | {'orphan', parent} which has ended | {'gone', ''};
          nothing was written.
          ready: steps to be published, by turns with their agents
Atomic    the run's end is taken back with all that follows from it
]]
local first, agent, dispatch_ms = ARGV[1], ARGV[4], tonumber(ARGV[7])
local found = redis.call('HMGET', RUN, 'status', 'retention_ms')
if not found[1] then return told('gone') end
if found[1] ~= 'failed' then return told('not failed') end
-- A step of a child whose parent has ended does not begin. A child lives in its parent's shard.
local parent = redis.call('HGET', RUN, 'parent')
while parent do
  local above = redis.call('HMGET', string.sub(RUN, 1, -#ID - 1) .. parent, 'status', 'parent')
  if above[1] == 'failed' or above[1] == 'cancelled' or above[1] == 'undoing' then return told('orphan', parent) end
  parent = above[2]
end
-- The flow's own steps; those of fan-outs by the path of the step where they come together; steps that were to undo.
local order, steps, inner, joins, undoing, woken = {}, {}, {}, {}, {}, {}
local roots = {}  -- of what sources of the flow's own blackboards, or members of its conversations, have done: whose
for _, name in ipairs(in_order()) do
  local rec = load(name)
  steps[name] = rec
  local root = string.match(name, '^[^#]*#%d+')
  local of = rec.source and rec.board or rec.talk
  if of and not string.find(of, '#', 1, true) then roots[root] = of end
  if rec.undoes then
    undoing[#undoing + 1] = name
  elseif roots[root] then
    woken[roots[root]] = woken[roots[root]] or {}
    table.insert(woken[roots[root]], name)
  elseif rec.fan or string.find(name, '#', 1, true) then
    local path = string.match(name, '^([^#]-)[^/#]*#')
    inner[path] = inner[path] or {}
    table.insert(inner[path], name)
  else
    order[#order + 1] = name
    if rec.joins then joins[string.match(name, '^(.*/)') or ''] = name end
  end
end
local broken, stale = {}, {}  -- fan-outs of which something was undone; on which a later round was planned
for path, names in pairs(inner) do
  local known, rounds = redis.call('HGET', RUN, 'fan:' .. joins[path]), {}
  local fan = known and cjson.decode(known) or {}
  local round = fan.round or 0
  for _, name in ipairs(names) do
    if steps[name].fan == joins[path] and steps[name].member == name then
      rounds[string.match(name, '^[^#]*#%d+')] = steps[name].round
    end
  end
  for _, name in ipairs(names) do
    -- Of what an earlier revision gave out, after which the boss answered itself, nothing is to be done again.
    if steps[name].undone and fan.task then
      broken[joins[path]] = true
      if (rounds[string.match(name, '^[^#]*#%d+')] or 0) < round then stale[joins[path]] = true end
    end
  end
end
local function undone(name)
  local rec = steps[name]
  return rec.undone or broken[name] or (rec.delegates and stale[rec.next])
end
local function done(name)
  return steps[name].status == 'completed' and not undone(name)
end
if first == '' then
  for _, name in ipairs(order) do
    if not done(name) then first = name break end
  end
end
if not steps[first] or steps[first].undoes then return told('no step', first) end
if steps[first].fan then return told('member', joins[string.match(first, '^([^#]-)[^/#]*#')]) end
if ARGV[1] == '' and (ARGV[2] ~= '' or agent ~= '') then
  -- What is given without a step is for the one that people are shown as the one that failed.
  local failure = redis.call('HGET', RUN, 'failure')
  local failed = failure and cjson.decode(failure).step
  if failed and failed ~= first or not failed and steps[first].status == 'completed' then return told('elsewhere', first) end
end
-- What was undone is done again before what comes after it, whatever that is given.
local lacks
for _, name in ipairs(order) do
  if name == first then break end
  if undone(name) then return told('undone', name) end
  lacks = lacks or not done(name)
end
-- A fan-out whose members did not give what it takes goes on with those that are not done.
local fan = steps[first].joins and redis.call('HGET', RUN, 'fan:' .. first)
fan = fan and cjson.decode(fan)
local input = steps[first].took or steps[first].input
local given = fan and input and input ~= 'fan:' .. first and input ~= fan.task  -- by whom sent it again before
local reopens = ARGV[2] == '' and fan and fan.task and not given and
  (broken[first] or not fan.verdict or (fan.otherwise == 'fail' and (fan.verdict == 'missed' or fan.verdict == 'overdue')))
if ARGV[2] == '' and (lacks or not reopens and not steps[first].input) then return told('no input', first) end
local reset, revised, dropped, fans, kept, cleared, goes_on, spent = {}, {}, {}, {}, {}, {}, {}, {}
-- What was used by a step that is no more is still used by its run: it is in the account of one that stays.
local function hand_over(name, to)
  local rec = steps[name]
  spent[name] = nil
  if rec.tokens or rec.cost then
    spend(steps[to], rec.tokens or 0, rec.cost or 0)
    save(to, steps[to])
    spent[to] = true
  end
end
local function forget(name, to)
  dropped[#dropped + 1] = name
  hand_over(name, to)
  redis.call('HDEL', RUN, 'step:' .. name, 'fan:' .. name)
end
local function again(name, anew, keeps_input)
  local rec = steps[name]
  reset[#reset + 1] = name
  -- What `once` recorded belongs to what was done: it is of no use to what is done anew, or with what is.
  if rec.status == 'completed' or anew then
    rec.revision = (rec.revision or 0) + 1
    revised[#revised + 1] = name
  end
  settle(rec)
  give_back(rec)
  rec.status, rec.attempt, rec.losses, rec.strikes = 'pending', 0, nil, nil
  rec.output, rec.draft, rec.reason, rec.degraded, rec.undone, rec.rung = nil, nil, nil, nil, nil, nil
  rec.ended_ms, rec.first_ms, rec.until_ms, rec.decision, rec.sent_back = nil, nil, nil, nil, nil
  rec.outcome, rec.answer, rec.fault, rec.accepted, rec.earlier = nil, nil, nil, nil, nil
  if not keeps_input then rec.input = nil end
  save(name, rec)
end
for _, name in ipairs(undoing) do
  local output = steps[name].output
  hand_over(name, steps[name].undoes)
  if output then redis.call('HDEL', DATA, output) end
  redis.call('HDEL', RUN, 'step:' .. name)
end
local after = false
for _, name in ipairs(order) do
  if name == first then after = true end
  kept[#kept + 1] = name
  local path = steps[name].joins and (string.match(name, '^(.*/)') or '')
  local within = path and inner[path] or {}
  if after and path and not (name == first) then
    -- Its work will be given out anew. Names are not given twice: services outside know them.
    local old = redis.call('HGET', RUN, 'fan:' .. name)
    if old then
      fans[name] = {total = cjson.decode(old).total}
      for _, each in ipairs(within) do forget(each, name) end
    end
    within = {}
  end
  if after then
    local changed = name == first and (ARGV[2] ~= '' or agent ~= '')
    again(name, changed or (name ~= first and (steps[name].begins or 0) > 0), name == first)
  end
  if name == first and reopens then
    local undone = {}
    for _, each in ipairs(within) do
      if steps[each].undone then undone[string.match(each, '^.-#%d+')] = true end
    end
    fan.verdict, fan.why, fan.degraded, fan.head, fan.fault = nil, nil, nil, nil, nil
    for _, each in ipairs(within) do
      local rec = steps[each]
      local earlier = rec.fan == first and rec.outcome == 'failed' and rec.round < fan.round
      if earlier and not fan.accept then fan.degraded = true end
    end
    fan.good, fan.good_weight, fan.failed, fan.bad_weight, fan.ended = 0, 0, 0, 0, 0
    local redone, entry = {}, fan.first
    while entry do
      local rec, root = steps[entry], string.match(entry, '^' .. (string.gsub(path, '%p', '%%%0')) .. '[^/]*')
      if rec.round == fan.round then
        local weight = rec.weight or 1000
        fan.head = fan.head or entry
        if not rec.input then  -- refused when it was given out
          fan.failed, fan.bad_weight, fan.ended = fan.failed + 1, fan.bad_weight + weight, fan.ended + 1
          fan.fault = fan.fault or entry .. ': ' .. rec.fault
        elseif (rec.outcome == 'ok' or rec.outcome == 'degraded') and not undone[root] then
          fan.good, fan.good_weight, fan.ended = fan.good + 1, fan.good_weight + weight, fan.ended + 1
        else
          redone[root] = entry
        end
      end
      entry = rec.after
    end
    fan.opened = fan.ended
    fan.until_ms = fan.within_ms and NOW + fan.within_ms or nil
    -- A member that is a flow goes on at the first of its steps that is not done, or at a boss before that.
    local stays = {}
    for root, entry in pairs(redone) do
      local name = entry
      while done(name) and steps[name].next and not steps[name].delegates and not steps[name].rules do
        stays[name] = true
        steps[steps[name].next].input = steps[name].output
        name = steps[name].next
      end
      if name ~= entry then
        local rec = steps[entry]
        rec.outcome, rec.answer, rec.fault, rec.accepted = nil, nil, nil, nil
        save(entry, rec)
        goes_on[entry], redone[root] = name, name
      end
    end
    local remaining = {}
    for _, each in ipairs(within) do
      local root = string.match(each, '^' .. (string.gsub(path, '%p', '%%%0')) .. '[^/]*')
      if not redone[root] then
        remaining[#remaining + 1] = each
      elseif string.find(each, '#', #root + 1, true) then
        forget(each, first)  -- a member's own fan-out is given out anew
      else
        remaining[#remaining + 1] = each
        if not stays[each] then
          again(each, each ~= redone[root] and (steps[each].begins or 0) > 0, each == redone[root])
        end
        local own = steps[each].joins and redis.call('HGET', RUN, 'fan:' .. each)
        if own then fans[each] = {total = cjson.decode(own).total} end
      end
    end
    within = remaining
    fans[first] = fan
  elseif name == first and fan and not fan.verdict then
    -- Whoever sends it again says what came of the members: nothing of them is waited for any more.
    fans[first] = {total = fan.total, round = fan.round, first = fan.first, tail = fan.tail, task = fan.task,
                   degraded = fan.degraded}
  end
  for _, each in ipairs(within) do kept[#kept + 1] = each end
  if after and steps[name].converses then
    -- It begins anew: of what was said the log tells.
    for _, each in ipairs(woken[name] or {}) do forget(each, name) end
  elseif after and steps[name].rules then
    -- What stands on a board that goes on stays there. One that comes later is given another task, and begins anew.
    for _, each in ipairs(woken[name] or {}) do forget(each, name) end
    if name ~= first and redis.call('EXISTS', board_key(name)) == 1 then
      clear_board(name)
      cleared[#cleared + 1] = name
    end
  else
    for _, each in ipairs(woken[name] or {}) do kept[#kept + 1] = each end
  end
end
save_order(kept)
for name, each in pairs(fans) do save_fan(name, each) end
local rec = steps[first]
if ARGV[2] ~= '' then
  redis.call('HSET', DATA, ARGV[2], ARGV[3])
  rec.input = ARGV[2]
end
if agent ~= '' then rec.agent = agent end
for _, key in ipairs({RUN, DATA, EVENTS, CHILDREN}) do redis.call('PERSIST', key) end
for _, board in ipairs(cjson.decode(redis.call('HGET', RUN, 'boards') or '[]')) do redis.call('PERSIST', board_key(board)) end
for _, talk in ipairs(cjson.decode(redis.call('HGET', RUN, 'talks') or '[]')) do redis.call('PERSIST', RUN .. ':talk:' .. talk) end
local deadline_ms = NOW + tonumber(ARGV[5])
local times = redis.call('HMGET', RUN, 'retention_ms', 'dead_ms')
keep_values(tonumber(ARGV[5]) + math.max(tonumber(times[1]), tonumber(times[2] or 0)))
redis.call('HDEL', RUN, 'ended_ms', 'reason', 'failure', 'output', 'partial')
redis.call('HSET', RUN, 'deadline_ms', deadline_ms)
redis.call('ZREM', DEAD, ID)
set_status('failed', 'running')
redis.call('ZADD', TIMERS, deadline_ms, ID)
-- Its children are to be ended no more: those that it submits from now on would be, too.
redis.call('ZREM', TIMERS, by_then(''))
if reopens then rec.input = nil end
for name in pairs(spent) do spent[name] = {tokens = steps[name].tokens, cost = steps[name].cost} end
emit('RunRedriven', {step = first, input = rec.input, agent = rec.agent, deadline_ms = deadline_ms, by = ARGV[6],
                     reset = reset, revised = revised, dropped = #dropped > 0 and dropped or nil, order = (next(inner) or next(woken)) and kept or nil,
                     fans = next(fans) and fans or nil, reopens = reopens and true or nil,
                     cleared = #cleared > 0 and cleared or nil, goes_on = next(goes_on) and goes_on or nil,
                     spent = next(spent) and spent or nil})
if not reopens then
  start(first, rec, dispatch_ms)
  return told('redriven', first)
end
save(first, rec)
if fan.until_ms then redis.call('ZADD', TIMERS, fan.until_ms, joined_by(first)) end
local verdict, why = verdict_of(fan)
if verdict then
  join(tonumber(found[2]), first, fan, verdict, why, dispatch_ms)
else
  -- Told first: a member that is a blackboard says itself that it is open.
  emit('MembersOpened', {fan = first})
  open_members(first, fan, dispatch_ms)
  save_fan(first, fan)
end
return told('redriven', first)
