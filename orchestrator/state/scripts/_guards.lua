--[[ _guards: what every script on guards shares; the registry puts it in front of each.
KEYS[1]   members    hash  {guards}:members
KEYS[2]   holds      zset  {guards}:holds
KEYS[3]   waiting    set   {guards}:waiting
KEYS[4]   breakers   hash  {guards}:breakers
ARGV[1]   clock      int   now (ms), for tests; empty: TIME

The keys of guards, budgets and other agents' queues are not among KEYS, as which members a script comes to look at is
known only while it runs. keys.py has built them too: they are in what each member asked for, or begin with what it has
given of a queue's. All are in one slot.

A member's record is these values one after another, as cmsgpack packs them.
  s        w waits | g was granted its turn, and has what it needs | h holds it
  at       when it was admitted
  probe    1: it tries out for a half-open breaker
  score, since, tries   of the queue
  x, p     of each guard, and of each budget, what was taken
  tenant, class         class 0 comes first
  need     {tokens, cost}
  budgets  {name, key, name, key, ...}
  spec     JSON, one for all calls of an agent. a: agent; q, u: its queue and turns; g: guards, each with kind, name,
           key, waits, and the kind's own numbers
  fence    of the attempt that asked last, as from `begin`; empty where there are none

All functions are made anew for each call of a script, which costs as much as a command of Redis for each. So there are
few of them, and those that not every call needs are made by others: `admitting`, `releasing`, and for what is rare
`refusing`, `tripping` and `queueing`.
]]
local MEMBERS, HOLDS, WAITING, BREAKERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local call, max = redis.call, math.max
local NOW = tonumber(ARGV[1])
if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000 + math.floor(time[2] / 1000)
end
local SLICES, BUCKETS = 200, 10
local SOON_MS = 1000     -- when nobody knows when there will be room: ask again then
local DAY_MS = 86400000
local freed = false      -- whether others may find room that they had not
local specs = {}

-- Rates: what was taken is counted in slices of time, and leaves when its whole slice is out of the window. What a
-- granted member has is in the total only, until it makes its call: so it cannot leave before that.

