--[[ _guards: what every script on guards shares; the registry puts it in front of each.
KEYS[1]   members    hash  {guards}:members
KEYS[2]   holds      zset  {guards}:holds
KEYS[3]   waiting    set   {guards}:waiting
KEYS[4]   breakers   hash  {guards}:breakers
ARGV[1]   clock      int   now (ms), for tests; empty: TIME

The keys of guards, budgets and other agents' queues are not among KEYS, as which members a script comes to look at is
known only while it runs. keys.py has built them too: they are in what each member asked for, or begin with what it has
given of a queue's. All are in one slot.

A member's record is three lines of JSON.
  state   s: w waits | g was granted its turn, and has what it needs | h holds it; score, since, tries: of the queue;
          at: when it was admitted; x: of each guard, p: of each budget, what was taken
  ask     a: agent; q, u: its queue and turns; t: tenant; c: class, 0 first; n: {tokens, cost}; b: budgets, {name, key}
  guards  kind, name, key, waits, and the kind's own numbers
]]
local MEMBERS, HOLDS, WAITING, BREAKERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local TIME = redis.call('TIME')
local NOW = tonumber(ARGV[1]) or TIME[1] * 1000 + math.floor(TIME[2] / 1000)
local SLICES, BUCKETS = 200, 10
local CLASS = 1e12       -- scores of a class lie above all of the class before it
local SOON_MS = 1000     -- when nobody knows when there will be room: ask again then
local DAY_MS = 86400000
local PAGE = 100
local KINDS = {}
local freed = false      -- whether others may find room that they had not

-- A counter of what is under way: it goes when nothing is.
local function less(key, field, by)
  if redis.call('HINCRBY', key, field, -by) <= 0 then redis.call('HDEL', key, field) end
end

-- Rates: what was taken is counted in slices of time, and leaves when its whole slice is out of the window. What a
-- granted member has is in the total only, until it makes its call: so it cannot leave before that.

