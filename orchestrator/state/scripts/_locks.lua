--[[ _locks: what scripts do with the locks on entries of a blackboard; the registry puts it behind _run.lua.
]]
-- Whether a lock is held still: not longer than its time, and by no step that has ended or is another's.
local function holds_lock(lock)
  if lock.until_ms <= NOW then return false end
  if lock.step == '' then return true end
  local text = redis.call('HGET', RUN, 'step:' .. lock.step)
  local rec = text and cjson.decode(text) or {}
  return rec.status == 'running' and rec.fence == lock.fence
end

-- Those who wait for locks get them, first come, first served: all that one asks for, or none. What an earlier one waits
-- for a later one does not get, so that nobody waits for ever.
local function grant_locks(key, queue)
  local left, claimed = {}, {}
  for _, waiter in ipairs(queue) do
    local free = true
    for _, entry in ipairs(waiter.entries) do
      local text = not claimed[entry] and redis.call('HGET', key, 'l:' .. entry)
      local lock = text and cjson.decode(text)
      if claimed[entry] or lock and holds_lock(lock) then free = false end
    end
    if waiter.until_ms < NOW and not free then
      -- It has given up.
    elseif free then
      local token = redis.call('HINCRBY', key, '#fence', 1) .. '-' .. waiter.id
      local lock = cjson.encode({token = token, until_ms = NOW + waiter.ttl_ms, step = waiter.step, fence = waiter.fence, id = waiter.id})
      for _, entry in ipairs(waiter.entries) do redis.call('HSET', key, 'l:' .. entry, lock) end
      if waiter.channel ~= '' then redis.call('PUBLISH', waiter.channel, waiter.id .. ' ' .. token) end
    else
      for _, entry in ipairs(waiter.entries) do claimed[entry] = true end
      left[#left + 1] = waiter
    end
  end
  if #left > 0 then redis.call('HSET', key, '#queue', cjson.encode(left)) else redis.call('HDEL', key, '#queue') end
  return left
end
