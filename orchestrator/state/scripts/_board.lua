--[[ _board: what scripts on runs do with blackboards; the registry puts it behind _steps.lua.
Each blackboard has a key of its own beside the run's:
board     hash    {sNN}:run:<id>:board:<step>
  #state    open | closing: the goal is reached, by a step that has not ended | ended
  #sums     three numbers: writes so far; entries that stand there, and their bytes
  #wakes    of all sources; #busy: those that have not ended
  #limits   four numbers: of entries, of bytes in each, of bytes in all, of writes
  #end      JSON of what a closing board ends with
  s:<name>  JSON of a source: n, its wakes; busy, the step of the one that has not ended; dirty, what has changed since it
            last began; since, when that was first so
  m:<entry> JSON of an entry beside its value: v, its version; s, the write that it was changed by; a, its author; p, the
            step; t, when; c, the confidence; w, the sources that watch it; g, whether a condition asks for it
  v:<entry> its value, JSON
  l:<entry> JSON of its lock: token, until_ms, the step and the fence of its holder, id of who asked
  #fence    locks given so far; #queue: JSON of who waits for some, the first one first
  n:<writer> the last write of a writer, and what it was told: its reply may be lost, and the call sent again
  k:<wake>:<name> the write that a wake has made once under a name
]]
local MOST_CHANGED = 1000  -- entries of which a source is told

local function board_key(step)
  return RUN .. ':board:' .. step
end

-- Each part between stars as early as it comes: Lua's own patterns try again for each star, and Redis stands still.
local function fits(glob, name)
  local star = string.find(glob, '*', 1, true)
  if not star then return glob == name end
  if string.sub(name, 1, star - 1) ~= string.sub(glob, 1, star - 1) then return false end
  local at = star
  while true do
    local after = star + 1
    star = string.find(glob, '*', after, true)
    if not star then
      local last = #name - (#glob - after)
      return last >= at and string.sub(name, last) == string.sub(glob, after)
    end
    local from, to = string.find(name, string.sub(glob, after, star - 1), at, true)
    if not from then return false end
    at = to + 1
  end
end

local function matches(globs, name)
  for _, glob in ipairs(globs) do
    if fits(glob, name) then return true end
  end
  return false
end

local function entry_meta(key, name)
  local text = redis.call('HGET', key, 'm:' .. name)
  return text and cjson.decode(text)
end

local function compare(a, op, b)
  if op == '==' then return a == b end
  if op == '!=' then return a ~= b end
  if type(a) ~= type(b) or (type(a) ~= 'number' and type(a) ~= 'string') then return false end
  if op == '<' then return a < b end
  if op == '<=' then return a <= b end
  if op == '>' then return a > b end
  return a >= b
end

