--[[ _taking: ask all that a call needs of its guards and budgets, and take it; the registry puts it behind _guards.lua.
]]
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