-- `taken`: the tokens of the slice x, if one is given.
local function look_at_rate(g, x)
  local key = g.key
  local slice = math.floor(NOW * SLICES / g.per)
  local requests, tokens = 'requests' .. slice, 'tokens' .. slice
  local v = call('HMGET', key, 'first', 'requests', 'tokens', 'gate', requests, tokens, x and 'tokens' .. x or tokens)
  local look = {requests = tonumber(v[2] or 0), tokens = tonumber(v[3] or 0), gate = tonumber(v[4] or 0),
                slice = slice, requests_field = requests, tokens_field = tokens, taken = tonumber(v[7] or 0),
                requests_now = tonumber(v[5] or 0), tokens_now = tonumber(v[6] or 0)}
  local first, live = tonumber(v[1]), slice - SLICES
  if first and first < live then
    for _, what in ipairs({'requests', 'tokens'}) do
      if look[what] > 0 then
        local names, sum = {}, 0
        for k = first, math.min(live - 1, first + SLICES) do names[#names + 1] = what .. k end
        for _, count in ipairs(call('HMGET', key, unpack(names))) do sum = sum + tonumber(count or 0) end
        if sum > 0 then
          call('HDEL', key, unpack(names))
          look[what] = call('HINCRBY', key, what, -sum)
        end
      end
    end
  end
  if not first or first < live then
    first = live
    call('HSET', key, 'first', first)
    call('PEXPIRE', key, max(2 * g.per + 60000, look.gate - NOW + SOON_MS))
  elseif slice < first then
    -- The clock was set back: nothing is put before the window's beginning, from where it would never leave.
    look.slice, look.requests_field, look.tokens_field = first, 'requests' .. first, 'tokens' .. first
    local now = call('HMGET', key, look.requests_field, look.tokens_field)
    look.requests_now, look.tokens_now = tonumber(now[1] or 0), tonumber(now[2] or 0)
  end
  look.first = first
  return look
end

-- Budgets

local AMOUNTS = {'used_tokens', 'used_cost'}

-- What there is of a budget, its period begun; nil where there is none.
local function look_at_budget(key)
  local v = call('HMGET', key, 'since', 'per', 'period', 'tokens', 'cost', 'used_tokens', 'used_cost')
  if not v[1] then return nil end
  local look = {period = 0, limit = {tonumber(v[4]), tonumber(v[5])}, used = {tonumber(v[6] or 0), tonumber(v[7] or 0)}}
  local per = tonumber(v[2])
  if per then
    look.period = math.floor((NOW - v[1]) / per)
    look.renews = v[1] + (look.period + 1) * per - NOW
    if look.period ~= tonumber(v[3] or 0) then
      look.used = {0, 0}
      call('HSET', key, 'period', look.period, 'used_tokens', 0, 'used_cost', 0)
    end
  end
  return look
end

-- Count what was used in place of what was needed, of what was taken in a period.
local function adjust_budget(key, need, period, used)
  local look = look_at_budget(key)
  if not look then return end
  for n, what in ipairs(AMOUNTS) do
    local more = used[n] - need[n]
    if more > 0 or (more < 0 and period == look.period) then
      call('HINCRBY', key, what, max(more, -look.used[n]))
      freed = freed or more < 0
    end
  end
end

-- Members

local function set_spec(m, text)
  local spec = specs[text]
  if not spec then
    spec = cjson.decode(text)
    specs[text] = spec
  end
  m.spec, m.guards, m.text = spec, spec.g, text
end

local function load(id)
  local record = call('HGET', MEMBERS, id)
  if not record then return nil end
  local s, at, probe, score, since, tries, x, p, tenant, class, need, budgets, text, fence = cmsgpack.unpack(record)
  local m = {id = id, s = s, at = at, probe = probe, score = score, since = since, tries = tries, x = x, p = p,
             tenant = tenant, class = class, need = need, budgets = budgets, spec = false, guards = false, text = text,
             fence = fence}
  set_spec(m, text)
  return m
end

local function save(m)
  call('HSET', MEMBERS, m.id, cmsgpack.pack(m.s, m.at, m.probe, m.score, m.since, m.tries, m.x, m.p, m.tenant, m.class,
                                            m.need, m.budgets, m.text, m.fence))
end

-- Functions for a refusal.
local function refusing()
  -- How long until so much has left that there is room.
  local function room_in(g, look, what, need)
    local names, excess = {}, look[what] + need - g[what]
    for k = look.first, look.slice do names[#names + 1] = what .. k end
    for i, count in ipairs(call('HMGET', g.key, unpack(names))) do
      excess = excess - tonumber(count or 0)
      if excess <= 0 then return math.ceil((look.first + i + SLICES) * g.per / SLICES) - NOW end
    end
    return SOON_MS
  end

  -- The worse of two refusals: one for which waiting would not help, or is not wanted, else the longer.
  local function refuse(found, kind, name, retry, own, waits)
    local final = retry < 0 or not waits
    if not found or (final and not found.final) then
      return {kind = kind, name = name, retry = retry, own = own or (found and found.own), final = final}
    end
    -- What its own tenant alone is refused is enough for the others to pass it.
    found.own = found.own or own
    if not found.final then found.retry = max(found.retry, retry) end
    return found
  end

  return room_in, refuse
end

-- Functions for asking and taking.
local function admitting()
  local room_in, refuse

  -- Returns nil where all let it through, else what refused it: `final` where waiting would not help, or is not wanted;
  -- `own` where others than its tenant's may pass.
  local function check(m)
    local looks, found = {}, nil
    m.looks, m.balances = looks, {}
    local tokens = m.need[1]
    for i, g in ipairs(m.guards) do
      local of, kind, retry, own = g.kind, nil, nil, false
      if of == 'rate' then
        local look = look_at_rate(g)
        looks[i] = look
        -- One that does not know what it needs waits too while nothing is left.
        local more, least = look.requests + 1, max(tokens, 1)
        if g.tokens and tokens > g.tokens then
          kind, retry = 'rate', -1
        elseif look.gate > NOW then
          kind, retry = 'gate', look.gate - NOW
        elseif (g.requests and more > g.requests) or (g.tokens and look.tokens + least > g.tokens) then
          if not room_in then room_in, refuse = refusing() end
          kind, retry = 'rate', 0
          if g.requests and more > g.requests then retry = room_in(g, look, 'requests', 1) end
          if g.tokens and look.tokens + least > g.tokens then retry = max(retry, room_in(g, look, 'tokens', least)) end
          if retry <= 0 then kind = nil end
        end
      elseif of == 'breaker' then
        local v = call('HMGET', g.key, 'state', 'until', 'forced', 'gate', 'probes', 'epoch')
        local state, forced, gate = v[1] or 'closed', v[3], tonumber(v[4] or 0)
        local look = {state = state, epoch = tonumber(v[6] or 1), probe = false}
        looks[i] = look
        if forced == 'open' then
          kind, retry = 'breaker', g.cooldown
        elseif gate > NOW then
          kind, retry = 'gate', gate - NOW
        elseif not forced and state ~= 'closed' then
          if state == 'open' and tonumber(v[2]) > NOW then
            kind, retry = 'breaker', tonumber(v[2]) - NOW
          elseif tonumber(v[5] or 0) >= g.probes then
            kind, retry = 'breaker', math.min(g.cooldown, SOON_MS)
          else
            look.probe = true
          end
        end
      else
        local tenant = 'tenant:' .. m.tenant
        local v = call('HMGET', g.key, 'total', tenant)
        local look = {total = tonumber(v[1] or 0), field = tenant, tenant = tonumber(v[2] or 0)}
        looks[i] = look
        if g.total and look.total >= g.total then
          kind, retry = 'concurrency', SOON_MS
        elseif g.per_tenant and look.tenant >= g.per_tenant then
          kind, retry, own = 'concurrency', SOON_MS, true
        end
      end
      if kind then
        if not refuse then room_in, refuse = refusing() end
        found = refuse(found, kind, g.name, retry, own, g.waits)
      end
    end
    for i = 1, #m.budgets, 2 do
      local look = look_at_budget(m.budgets[i + 1])
      m.balances[i] = look
      for n = 1, look and 2 or 0 do
        local need, limit = m.need[n], look.limit[n]
        if limit and need > 0 and look.used[n] + need > limit then
          if not refuse then room_in, refuse = refusing() end
          found = refuse(found, 'budget', m.budgets[i], need <= limit and look.renews or -1, true, true)
          break
        end
      end
    end
    return found
  end

  -- Take what was just checked; of a budget the period is noted in which it was taken, -1: there is no such budget.
  local function take(m, granted)
    local x, p, tokens = {}, {}, m.need[1]
    m.x, m.p, m.probe = x, p, nil
    for i, g in ipairs(m.guards) do
      local of, look = g.kind, m.looks[i]
      if of == 'rate' then
        local fields = {}
        if g.requests then
          fields[1], fields[2] = 'requests', look.requests + 1
          if not granted then fields[3], fields[4] = look.requests_field, look.requests_now + 1 end
        end
        if g.tokens and tokens > 0 then
          local n = #fields
          fields[n + 1], fields[n + 2] = 'tokens', look.tokens + tokens
          if not granted then fields[n + 3], fields[n + 4] = look.tokens_field, look.tokens_now + tokens end
        end
        if #fields > 0 then call('HSET', g.key, unpack(fields)) end
        x[i] = look.slice
      elseif of == 'breaker' then
        x[i] = look.epoch
        if look.probe then
          if look.state == 'open' then call('HSET', g.key, 'state', 'half-open', 'since', NOW, 'wins', 0) end
          call('HINCRBY', g.key, 'probes', 1)
          call('PEXPIRE', g.key, g.window + g.cooldown + DAY_MS)
          x[i], m.probe = -look.epoch, 1
        end
      else
        -- Both are counted whatever is limited: who shares the name may limit the other.
        call('HSET', g.key, 'total', look.total + 1, look.field, look.tenant + 1)
        x[i] = 1
      end
    end
    for i = 1, #m.budgets, 2 do
      local look = m.balances[i]
      for n = 1, look and 2 or 0 do
        if m.need[n] > 0 then call('HINCRBY', m.budgets[i + 1], AMOUNTS[n], m.need[n]) end
      end
      p[#p + 1] = look and look.period or -1
    end
  end

  return check, take
end

-- Functions for a breaker that opens, or is tried out.
local function tripping()
  local function end_probe(g)
    if call('HINCRBY', g.key, 'probes', -1) <= 0 then call('HDEL', g.key, 'probes') end
    freed = true
  end

  local function buckets(index)
    local names = {}
    for b = 0, BUCKETS - 1 do names[b + 1] = 'bucket' .. (index - b) % BUCKETS end
    return names
  end

  local function open(g, epoch)
    call('HSET', g.key, 'state', 'open', 'since', NOW, 'until', NOW + g.cooldown, 'epoch', epoch + 1, 'wins', 0)
  end

  local function opens(g, index)
    local calls, failures = 0, 0
    for b, text in ipairs(call('HMGET', g.key, unpack(buckets(index)))) do
      local at, more, bad = string.match(text or '', '^(%d+):(%d+):(%d+)$')
      if tonumber(at) == index - b + 1 then calls, failures = calls + more, failures + bad end
    end
    if g.rate then return calls >= g.minimum and failures >= g.rate * calls end
    return failures >= g.failures
  end

  local function probed(g, index, epoch, bad, wins)
    if bad then
      open(g, epoch)
    elseif wins < g.closes then
      call('HSET', g.key, 'wins', wins)
    else
      call('HDEL', g.key, 'wins', 'until', unpack(buckets(index)))
      call('HSET', g.key, 'state', 'closed', 'since', NOW)
    end
  end

  return {end_probe = end_probe, open = open, opens = opens, probed = probed}
end

-- Functions for giving back.
local function releasing()
  -- Lower two counters of one key: each goes when nothing is left.
  local function set_counts(key, one, of_one, other, of_other)
    if of_one > 0 and of_other > 0 then
      call('HSET', key, one, of_one, other, of_other)
    elseif of_one > 0 then
      call('HSET', key, one, of_one)
      call('HDEL', key, other)
    elseif of_other > 0 then
      call('HSET', key, other, of_other)
      call('HDEL', key, one)
    else
      call('HDEL', key, one, other)
    end
  end

  local function release_slot(g, m)
    local tenant = 'tenant:' .. m.tenant
    local v = call('HMGET', g.key, 'total', tenant)
    set_counts(g.key, 'total', tonumber(v[1] or 0) - 1, tenant, tonumber(v[2] or 0) - 1)
    freed = true
  end

  -- Epochs: one ends when its breaker opens, and what began in it says nothing about it afterwards.
  local function release_breaker(g, x, outcome, took_ms)
    local trip = x < 0 and tripping()
    if trip then trip.end_probe(g) end
    if outcome == 'neutral' then return end
    local epoch = math.abs(x)
    local bad = outcome == 'failed' or (g.slow ~= nil and took_ms > g.slow)
    local index = math.floor(NOW * BUCKETS / g.window)
    local bucket = 'bucket' .. index % BUCKETS
    local v = call('HMGET', g.key, 'state', 'epoch', 'forced', 'wins', 'window', bucket)
    local state = v[1] or 'closed'
    if tonumber(v[2] or 1) ~= epoch then return end
    if state == 'half-open' and trip then
      trip.probed(g, index, epoch, bad, tonumber(v[4] or 0) + 1)
    elseif state == 'closed' then
      local at, calls, failures = string.match(v[6] or '', '^(%d+):(%d+):(%d+)$')
      if tonumber(at) ~= index then calls, failures = 0, 0 end
      local counted = index .. ':' .. calls + 1 .. ':' .. failures + (bad and 1 or 0)
      if tonumber(v[5]) == g.window then
        call('HSET', g.key, bucket, counted)
      else
        call('HSET', g.key, bucket, counted, 'window', g.window)
        call('HSETNX', g.key, 'since', NOW)
        call('HSET', BREAKERS, g.name, g.key)
      end
      if not v[3] then
        if tonumber(calls) == 0 then call('PEXPIRE', g.key, g.window + g.cooldown + DAY_MS) end
        if bad or g.rate then
          trip = trip or tripping()
          if trip.opens(g, index) then trip.open(g, epoch) end
        end
      end
    end
  end

  -- Give back what a call holds; without `used` its reservation counts as used.
  local function release(m, outcome, took_ms, used)
    for i, g in ipairs(m.guards) do
      local of, x = g.kind, m.x[i]
      if of == 'breaker' then
        release_breaker(g, x, outcome, took_ms)
      elseif of == 'concurrency' then
        release_slot(g, m)
      else
        local more = g.tokens and used and used[1] - m.need[1] or 0
        local look = more ~= 0 and look_at_rate(g, x)
        if more > 0 then
          call('HSET', g.key, 'tokens', look.tokens + more, look.tokens_field, look.tokens_now + more)
        elseif more < 0 and x >= look.first then
          set_counts(g.key, 'tokens', look.tokens + more, 'tokens' .. x, look.taken + more)
          freed = true
        end
      end
    end
    for i, period in ipairs(used and m.p or {}) do
      if period >= 0 then adjust_budget(m.budgets[2 * i], m.need, period, used) end
    end
  end

  return release, release_slot
end

-- Functions on those who wait, and on those who hold something and will not come for it.
local function queueing()
  local CLASS = 1e12  -- scores of a class lie above all of the class before it
  local PAGE = 100
  local check, take = admitting()
  local release, release_slot = releasing()

  -- Give back what a granted member was never given the time to use.
  local function undo(m)
    for i, g in ipairs(m.guards) do
      local tokens = g.kind == 'rate' and g.tokens and m.need[1] or 0
      if g.kind == 'breaker' then
        if m.x[i] < 0 then tripping().end_probe(g) end
      elseif g.kind == 'concurrency' then
        release_slot(g, m)
      else
        for what, count in pairs({requests = g.requests and 1 or 0, tokens = tokens}) do
          if count > 0 and call('HINCRBY', g.key, what, -count) <= 0 then call('HDEL', g.key, what) end
        end
        freed = true
      end
    end
    for i, period in ipairs(m.p) do
      if period >= 0 then adjust_budget(m.budgets[2 * i], m.need, period, {0, 0}) end
    end
  end

  -- The queue: by class, then start-time fair between tenants, who each advance by one for each of their members.

  local function queue_at(m, tag)
    m.s, m.score, m.x, m.p, m.probe = 'w', m.class * CLASS + tag, nil, nil, nil
    call('ZADD', m.spec.q, m.score, m.id)
    call('SADD', WAITING, m.spec.a)
    save(m)
  end

  local function enqueue(m)
    if m.s == 'w' then return save(m) end
    local tenant = m.class .. ':' .. m.tenant
    local v = call('HMGET', m.spec.u, 'now' .. m.class, tenant)
    local tag = max(tonumber(v[1] or 0), tonumber(v[2] or 0)) + 1
    call('HSET', m.spec.u, tenant, tag)
    m.since, m.tries = NOW, 0
    queue_at(m, tag)
  end

  local function dequeue(m, served)
    call('ZREM', m.spec.q, m.id)
    if call('EXISTS', m.spec.q) == 0 then
      call('DEL', m.spec.u)
      call('SREM', WAITING, m.spec.a)
    elseif served then
      local tag, now = m.score - m.class * CLASS, 'now' .. m.class
      if tag > tonumber(call('HGET', m.spec.u, now) or 0) then call('HSET', m.spec.u, now, tag) end
    end
  end

  local function drop(m)
    if m.s == 'w' then dequeue(m, false) else call('ZREM', HOLDS, m.id) end
    call('HDEL', MEMBERS, m.id)
  end

  -- Take back what dead workers hold; returns how many did. A grant that nobody came for is given once more, in front
  -- of the others.
  local function reap(limit)
    local expired = call('ZRANGEBYSCORE', HOLDS, '-inf', NOW, 'LIMIT', 0, limit)
    for _, id in ipairs(expired) do
      local m = load(id)
      call('ZREM', HOLDS, id)
      if m and m.s == 'g' and m.tries < 1 then
        undo(m)
        m.tries = m.tries + 1
        queue_at(m, 0)
      elseif m then
        if m.s == 'g' then undo(m) else release(m, 'neutral', 0, nil) end
        call('HDEL', MEMBERS, id)
      end
    end
    return #expired
  end

  -- Give their turn to those who wait in a queue; what they need is reserved for them. Returns their ids. One who would
  -- wait in vain gets its turn too, without anything: it shall learn why.
  local function grant(queue, grant_ms, limit)
    local turns, skipped, kept = {}, {}, nil

    -- Go through the queue from a place on. Returns where it ended as too many were passed over; 0: at the queue's end;
    -- nil: there is no room for anybody else.
    local function go_on(at)
      local over = 0
      while over < 2 * limit do
        local page = call('ZRANGE', queue, at, at + PAGE - 1)
        if #page == 0 then return 0 end
        for _, id in ipairs(page) do
          local m = load(id)
          local refusal = m and not skipped[m.tenant] and check(m)
          kept = kept or (m and m.spec.u)
          if not m then
            call('ZREM', queue, id)
          elseif skipped[m.tenant] then
            at, over = at + 1, over + 1
          elseif not refusal then
            dequeue(m, true)
            take(m, true)
            m.s = 'g'
            save(m)
            call('ZADD', HOLDS, NOW + grant_ms, id)
            turns[#turns + 1] = id
          elseif refusal.final then
            drop(m)
            turns[#turns + 1] = id
          elseif refusal.own then
            skipped[m.tenant] = true
            at, over = at + 1, over + 1
          else
            return nil
          end
          if #turns >= limit then return nil end
        end
      end
      return at
    end

    -- How many are passed over has a limit. Who is behind so many of a tenant that has to wait is looked at in turns:
    -- from where it ended the last time.
    local ended = go_on(0)
    if ended and ended > 0 then
      local at = max(ended, tonumber(call('HGET', kept, 'passed') or 0))
      ended = go_on(at)
      if call('EXISTS', queue) == 1 then call('HSET', kept, 'passed', ended or at) end
    end
    return turns
  end

  -- The guards of who is first in a queue.
  local function first_guards(queue)
    local first = call('ZRANGE', queue, 0, 0)[1]
    local m = first and load(first)
    return m and m.guards or {}
  end

  -- Whether the first of another agent needs what the first of this one needs too.
  local function contested(queue, queues)
    local keys = {}
    for _, g in ipairs(first_guards(queue)) do keys[g.key] = true end
    if not next(keys) then return false end
    for _, agent in ipairs(call('SMEMBERS', WAITING)) do
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

  return {undo = undo, release = release, queue_at = queue_at, enqueue = enqueue, dequeue = dequeue, drop = drop, reap = reap,
          grant = grant, grant_freed = grant_freed}
end