local function names_on(key)
  local names = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local name = string.match(field, '^m:(.*)$')
    if name then names[#names + 1] = name end
  end
  return names
end

-- Whether a condition holds: patterns/conditions.py tells what there is. Of an entry that is not there nothing does.
local function holds(key, condition)
  local kind = condition[1]
  if kind == 'all' then
    for i = 2, #condition do if not holds(key, condition[i]) then return false end end
    return true
  elseif kind == 'any' then
    for i = 2, #condition do if holds(key, condition[i]) then return true end end
    return false
  elseif kind == 'not' then
    return not holds(key, condition[2])
  elseif kind == 'has' then
    return redis.call('HEXISTS', key, 'm:' .. condition[2]) == 1
  elseif kind == 'after' then
    local one = entry_meta(key, condition[2])
    if not one then return false end
    for _, name in ipairs(string.find(condition[3], '*', 1, true) and names_on(key) or {condition[3]}) do
      if name ~= condition[2] and matches({condition[3]}, name) then
        local other = entry_meta(key, name)
        if other and other.s >= one.s then return false end
      end
    end
    return true
  elseif kind == 'count' then
    local count = 0
    for _, name in ipairs(names_on(key)) do
      if matches({condition[2]}, name) then count = count + 1 end
    end
    return compare(count, condition[3], condition[4])
  end
  local text = redis.call('HGET', key, 'v:' .. condition[2])
  if not text then return false end
  local value = cjson.decode(text)
  for part in string.gmatch(condition[3], '[^/]+') do
    if type(value) ~= 'table' then return false end
    value = value[part]
  end
  if value == nil then return false end
  return compare(value, condition[4], condition[5])
end

local end_board

local function source_state(key, name)
  local text = redis.call('HGET', key, 's:' .. name)
  return text and cjson.decode(text) or {n = 0}
end

local function save_source(key, name, state)
  redis.call('HSET', key, 's:' .. name, cjson.encode(state))
end

-- A source has something new to look at. What it is told of is bounded; that there is something is not forgotten.
local function mark_dirty(key, name, state, changed)
  state.dirty = state.dirty or {}
  state.since = state.since or NOW
  local known = {}
  for _, each in ipairs(state.dirty) do known[each] = true end
  for _, each in ipairs(changed) do
    if not known[each] and #state.dirty < MOST_CHANGED then state.dirty[#state.dirty + 1] = each end
  end
  save_source(key, name, state)
end

-- A source looks at the board: what has changed until now is what its step is about. Another attempt is told again.
local function take_changes(rec)
  local key = board_key(rec.board)
  local state = source_state(key, rec.source)
  local changed, known = rec.changed or {}, {}
  for _, name in ipairs(changed) do known[name] = true end
  for _, name in ipairs(state.dirty or {}) do
    if not known[name] and #changed < MOST_CHANGED then changed[#changed + 1] = name end
  end
  rec.changed, state.dirty, state.since = changed, nil, nil
  save_source(key, rec.source, state)
end

-- The steps of a source's wake, the first one ready.
local function wake_source(board, rec, source, state, dispatch_ms)
  state.n = state.n + 1
  local root = (string.match(board, '^(.*/)') or '') .. source.name .. '#' .. state.n
  local function full(name) return name and (name == '' and root or root .. '/' .. name) end
  local entry, names, steps, listed = full(source.steps[1].name), {}, {}, {}
  for i, planned in ipairs(source.steps) do
    local step = {}
    for field, value in pairs(planned) do step[field] = value end
    step.name, step.status, step.board, step.member = nil, 'pending', board, entry
    step.next, step.start = full(planned.next), full(planned.start)
    if i == 1 then step.source, step.input, step.mail = source.name, rec.input, rec.mail end
    names[i], steps[i], listed[full(planned.name)] = full(planned.name), step, step
  end
  state.busy = entry
  save_source(board_key(board), source.name, state)
  add_to_order(names)
  emit('SourceWoken', {board = board, source = source.name, number = state.n, order = names, steps = listed})
  for i = 2, #names do save(names[i], steps[i]) end
  start(names[1], steps[1], dispatch_ms)
end

-- Wake the sources that have something new to look at, as far as there is room; those of a higher priority first.
-- Returns what `end_board` does, where it ended the board, else nil.
local function wake_sources(board, rec, dispatch_ms)
  local key, rules = board_key(board), rec.rules
  local counts = redis.call('HMGET', key, '#wakes', '#busy')
  local wakes, busy, due = tonumber(counts[1]), tonumber(counts[2]), {}
  if busy >= rules.width then return nil end
  for i, source in ipairs(rules.sources) do
    local state = source_state(key, source.name)
    if state.dirty and not state.busy and (not source.when or holds(key, source.when)) then
      due[#due + 1] = {at = i, source = source, state = state}
    end
  end
  table.sort(due, function(a, b)
    if a.source.priority ~= b.source.priority then return a.source.priority > b.source.priority end
    if a.state.since ~= b.state.since then return a.state.since < b.state.since end
    return a.at < b.at
  end)
  local size = tonumber(redis.call('HGET', RUN, 'size'))
  for _, each in ipairs(due) do
    if busy >= rules.width then break end
    size = size + #each.source.steps
    if wakes >= rules.max_wakes or size > rules.max_steps then
      local why = wakes >= rules.max_wakes and wakes .. ' wakes' or 'as many steps as a run may have'
      return end_board(board, rec, 'limit', 'after ' .. why, dispatch_ms)
    end
    busy, wakes = busy + 1, wakes + 1
    redis.call('HSET', key, '#busy', busy, '#wakes', wakes)
    wake_source(board, rec, each.source, each.state, dispatch_ms)
  end
  return nil
end

-- A blackboard's turn has come: it opens, which all see that watch its task.
open_board = function(board, rec, dispatch_ms)
  local key, rules = board_key(board), rec.rules
  settle(rec)
  rec.status, rec.started_ms, rec.begins = 'running', NOW, (rec.begins or 0) + 1
  save(board, rec)
  local boards, known = cjson.decode(redis.call('HGET', RUN, 'boards') or '[]'), false
  for _, each in ipairs(boards) do known = known or each == board end
  if not known then
    boards[#boards + 1] = board
    redis.call('HSET', RUN, 'boards', cjson.encode(boards))
    redis.call('HSET', key, '#sums', '0 0 0')
  end
  -- Writes are numbered on where it is opened again, and those of before are not held against it.
  local writes = tonumber(string.match(redis.call('HGET', key, '#sums'), '%d+'))
  redis.call('HSET', key, '#state', 'open', '#wakes', 0, '#busy', 0, '#limits',
    table.concat({rules.max_entries, rules.max_bytes, rules.max_total, writes + rules.max_writes}, ' '))
  for _, source in ipairs(rules.sources) do
    -- Of one that is opened again nothing of what was under way is.
    if known then save_source(key, source.name, {n = source_state(key, source.name).n}) end
  end
  local marked = {}
  for _, source in ipairs(rules.sources) do
    if matches(source.watch, 'task') then
      mark_dirty(key, source.name, source_state(key, source.name), {'task'})
      marked[#marked + 1] = source.name
    end
  end
  emit('BoardOpened', {board = board, begins = rec.begins, marked = marked})
  wake_sources(board, rec, dispatch_ms)
  -- Where nobody has anything to do it ends by its timer, and not within whatever is going on here.
  local idle = redis.call('HGET', key, '#busy') == '0'
  if idle or rules.within_ms then redis.call('ZADD', TIMERS, idle and NOW or NOW + rules.within_ms, joined_by(board)) end
end

-- Nothing stands on a board any more. Wakes are not numbered anew: services outside know their names.
local function clear_board(board)
  local key = board_key(board)
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.find(field, '^[mvlkn]:') then redis.call('HDEL', key, field) end
  end
  redis.call('HDEL', key, '#queue')
  redis.call('HSET', key, '#sums', string.match(redis.call('HGET', key, '#sums'), '%d+') .. ' 0 0')
end

-- Close what is not done of a board's sources, but one. Returns how many there were.
local function close_sources(board, rec, but)
  local key, late = board_key(board), 0
  for _, source in ipairs(rec.rules.sources) do
    local state = source_state(key, source.name)
    if state.busy and state.busy ~= but then
      close_member(state.busy)
      state.busy, late = nil, late + 1
      save_source(key, source.name, state)
    end
  end
  if late > 0 then end_children() end
  return late
end

-- What is on a board does not change any more; who waits for a lock finds out.
local function shut(board, state)
  local key = board_key(board)
  redis.call('HSET', key, '#state', state)
  redis.call('ZREM', TIMERS, joined_by(board))
  for _, waiter in ipairs(cjson.decode(redis.call('HGET', key, '#queue') or '[]')) do
    redis.call('PUBLISH', waiter.channel, waiter.id)
  end
  redis.call('HDEL', key, '#queue')
end

close_board = function(board, rec)
  if rec.status ~= 'running' then return end
  local key, why = board_key(board), 'the others went on without it'
  shut(board, 'ended')
  redis.call('HDEL', key, '#end')
  redis.call('HSET', key, '#busy', 0, '#outcome', 'closed', '#why', why)
  emit('BoardEnded', {board = board, outcome = 'closed', why = why, late = close_sources(board, rec)})
end

local function result_of(key, rec, outcome, why)
  local parts = {}
  for _, name in ipairs(names_on(key)) do
    parts[#parts + 1] = cjson.encode(name) .. ':' .. redis.call('HGET', key, 'v:' .. name)
  end
  table.sort(parts)
  local counts = redis.call('HMGET', key, '#sums', '#wakes')
  return '{"outcome":' .. cjson.encode(outcome) .. ',"why":' .. cjson.encode(why) .. ',"writes":' .. string.match(counts[1], '%d+') ..
    ',"wakes":' .. counts[2] .. (rec.degraded and ',"fault":' .. cjson.encode(rec.reason or '') or '') ..
    ',"entries":{' .. table.concat(parts, ',') .. '}}'
end

-- A board has come to its end: goal | quiet | limit | failed. What it holds is what the flow gives, or it has failed.
-- Returns what `fail_step` does.
end_board = function(board, rec, outcome, why, dispatch_ms)
  local key, rules = board_key(board), rec.rules
  local retention_ms = tonumber(redis.call('HGET', RUN, 'retention_ms'))
  local late = close_sources(board, rec)
  shut(board, 'ended')
  redis.call('HDEL', key, '#end')
  redis.call('HSET', key, '#busy', 0, '#outcome', outcome, '#why', why)
  emit('BoardEnded', {board = board, outcome = outcome, why = why, late = late})
  local reached = outcome == 'goal' or (outcome == 'quiet' and not rules.goal)
  if not reached and (outcome == 'failed' or rules.otherwise == 'fail') then
    local reason = outcome == 'failed' and why or 'the goal was not reached: ' .. outcome .. ', ' .. why
    return fail_step(retention_ms, board, rec, reason, 'failed', dispatch_ms)
  end
  rec.output = board .. '@' .. rec.begins
  redis.call('HSET', DATA, rec.output, result_of(key, rec, outcome, why))
  if not reached then rec.degraded, rec.reason = true, rec.reason or 'the goal was not reached: ' .. outcome .. ', ' .. why end
  complete(retention_ms, board, rec, nil, dispatch_ms)
  return 'failed'
end

-- The goal is reached: nobody is woken any more, and who has nothing to do with it is closed. The step that has reached
-- it ends first.
local function reach_goal(board, rec, by, dispatch_ms)
  if not by then return end_board(board, rec, 'goal', 'it holds', dispatch_ms) end
  local late = close_sources(board, rec, by)
  shut(board, 'closing')
  redis.call('HSET', board_key(board), '#busy', 1, '#end', cjson.encode({by = by}))
  emit('GoalReached', {board = board, by = by, late = late})
end

-- A source's wake has ended: others may have their turn, or there is nothing left to be done.
source_ended = function(step, rec, fault, dispatch_ms)
  local board, first = rec.board, rec.member == step and rec or load(rec.member)
  local key, above = board_key(board), load(board)
  local state = source_state(key, first.source)
  state.busy = nil
  save_source(key, first.source, state)
  local busy = redis.call('HINCRBY', key, '#busy', -1)
  if redis.call('HGET', key, '#state') == 'closing' then
    return end_board(board, above, 'goal', 'it holds', dispatch_ms)
  end
  if fault then
    end_children()
    if above.rules.otherwise == 'fail' then
      return end_board(board, above, 'failed', step .. ': ' .. fault, dispatch_ms)
    end
    above.degraded, above.reason = true, above.reason or step .. ': ' .. fault
    save(board, above)
  end
  local ended = wake_sources(board, above, dispatch_ms)
  if ended then return ended end
  if busy == 0 and redis.call('HGET', key, '#busy') == '0' then
    return end_board(board, above, 'quiet', 'nothing is left to be looked at', dispatch_ms)
  end
  return 'failed'
end

-- A board's timer has rung: its time is over, or nobody had anything to do when it was opened. Returns what `join` does.
local function overrun(board, rec, status, dispatch_ms)
  local key = board_key(board)
  local found = redis.call('HMGET', key, '#state', '#busy')
  if not status or not live(status) or rec.status ~= 'running' or found[1] ~= 'open' then
    redis.call('ZREM', TIMERS, joined_by(board))
    return 'closed'
  end
  local until_ms = rec.rules.within_ms and rec.started_ms + rec.rules.within_ms
  if until_ms and until_ms <= NOW then
    end_board(board, rec, 'limit', 'after ' .. rec.rules.within_ms / 1000 .. ' s', dispatch_ms)
  elseif found[2] == '0' then
    end_board(board, rec, 'quiet', 'nothing is left to be looked at', dispatch_ms)
  else
    if not until_ms then
      redis.call('ZREM', TIMERS, joined_by(board))
      return 'closed'
    end
    redis.call('ZADD', TIMERS, until_ms, joined_by(board))
    return 'early'
  end
  return 'joined'
end
