--[[ _write: change entries of a blackboard, all or none; the registry puts it behind _base.lua and _locks.lua.
ARGV[1]   name    string  the blackboard's step
ARGV[2]   step    string  that writes; empty: somebody outside
ARGV[3]   fence   string  its fence, from begin
ARGV[4]   author  string  its source, or who
ARGV[5]   writer  string  whose writes come one after the other
ARGV[6]   number  integer of the write: one that is not above the last one's is not taken again
ARGV[7]   once    string  a name under which the wake writes once, or empty
ARGV[8]   dispatch_ms  integer
ARGV[9..] put     string  of each entry seven: its name; set | add | append | check; the version that it must have, 0 where
                          it must not be there, or empty; the confidence, or empty; the token of its lock, or empty; what
                          becomes of it where the version is another: last | confidence | any other, refused; its value,
                          JSON
Returns   {'written', seq, ready...} | {'known', seq} that was written before
          | {'refused', by turns: name, why, its record, JSON, its value, JSON, the last two empty where it is not there}
            why: conflict | weaker: its confidence is not higher | locked by another | lost: the lock is no more | kind: it is
            no number, or no list, or the sum would not be exact
          | {'full', what} | {'ended', outcome} | {'gone', ''} there is no such board yet
          | {'stale', ''} the step is another's | {'closed', ''} the run has ended, or goes on without the step
          | {'more', ''} without a library: a source watches it, or may.
          Where it is neither written nor known nothing was changed.
          ready: steps to be published, by turns with their agents
]]
-- What is added makes, as JSON; nil where it is no number, or none that is exact: the log would fold to another one.
local function sum_of(value, given)
  local one, other = tonumber(value), tonumber(given)
  local sum = one and other and one + other
  if not sum or sum - sum ~= 0 then return nil end  -- not finite
  if string.find(value, '[.eE]') or string.find(given, '[.eE]') then
    local text = string.format('%.17g', sum)
    return string.find(text, '[.e]') and text or text .. '.0'
  end
  if math.max(math.abs(one), math.abs(other), math.abs(sum)) >= 2 ^ 53 then return nil end
  return string.format('%d', sum)
end

