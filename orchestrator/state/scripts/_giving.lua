--[[ _giving: give back what a call holds, and count how it went; the registry puts it behind _guards.lua.
]]
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
  local bad = outcome == 'failed' or (g.slow and took_ms > g.slow)
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
