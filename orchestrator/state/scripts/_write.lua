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
  local fields, last = {'#state', '#sums', '#limits', 'n:' .. writer, once}, 5
  for i = 9, #ARGV, 7 do
    local entry = ARGV[i]
    fields[last + 1], fields[last + 2], fields[last + 3] = 'm:' .. entry, 'v:' .. entry, 'l:' .. entry
    last = last + 3
  end
  local found = redis.call('HMGET', BOARD, unpack(fields))
  -- Before anything else: a write may end the board or the run, and its reply be lost.
  if found[4] then
    local before, written = string.match(found[4], '(%d+) (%d+)')
    if tonumber(number) <= tonumber(before) then return {'known', written} end
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

  local refused, rules, versions, sums = nil, nil, {}, {}
  local at = 6
  for i = 9, #ARGV, 7 do
    local what, expected, token = ARGV[i + 1], ARGV[i + 2], ARGV[i + 4]
    local held, value, locked = found[at], found[at + 1], found[at + 2]
    -- What is wanted of its record is looked for there: to decode all of it costs as much as what is done with it.
    local version = held and tonumber(string.match(held, '"v":(%d+)')) or 0
    local other = expected ~= '' and tonumber(expected) ~= version
    local rule, why = other and what == 'set' and ARGV[i + 5], nil
    versions[at] = version
    local lock = locked and cjson.decode(locked)
    if lock and not holds_lock(lock) then lock = nil end
    if token ~= '' and not (lock and lock.token == token) then
      why = 'lost'
    elseif lock and what ~= 'check' and lock.token ~= token then
      why = 'locked'
    elseif other and rule ~= 'last' and rule ~= 'confidence' then
      why = 'conflict'
    elseif rule == 'confidence' and (tonumber(ARGV[i + 3]) or 0) <= (held and cjson.decode(held).c or 0) then
      why = 'weaker'
    elseif what == 'add' then
      sums[at] = sum_of(value or '0', ARGV[i + 6])
      why = not sums[at] and 'kind'
    elseif what == 'append' and value and string.byte(value) ~= 91 then
      why = 'kind'
    end
    if why then
      refused = refused or {'refused'}
      local n = #refused
      refused[n + 1], refused[n + 2], refused[n + 3], refused[n + 4] = ARGV[i], why, held or '', value or ''
    end
    at = at + 3
  end
  if refused then return refused end

  -- What follows is written in one go; only here it is known to fit.
  local fresh, listed, marked, asked = {}, {}, nil, false
  local of, wrote = cjson.encode(author), step ~= '' and cjson.encode(step)
  local who = ',"a":' .. of .. (wrote and ',"p":' .. wrote or '') .. '}'
  last, at = 0, 3
  for i = 9, #ARGV, 7 do
    local entry, what, confidence, given = ARGV[i], ARGV[i + 1], ARGV[i + 3], ARGV[i + 6]
    at = at + 3
    if what ~= 'check' then
      local held, value, version = found[at], found[at + 1], versions[at]
      local new = value and sums[at] or given
      if what == 'append' then
        new = not value and '[' .. given .. ']' or value == '[]' and '[' .. given .. ']' or string.sub(value, 1, -2) .. ',' .. given .. ']'
      end
      -- Of who watches it, and whether a condition asks for it, nothing stands there for most.
      local watched = held and string.match(held, '"w":(%b[])')
      local watchers, asks = watched and cjson.decode(watched), held and string.find(held, '"g":true', 1, true)
      if not library and (version == 0 or watched or asks) then return {'more', ''} end
      if version == 0 then
        rules = rules or load(name).rules
        entries = entries + 1
        for place, each in ipairs(rules.sources) do
          if library().matches(each.watch, entry) then
            watchers = watchers or {}
            watchers[#watchers + 1] = place
          end
        end
        watched = watchers and cjson.encode(watchers)
        asks = rules.asked and library().matches(rules.asked, entry)
        if entries > tonumber(most_entries) then return {'full', 'entries'} end
      end
      bytes = bytes + #new - (value and #value or 0)
      -- Put together by hand: cjson's numbers have fourteen digits, and of a confidence the log has all of them.
      local sure = confidence ~= '' and ',"c":' .. confidence or ''
      version = version + 1
      fresh[last + 1], fresh[last + 2], fresh[last + 3], fresh[last + 4] =
        fields[at], '{"v":' .. version .. ',"s":' .. seq .. ',"t":' .. NOW .. sure ..
          (watched and ',"w":' .. watched or '') .. (asks and ',"g":true' or '') .. who, fields[at + 1], new
      last = last + 4
      listed[#listed + 1] = cjson.encode(entry) .. ':{"v":' .. version .. ',"how":"' .. what .. '"' .. sure .. ',"value":' .. given .. '}'
      asked = asked or asks
      for _, place in ipairs(watchers or {}) do
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
  fresh[last + 1], fresh[last + 2], fresh[last + 3], fresh[last + 4] =
    '#sums', seq .. ' ' .. entries .. ' ' .. bytes, fields[4], number .. ' ' .. seq
  if once ~= '' then fresh[last + 5], fresh[last + 6] = once, seq end
  redis.call('HSET', BOARD, unpack(fresh))
  emit('EntriesWritten', '{"board":' .. cjson.encode(name) .. ',"seq":' .. seq .. ',"by":' .. of ..
    (wrote and ',"step":' .. wrote or '') .. ',"entries":{' .. table.concat(listed, ',') .. '}' ..
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