local function write_entries(BOARD, library)
  local name, step, fence, author, writer, number, once, dispatch_ms = unpack(ARGV, 1, 8)
  local run = redis.call('HMGET', RUN, 'status', 'step:' .. step)
  local rec = step ~= '' and run[2] and cjson.decode(run[2]) or nil
  -- Of a flow that is a source, it is the first step that says whose wake it is.
  local source = rec and (rec.source or rec.member and load(rec.member).source)
  if once ~= '' then once = 'k:' .. (rec and rec.member or author) .. ':' .. once end
  local fields = {'#state', '#sums', '#limits', 'n:' .. writer, once}
  local puts = {}
  for i = 9, #ARGV, 7 do
    local entry = ARGV[i]
    puts[#puts + 1] = {unpack(ARGV, i, i + 6)}
    fields[#fields + 1], fields[#fields + 2], fields[#fields + 3] = 'm:' .. entry, 'v:' .. entry, 'l:' .. entry
  end
  local found = redis.call('HMGET', BOARD, unpack(fields))
  -- Before anything else: a write may end the board or the run, and its reply be lost.
  if found[4] then
    local last, written = string.match(found[4], '(%d+) (%d+)')
    if tonumber(number) <= tonumber(last) then return {'known', written} end
  end
  if not run[1] or not live(run[1]) or run[1] == 'undoing' then return {'closed', ''} end
  if step ~= '' then
    if not rec or rec.status == 'cancelled' then return {'closed', ''} end
    if rec.status ~= 'running' or rec.fence ~= fence then return {'stale', ''} end
  end
  if not found[1] then return {'gone', ''} end
  if found[1] ~= 'open' then return {'ended', redis.call('HGET', BOARD, '#outcome') or 'goal'} end
  if once ~= '' and found[5] then return {'known', found[5]} end
  local writes, entries, bytes = string.match(found[2], '(%d+) (%d+) (%d+)')
  local seq = writes + 1
  entries, bytes = tonumber(entries), tonumber(bytes)
  local most_entries, most_bytes, most_in_all, most_writes = string.match(found[3], '(%d+) (%d+) (%d+) (%d+)')

  local refused, rules, metas = {'refused'}, nil, {}
  local function refuse(entry, why, meta, value)
    local at = #refused
    refused[at + 1], refused[at + 2], refused[at + 3], refused[at + 4] = entry, why, meta or '', value or ''
  end
  for i, put in ipairs(puts) do
    local entry, what, expected, confidence, token = put[1], put[2], put[3], put[4], put[5]
    local at = 3 + 3 * i
    local held, value, locked = found[at], found[at + 1], found[at + 2]
    local meta = held and cjson.decode(held) or {v = 0}
    local rule = what == 'set' and put[6]
    metas[i] = meta
    local lock = locked and cjson.decode(locked)
    if lock and not holds_lock(lock) then lock = nil end
    if token ~= '' and not (lock and lock.token == token) then
      refuse(entry, 'lost', held, value)
    elseif lock and what ~= 'check' and lock.token ~= token then
      refuse(entry, 'locked', held, value)
    elseif expected ~= '' and tonumber(expected) ~= meta.v and rule ~= 'last' and rule ~= 'confidence' then
      refuse(entry, 'conflict', held, value)
    elseif expected ~= '' and tonumber(expected) ~= meta.v and rule == 'confidence' and
           (tonumber(confidence) or 0) <= (meta.c or 0) then
      refuse(entry, 'weaker', held, value)
    elseif what == 'add' then
      put[8] = sum_of(value or '0', put[7])
      if not put[8] then refuse(entry, 'kind', held, value) end
    elseif what == 'append' and value and string.byte(value) ~= 91 then
      refuse(entry, 'kind', held, value)
    end
  end
  if #refused > 1 then return refused end

  -- What follows is written in one go; only here it is known to fit.
  local fresh, listed, marked, asked = {}, {}, nil, false
  local who = ',"a":' .. cjson.encode(author) .. (step ~= '' and ',"p":' .. cjson.encode(step) or '')
  for i, put in ipairs(puts) do
    local entry, what, confidence, given, meta = put[1], put[2], put[4], put[7], metas[i]
    if what ~= 'check' then
      local value = found[4 + 3 * i] or nil
      local new = what == 'add' and value and put[8] or given
      if what == 'append' then
        new = not value and '[' .. given .. ']' or value == '[]' and '[' .. given .. ']' or string.sub(value, 1, -2) .. ',' .. given .. ']'
      end
      if not library and (meta.v == 0 or meta.w or meta.g) then return {'more', ''} end
      if meta.v == 0 then
        rules = rules or load(name).rules
        entries = entries + 1
        for place, each in ipairs(rules.sources) do
          if library().matches(each.watch, entry) then
            meta.w = meta.w or {}
            meta.w[#meta.w + 1] = place
          end
        end
        meta.g = rules.asked and library().matches(rules.asked, entry) or nil
        if entries > tonumber(most_entries) then return {'full', 'entries'} end
      end
      bytes = bytes + #new - (value and #value or 0)
      -- Put together by hand: cjson's numbers have fourteen digits, and of a confidence the log has all of them.
      local sure = confidence ~= '' and ',"c":' .. confidence or ''
      local at, version = #fresh, meta.v + 1
      fresh[at + 1], fresh[at + 2], fresh[at + 3], fresh[at + 4] =
        'm:' .. entry, '{"v":' .. version .. ',"s":' .. seq .. ',"t":' .. NOW .. sure ..
          (meta.w and ',"w":' .. cjson.encode(meta.w) or '') .. (meta.g and ',"g":true' or '') .. who .. '}',
        'v:' .. entry, new
      listed[#listed + 1] = cjson.encode(entry) .. ':{"v":' .. version .. ',"how":"' .. what .. '"' .. sure .. ',"value":' .. given .. '}'
      asked = asked or meta.g
      for _, place in ipairs(meta.w or {}) do
        rules = rules or load(name).rules
        local each = rules.sources[place]
        if each.own or each.name ~= source then
          marked = marked or {}
          marked[each.name] = marked[each.name] or {}
          table.insert(marked[each.name], entry)
        end
      end
      if #new > tonumber(most_bytes) then return {'full', entry} end
    end
  end
  if bytes > tonumber(most_in_all) then return {'full', 'bytes'} end
  if not library and seq >= tonumber(most_writes) then return {'more', ''} end
  local at = #fresh
  fresh[at + 1], fresh[at + 2], fresh[at + 3], fresh[at + 4] =
    '#sums', seq .. ' ' .. entries .. ' ' .. bytes, 'n:' .. writer, number .. ' ' .. seq
  if once ~= '' then fresh[at + 5], fresh[at + 6] = once, seq end
  redis.call('HSET', BOARD, unpack(fresh))
  emit('EntriesWritten', '{"board":' .. cjson.encode(name) .. ',"seq":' .. seq .. ',"by":' .. cjson.encode(author) ..
    (step ~= '' and ',"step":' .. cjson.encode(step) or '') .. ',"entries":{' .. table.concat(listed, ',') .. '}' ..
    (marked and ',"marked":' .. cjson.encode(marked) or '') .. '}')
  for each, changed in pairs(marked or {}) do
    library().mark_dirty(BOARD, each, library().source_state(BOARD, each), changed)
  end
  local board
  dispatch_ms = tonumber(dispatch_ms)
  if asked then
    board = load(name)
    if board.rules.goal and library().holds(BOARD, board.rules.goal) then
      library().reach_goal(name, board, rec and rec.member, dispatch_ms)
      return told('written', tostring(seq))
    end
  end
  if seq >= tonumber(most_writes) then
    library().end_board(name, board or load(name), 'limit', 'after ' .. seq .. ' writes', dispatch_ms)
    return told('written', tostring(seq))
  end
  -- What nobody watches may still be what somebody waits for.
  if marked or asked then library().wake_sources(name, board or load(name), dispatch_ms) end
  return told('written', tostring(seq))
end
