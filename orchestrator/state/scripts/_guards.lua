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
  spec     one for all calls of an agent, as `spec_of` reads it: a: agent; q, u: its queue and turns; g: guards, each
           with kind, name, key, waits, and the kind's own numbers, false where it has none
  fence    of the attempt that asked last, as from `begin`; empty where there are none

Behind this file come `_taking.lua`, `_giving.lua` and `_queueing.lua`. All functions are made anew for each call of a
script, which costs as much as a command of Redis for each. So there are few of them, and those that not every call needs
are made by others: `refusing`, `tripping`, and in admit and settle the `library` of what these hardly ever need.
]]
local MEMBERS, HOLDS, WAITING, BREAKERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local call, max = redis.call, math.max
local NOW = tonumber(ARGV[1])
if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000 + math.floor(time[2] / 1000)
end
local SLICES, BUCKETS = 200, 10
local AMOUNTS = {'used_tokens', 'used_cost'}
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

-- Members

-- What an agent's calls ask for. Packed values, one after another: a text of names would take five times as long.
local function spec_of(text)
  local spec = specs[text]
  if spec then return spec end
  local f = {cmsgpack.unpack(text)}
  local guards, i = {}, 4
  spec = {a = f[1], q = f[2], u = f[3], g = guards}
  while f[i] do
    local kind = f[i]
    if kind == 'breaker' then
      guards[#guards + 1] = {kind = kind, name = f[i + 1], key = f[i + 2], waits = f[i + 3], window = f[i + 4],
                             cooldown = f[i + 5], probes = f[i + 6], closes = f[i + 7], failures = f[i + 8],
                             rate = f[i + 9], minimum = f[i + 10], slow = f[i + 11]}
      i = i + 12
    elseif kind == 'rate' then
      guards[#guards + 1] = {kind = kind, name = f[i + 1], key = f[i + 2], waits = f[i + 3], per = f[i + 4],
                             requests = f[i + 5], tokens = f[i + 6]}
      i = i + 7
    else
      guards[#guards + 1] = {kind = kind, name = f[i + 1], key = f[i + 2], waits = f[i + 3], total = f[i + 4],
                             per_tenant = f[i + 5]}
      i = i + 6
    end
  end
  specs[text] = spec
  return spec
end

local function load(id)
  local record = call('HGET', MEMBERS, id)
  if not record then return nil end
  local s, at, probe, score, since, tries, x, p, tenant, class, need, budgets, text, fence = cmsgpack.unpack(record)
  local spec = spec_of(text)
  return {id = id, s = s, at = at, probe = probe, score = score, since = since, tries = tries, x = x, p = p,
          tenant = tenant, class = class, need = need, budgets = budgets, spec = spec, guards = spec.g, text = text,
          fence = fence}
end

