--[[ _queueing: those who wait, and those who hold something and will not come for it; the registry puts it behind
_taking.lua and _giving.lua.
]]
local CLASS = 1e12  -- scores of a class lie above all of the class before it
local PAGE = 100

-- Give back what was taken for a call that is not made: a granted member's that was never given the time to make it, or
-- of an attempt that asked ahead and was not begun.
local function undo(m)
  for i, g in ipairs(m.guards) do
    local tokens = g.kind == 'rate' and g.tokens and m.need[1] or 0
    if g.kind == 'breaker' then
      if m.x[i] < 0 then tripping().end_probe(g) end
    elseif g.kind == 'concurrency' then
      release_slot(g, m)
    else
      local function lower(field, count)
        if count > 0 and call('HINCRBY', g.key, field, -count) <= 0 then call('HDEL', g.key, field) end
      end
      -- What was held is in a slice too, and may have left the window with that.
      local slice = m.s == 'h' and m.x[i]
      if not slice or slice >= look_at_rate(g, slice).first then
        for what, count in pairs({requests = g.requests and 1 or 0, tokens = tokens}) do
          lower(what, count)
          if slice then lower(what .. slice, count) end
        end
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

-- Give their turn to those who wait in a queue, up to a class if there is one; what they need is reserved for them.
-- Returns their ids. One who would wait in vain gets its turn too, without anything: it shall learn why.
local function grant(queue, grant_ms, limit, class)
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
        if m and class and m.class > class then return nil end
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
