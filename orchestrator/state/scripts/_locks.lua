--[[ _locks: what scripts do with the locks on entries of a blackboard; the registry puts it behind _run.lua.
]]
-- Whether who holds a lock, or waits for one, is still at work: no step that has ended or is another's.
local function is_at_work(who)
  if who.step == '' then return true end
  local text = redis.call('HGET', RUN, 'step:' .. who.step)
  local rec = text and cjson.decode(text) or {}
  return rec.status == 'running' and rec.fence == who.fence
end

-- Whether a lock is held still: not longer than its time.
local function holds_lock(lock)
  return lock.until_ms > NOW and is_at_work(lock)
end

-- Those who wait for locks get them, first come, first served: all that one asks for, or none. What an earlier one waits
-- for a later one does not get, so that nobody waits for ever. Whose time is over gets nothing, unless it is who asks, nor
-- does a step that is not at work any more: the others would wait for one that is dead.
local function grant_locks(key, queue, asks)
  local left, claimed = {}, {}
  for _, waiter in ipairs(queue) do
    local over = waiter.until_ms <= NOW
    local free = not over or waiter.id == asks
    for _, entry in ipairs(free and waiter.entries or {}) do
      local text = not claimed[entry] and redis.call('HGET', key, 'l:' .. entry)
      local lock = text and cjson.decode(text)
      if claimed[entry] or lock and holds_lock(lock) then free = false end
    end
    if free then
      local token = redis.call('HINCRBY', key, '#fence', 1) .. '-' .. waiter.id
      local lock = cjson.encode({token = token, until_ms = NOW + waiter.ttl_ms, step = waiter.step, fence = waiter.fence, id = waiter.id})
      for _, entry in ipairs(waiter.entries) do redis.call('HSET', key, 'l:' .. entry, lock) end
      if waiter.channel ~= '' then redis.call('PUBLISH', waiter.channel, waiter.id .. ' ' .. token) end
    elseif not over and is_at_work(waiter) then
      for _, entry in ipairs(waiter.entries) do claimed[entry] = true end
      left[#left + 1] = waiter
    end
  end
  if #left > 0 then redis.call('HSET', key, '#queue', cjson.encode(left)) else redis.call('HDEL', key, '#queue') end
  return left
end
