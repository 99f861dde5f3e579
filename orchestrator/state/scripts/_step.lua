--[[ _step: what becomes of one step; the registry puts it behind _base.lua.
]]
-- The run's own fields that the scripts read, in one call; an absent run has no status.
local function run_fields(step)
  local v = redis.call('HMGET', RUN, 'status', 'deadline_ms', 'retention_ms', 'priority', 'step:' .. step)
  local rec = v[5] and cjson.decode(v[5]) or nil
  return v[1], tonumber(v[2] or 0), tonumber(v[3] or 0), v[4], rec
end

local function save(step, rec)
  redis.call('HSET', RUN, 'step:' .. step, cjson.encode(rec))
end

local function member(step)
  return ID .. '/' .. step
end

-- The entry among the timers of the time by which a step must be done; no step's name begins with a slash.
local function by_then(step)
  return ID .. '//' .. step
end

-- Likewise of the time that a fan-out has.
local function joined_by(fan)
  return ID .. '///' .. fan
end

local function set_status(from, to)
  if from ~= to then
    redis.call('ZREM', INDEX[from], ID)
    -- By submission, however late it came to this status: lists give the newest runs first.
    redis.call('ZADD', INDEX[to], redis.call('HGET', RUN, 'created_ms'), ID)
    redis.call('HSET', RUN, 'status', to)
  end
end

-- A step's work or wait has begun again or is over: what it waited for is not of interest any more.
local function settle(rec)
  rec.waiting, rec.due_ms, rec.why = nil, nil, nil
end

-- A ready step has a dispatch deadline from the moment it is ready: a lost message leaves no lease to expire.
local function make_ready(step, rec, dispatch_ms)
  settle(rec)
  rec.status, rec.dispatches, rec.ready_ms = 'ready', 1, NOW
  rec.first_ms = rec.first_ms or NOW
  if rec.within_ms and not rec.until_ms then
    rec.until_ms = NOW + rec.within_ms
    redis.call('ZADD', TIMERS, rec.until_ms, by_then(step))
  end
  save(step, rec)
  redis.call('ZADD', READY, NOW + dispatch_ms, member(step))
  READIED[#READIED + 1] = step
  READIED[#READIED + 1] = rec.agent
end

-- Not before a time: state and a timer, no worker.
local function make_delayed(step, rec, delay_ms, why)
  rec.status, rec.due_ms, rec.why = 'delayed', NOW + delay_ms, why
  save(step, rec)
  redis.call('ZADD', TIMERS, rec.due_ms, member(step))
end

-- What an attempt has used, added to the step's own account.
local function spend(rec, tokens, cost)
  tokens, cost = tonumber(tokens), tonumber(cost)
  if tokens > 0 then rec.tokens = (rec.tokens or 0) + tokens end
  if cost > 0 then rec.cost = (rec.cost or 0) + cost end
end

local function load_fan(name)
  local fan = redis.call('HGET', RUN, 'fan:' .. name)
  return fan and cjson.decode(fan)
end