local function look_at_rate(g)
  local slice = math.floor(NOW * SLICES / g.per)
  local v = redis.call('HMGET', g.key, 'first', 'requests', 'tokens', 'gate', 'requests' .. slice, 'tokens' .. slice)
  local look = {requests = tonumber(v[2] or 0), tokens = tonumber(v[3] or 0), gate = tonumber(v[4] or 0),
                slice = slice, requests_now = tonumber(v[5] or 0), tokens_now = tonumber(v[6] or 0)}
  local first, live = tonumber(v[1]), slice - SLICES
  if first and first < live then
    for _, what in ipairs({'requests', 'tokens'}) do
      if look[what] > 0 then
        local names, sum = {}, 0
        for k = first, math.min(live - 1, first + SLICES) do names[#names + 1] = what .. k end
        for _, count in ipairs(redis.call('HMGET', g.key, unpack(names))) do sum = sum + tonumber(count or 0) end
        if sum > 0 then
          redis.call('HDEL', g.key, unpack(names))
          look[what] = redis.call('HINCRBY', g.key, what, -sum)
        end
      end
    end
  end
  if not first or first < live then
    first = live
    redis.call('HSET', g.key, 'first', first)
    redis.call('PEXPIRE', g.key, math.max(2 * g.per + 60000, look.gate - NOW + SOON_MS))
  elseif slice < first then
    -- The clock was set back: nothing is put before the window's beginning, from where it would never leave.
    local now = redis.call('HMGET', g.key, 'requests' .. first, 'tokens' .. first)
    look.slice, look.requests_now, look.tokens_now = first, tonumber(now[1] or 0), tonumber(now[2] or 0)
  end
  look.first = first
  return look
end

-- How long until so much has left that there is room.
local function room_in(g, look, what, need)
  local names, excess = {}, look[what] + need - g[what]
  for k = look.first, look.slice do names[#names + 1] = what .. k end
  for i, count in ipairs(redis.call('HMGET', g.key, unpack(names))) do
    excess = excess - tonumber(count or 0)
    if excess <= 0 then return math.ceil((look.first + i + SLICES) * g.per / SLICES) - NOW end
  end
  return SOON_MS
end

KINDS.rate = {
  check = function(g, m, i)
    local look = look_at_rate(g)
    m.look[i] = look
    if g.tokens and m.ask.n[1] > g.tokens then return 'rate', -1 end
    if look.gate > NOW then return 'gate', look.gate - NOW end
    local wait = 0
    if g.requests and look.requests + 1 > g.requests then wait = room_in(g, look, 'requests', 1) end
    -- One that does not know what it needs waits too while nothing is left.
    local need = math.max(m.ask.n[1], 1)
    if g.tokens and look.tokens + need > g.tokens then wait = math.max(wait, room_in(g, look, 'tokens', need)) end
    if wait > 0 then return 'rate', wait end
  end,
  take = function(g, m, i, granted)
    local look, fields = m.look[i], {}
    local function add(what, amount)
      fields[#fields + 1] = what
      fields[#fields + 1] = look[what] + amount
      if not granted then
        fields[#fields + 1] = what .. look.slice
        fields[#fields + 1] = look[what .. '_now'] + amount
      end
    end
    if g.requests then add('requests', 1) end
    if g.tokens and m.ask.n[1] > 0 then add('tokens', m.ask.n[1]) end
    if #fields > 0 then redis.call('HSET', g.key, unpack(fields)) end
    return look.slice
  end,
  undo = function(g, m)
    if g.requests then less(g.key, 'requests', 1) end
    if g.tokens and m.ask.n[1] > 0 then less(g.key, 'tokens', m.ask.n[1]) end
    freed = true
  end,
  release = function(g, m, x, _, _, used)
    local more = g.tokens and used and used[1] - m.ask.n[1] or 0
    if more == 0 then return end
    local look = look_at_rate(g)
    if more > 0 then
      redis.call('HSET', g.key, 'tokens', look.tokens + more, 'tokens' .. look.slice, look.tokens_now + more)
    elseif x >= look.first then
      less(g.key, 'tokens', -more)
      less(g.key, 'tokens' .. x, -more)
      freed = true
    end
  end,
}

-- Breakers. An epoch ends when one opens: what began before that says nothing about it afterwards.

local function keep_breaker(g, forced)
  if not forced then redis.call('PEXPIRE', g.key, g.window + g.cooldown + DAY_MS) end
end

local function buckets(index)
  local names = {}
  for b = 0, BUCKETS - 1 do names[b + 1] = 'bucket' .. (index - b) % BUCKETS end
  return names
end

local function count_call(text, index)
  local at, calls, failures = string.match(text or '', '^(%d+):(%d+):(%d+)$')
  if tonumber(at) ~= index then return 0, 0 end
  return tonumber(calls), tonumber(failures)
end

local function opens(g, index)
  local calls, failures = 0, 0
  for b, text in ipairs(redis.call('HMGET', g.key, unpack(buckets(index)))) do
    local more, bad = count_call(text, index - b + 1)
    calls, failures = calls + more, failures + bad
  end
  if g.rate then return calls >= g.minimum and failures >= g.rate * calls end
  return failures >= g.failures
end

local function open(g, epoch)
  redis.call('HSET', g.key, 'state', 'open', 'since', NOW, 'until', NOW + g.cooldown, 'epoch', epoch + 1, 'wins', 0)
end

KINDS.breaker = {
  check = function(g, m, i)
    local v = redis.call('HMGET', g.key, 'state', 'until', 'forced', 'gate', 'probes', 'epoch')
    local look = {state = v[1] or 'closed', forced = v[3], epoch = tonumber(v[6] or 1)}
    m.look[i] = look
    if v[3] == 'open' then return 'breaker', g.cooldown end
    local gate = tonumber(v[4] or 0)
    if gate > NOW then return 'gate', gate - NOW end
    if v[3] or look.state == 'closed' then return end
    if look.state == 'open' and tonumber(v[2]) > NOW then return 'breaker', tonumber(v[2]) - NOW end
    if tonumber(v[5] or 0) >= g.probes then return 'breaker', math.min(g.cooldown, SOON_MS) end
    look.probe = true
  end,
  take = function(g, m, i)
    local look = m.look[i]
    if not look.probe then return look.epoch end
    if look.state == 'open' then redis.call('HSET', g.key, 'state', 'half-open', 'since', NOW, 'wins', 0) end
    redis.call('HINCRBY', g.key, 'probes', 1)
    keep_breaker(g)
    m.probe = 1
    return -look.epoch
  end,
  undo = function(g, _, x)
    if x < 0 then
      less(g.key, 'probes', 1)
      freed = true
    end
  end,
  release = function(g, _, x, outcome, took_ms)
    local probe, epoch = x < 0, math.abs(x)
    if probe then
      less(g.key, 'probes', 1)
      freed = true
    end
    if outcome == 'neutral' then return end
    local bad = outcome == 'failed' or (g.slow ~= nil and took_ms > g.slow)
    local index = math.floor(NOW * BUCKETS / g.window)
    local bucket = 'bucket' .. index % BUCKETS
    local v = redis.call('HMGET', g.key, 'state', 'epoch', 'forced', 'wins', 'window', bucket)
    local state = v[1] or 'closed'
    if tonumber(v[2] or 1) ~= epoch then return end
    if state == 'half-open' and probe then
      local wins = tonumber(v[4] or 0) + 1
      if bad then
        open(g, epoch)
      elseif wins < g.closes then
        redis.call('HSET', g.key, 'wins', wins)
      else
        redis.call('HDEL', g.key, 'wins', 'until', unpack(buckets(index)))
        redis.call('HSET', g.key, 'state', 'closed', 'since', NOW)
      end
    elseif state == 'closed' then
      local calls, failures = count_call(v[6], index)
      local counted = index .. ':' .. calls + 1 .. ':' .. failures + (bad and 1 or 0)
      if tonumber(v[5]) == g.window then
        redis.call('HSET', g.key, bucket, counted)
      else
        redis.call('HSET', g.key, bucket, counted, 'window', g.window)
        redis.call('HSETNX', g.key, 'since', NOW)
        redis.call('HSET', BREAKERS, g.name, g.key)
      end
      if calls == 0 then keep_breaker(g, v[3]) end
      if not v[3] and (bad or g.rate) and opens(g, index) then open(g, epoch) end
    end
  end,
}

KINDS.concurrency = {
  check = function(g, m, i)
    local v = redis.call('HMGET', g.key, 'total', 'tenant:' .. m.ask.t)
    m.look[i] = v
    if g.total and tonumber(v[1] or 0) >= g.total then return 'concurrency', SOON_MS end
    if g.per_tenant and tonumber(v[2] or 0) >= g.per_tenant then return 'concurrency', SOON_MS, true end
  end,
  -- Both are counted whatever is limited: who shares the name may limit the other.
  take = function(g, m, i)
    local v = m.look[i]
    redis.call('HSET', g.key, 'total', (v[1] or 0) + 1, 'tenant:' .. m.ask.t, (v[2] or 0) + 1)
    return 1
  end,
  undo = function(g, m)
    less(g.key, 'total', 1)
    less(g.key, 'tenant:' .. m.ask.t, 1)
    freed = true
  end,
}
KINDS.concurrency.release = KINDS.concurrency.undo

-- Budgets

local AMOUNTS = {'tokens', 'cost'}

-- What there is of a budget, its period begun; nil where there is none.
local function look_at_budget(key)
  local v = redis.call('HMGET', key, 'since', 'per', 'period', 'tokens', 'cost', 'used_tokens', 'used_cost')
  if not v[1] then return nil end
  local look = {period = 0, limit = {tonumber(v[4]), tonumber(v[5])}, used = {tonumber(v[6] or 0), tonumber(v[7] or 0)}}
  local per = tonumber(v[2])
  if per then
    look.period = math.floor((NOW - v[1]) / per)
    look.renews = v[1] + (look.period + 1) * per - NOW
    if look.period ~= tonumber(v[3] or 0) then
      look.used = {0, 0}
      redis.call('HSET', key, 'period', look.period, 'used_tokens', 0, 'used_cost', 0)
    end
  end
  return look
end

local function check_budget(key, m, i)
  local look = look_at_budget(key)
  m.budgets[i] = look
  for n = 1, look and 2 or 0 do
    local need, limit = m.ask.n[n], look.limit[n]
    if limit and need > 0 and look.used[n] + need > limit then return need <= limit and look.renews or -1 end
  end
end

-- Of a budget that was just looked at; returns the period in which it was taken, -1: there is no such budget.
local function take_budget(key, m, i)
  local look = m.budgets[i]
  if not look then return -1 end
  for n, what in ipairs(AMOUNTS) do
    if m.ask.n[n] > 0 then redis.call('HINCRBY', key, 'used_' .. what, m.ask.n[n]) end
  end
  return look.period
end

local function adjust_budget(key, m, period, used)
  local look = period >= 0 and look_at_budget(key)
  if not look then return end
  for n, what in ipairs(AMOUNTS) do
    local more = used[n] - m.ask.n[n]
    if more > 0 or (more < 0 and period == look.period) then
      redis.call('HINCRBY', key, 'used_' .. what, math.max(more, -look.used[n]))
      freed = freed or more < 0
    end
  end
end

-- Members

local decoded = {}  -- most members of an agent have the same guards

local function set_ask(m, ask, guards)
  if not decoded[guards] then decoded[guards] = cjson.decode(guards) end
  m.ask, m.guards, m.asked = cjson.decode(ask), decoded[guards], ask .. '\n' .. guards
end

local function load(id)
  local text = redis.call('HGET', MEMBERS, id)
  if not text then return nil end
  local first = string.find(text, '\n', 1, true)
  local second = string.find(text, '\n', first + 1, true)
  local m = cjson.decode(string.sub(text, 1, first - 1))
  m.id, m.look = id, {}
  set_ask(m, string.sub(text, first + 1, second - 1), string.sub(text, second + 1))
  return m
end

local function save(m)
  local state = {s = m.s, score = m.score, since = m.since, tries = m.tries, at = m.at, x = m.x, p = m.p,
                 probe = m.probe}
  redis.call('HSET', MEMBERS, m.id, cjson.encode(state) .. '\n' .. m.asked)
end

-- Returns nil where all let it through, else what refused it: `final` where waiting would not help, or is not wanted;
-- `own` where others than its tenant's may pass.
local function check(m)
  local found
  local function refuse(kind, name, retry, own, waits)
    local final = retry < 0 or not waits
    if not found then
      found = {kind = kind, name = name, retry = retry, own = own, final = final}
    elseif final and not found.final then
      found = {kind = kind, name = name, retry = retry, own = own and found.own, final = true}
    else
      found.own = found.own and own
      if not found.final then found.retry = math.max(found.retry, retry) end
    end
  end
  for i, g in ipairs(m.guards) do
    local kind, retry, own = KINDS[g.kind].check(g, m, i)
    if kind then refuse(kind, g.name, retry, own or false, g.waits) end
  end
  m.budgets = {}
  for i, b in ipairs(m.ask.b) do
    local retry = check_budget(b[2], m, i)
    if retry then refuse('budget', b[1], retry, true, true) end
  end
  return found
end

local function take(m, granted)
  m.x, m.p, m.probe = {}, {}, nil
  for i, g in ipairs(m.guards) do m.x[i] = KINDS[g.kind].take(g, m, i, granted) end
  for i, b in ipairs(m.ask.b) do m.p[i] = take_budget(b[2], m, i) end
end

-- Give back what a granted member was never given the time to use.
local function undo(m)
  for i, g in ipairs(m.guards) do KINDS[g.kind].undo(g, m, m.x[i]) end
  for i, b in ipairs(m.ask.b) do adjust_budget(b[2], m, m.p[i], {0, 0}) end
end

-- Give back what a call holds; without `used` its reservation counts as used.
local function release(m, outcome, took_ms, used)
  for i, g in ipairs(m.guards) do KINDS[g.kind].release(g, m, m.x[i], outcome, took_ms, used) end
  for i, b in ipairs(used and m.ask.b or {}) do adjust_budget(b[2], m, m.p[i], used) end
end

local function hold(m, ms)
  save(m)
  redis.call('ZADD', HOLDS, NOW + ms, m.id)
end

-- The queue: by class, then start-time fair between tenants, who each advance by one for each of their members.

local function queue_at(m, tag)
  m.s, m.score, m.x, m.p, m.probe = 'w', m.ask.c * CLASS + tag, nil, nil, nil
  redis.call('ZADD', m.ask.q, m.score, m.id)
  redis.call('SADD', WAITING, m.ask.a)
  save(m)
end

local function enqueue(m)
  if m.s == 'w' then return save(m) end
  local tenant = m.ask.c .. ':' .. m.ask.t
  local v = redis.call('HMGET', m.ask.u, 'now' .. m.ask.c, tenant)
  local tag = math.max(tonumber(v[1] or 0), tonumber(v[2] or 0)) + 1
  redis.call('HSET', m.ask.u, tenant, tag)
  m.since, m.tries = NOW, 0
  queue_at(m, tag)
end

local function dequeue(m, served)
  redis.call('ZREM', m.ask.q, m.id)
  if redis.call('EXISTS', m.ask.q) == 0 then
    redis.call('DEL', m.ask.u)
    redis.call('SREM', WAITING, m.ask.a)
  elseif served then
    local tag, now = m.score - m.ask.c * CLASS, 'now' .. m.ask.c
    if tag > tonumber(redis.call('HGET', m.ask.u, now) or 0) then redis.call('HSET', m.ask.u, now, tag) end
  end
end

local function drop(m)
  if m.s == 'w' then dequeue(m, false) else redis.call('ZREM', HOLDS, m.id) end
  redis.call('HDEL', MEMBERS, m.id)
end

-- Take back what dead workers hold; returns how many did. A grant that nobody came for is given once more, in front of
-- the others.
local function reap(limit)
  local expired = redis.call('ZRANGEBYSCORE', HOLDS, '-inf', NOW, 'LIMIT', 0, limit)
  for _, id in ipairs(expired) do
    local m = load(id)
    redis.call('ZREM', HOLDS, id)
    if m and m.s == 'g' and m.tries < 1 then
      undo(m)
      m.tries = m.tries + 1
      queue_at(m, 0)
    elseif m then
      if m.s == 'g' then undo(m) else release(m, 'neutral', 0, nil) end
      redis.call('HDEL', MEMBERS, id)
    end
  end
  return #expired
end

-- Give their turn to those who wait in a queue; what they need is reserved for them. Returns their ids. One who would
-- wait in vain gets its turn too, without anything: it shall learn why.
local function grant(queue, grant_ms, limit)
  -- How many are passed over has a limit; newcomers of another tenant come in near the front, wherever that ends.
  local turns, skipped, over, most = {}, {}, 0, 2 * limit
  while #turns < limit and over < most do
    local page = redis.call('ZRANGE', queue, over, over + PAGE - 1)
    for _, id in ipairs(page) do
      local m = load(id)
      if not m then
        redis.call('ZREM', queue, id)
      elseif skipped[m.ask.t] then
        over = over + 1
      else
        local refusal = check(m)
        if not refusal then
          dequeue(m, true)
          take(m, true)
          m.s = 'g'
          hold(m, grant_ms)
          turns[#turns + 1] = id
        elseif refusal.final then
          drop(m)
          turns[#turns + 1] = id
        elseif refusal.own then
          skipped[m.ask.t] = true
          over = over + 1
        else
          return turns
        end
      end
      if #turns >= limit or over >= most then return turns end
    end
    if #page == 0 then return turns end
  end
  return turns
end

-- The guards of who is first in a queue; of its record the last line alone is decoded, as many queues may be looked at.
local function first_guards(queue)
  local first = redis.call('ZRANGE', queue, 0, 0)[1]
  local text = first and redis.call('HGET', MEMBERS, first)
  if not text then return {} end
  local guards = string.match(text, '^[^\n]*\n[^\n]*\n(.*)$')
  if not decoded[guards] then decoded[guards] = cjson.decode(guards) end
  return decoded[guards]
end

-- Whether the first of another agent needs what the first of this one needs too.
local function contested(queue, queues)
  local keys = {}
  for _, g in ipairs(first_guards(queue)) do keys[g.key] = true end
  if not next(keys) then return false end
  for _, agent in ipairs(redis.call('SMEMBERS', WAITING)) do
    if queues .. agent ~= queue then
      for _, g in ipairs(first_guards(queues .. agent)) do
        if keys[g.key] then return true end
      end
    end
  end
  return false
end

-- What an agent's call gave back goes to those who wait for the same agent; but what others wait for too would then
-- never leave the agent that has it. That is left to the caretaker, who goes by no agent first.
local function grant_freed(queue, queues, grant_ms, limit)
  if contested(queue, queues) then return {} end
  return grant(queue, grant_ms, limit)
end
