--[[ _run: what every script on a run shares; the registry puts it in front of each.
KEYS[1]   run        hash    {sNN}:run:<id>
KEYS[2]   data       hash    {sNN}:run:<id>:data
KEYS[3]   events     stream  {sNN}:run:<id>:events
KEYS[4]   ready      zset    {sNN}:ready
KEYS[5]   leases     zset    {sNN}:leases
KEYS[6]   timers     zset    {sNN}:timers
KEYS[7]   marks      hash    {sNN}:marks
KEYS[8]   queued     zset    {sNN}:runs:queued
KEYS[9]   running    zset    {sNN}:runs:running
KEYS[10]  waiting    zset    {sNN}:runs:waiting
KEYS[11]  completed  zset    {sNN}:runs:completed
KEYS[12]  failed     zset    {sNN}:runs:failed
KEYS[13]  cancelled  zset    {sNN}:runs:cancelled
]]
local RUN, DATA, EVENTS = KEYS[1], KEYS[2], KEYS[3]
local READY, LEASES, TIMERS, MARKS = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local INDEX = {queued = KEYS[8], running = KEYS[9], waiting = KEYS[10],
               completed = KEYS[11], failed = KEYS[12], cancelled = KEYS[13]}
local ID = string.match(RUN, '([^:]+)$')
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)

-- The run's own fields that the scripts read, in one call; an absent run has no status.
local function run_fields(step)
  local v = redis.call('HMGET', RUN, 'status', 'deadline_ms', 'retention_ms', 'priority', 'step:' .. step)
  local rec = v[5] and cjson.decode(v[5]) or nil
  return v[1], tonumber(v[2] or 0), tonumber(v[3] or 0), v[4], rec
end

local function live(status)
  return status == 'queued' or status == 'running' or status == 'waiting'
end

local function load(step)
  return cjson.decode(redis.call('HGET', RUN, 'step:' .. step))
end

local function save(step, rec)
  redis.call('HSET', RUN, 'step:' .. step, cjson.encode(rec))
end

local function member(step)
  return ID .. '/' .. step
end

local function emit(type, facts)
  redis.call('XADD', EVENTS, '*', 'type', type, 'v', 1, 'at', NOW, 'data', cjson.encode(facts))
end

local function set_status(from, to)
  if from ~= to then
    redis.call('ZREM', INDEX[from], ID)
    -- By submission, however late it came to this status: lists give the newest runs first.
    redis.call('ZADD', INDEX[to], redis.call('HGET', RUN, 'created_ms'), ID)
    redis.call('HSET', RUN, 'status', to)
  end
end

-- A ready step has a dispatch deadline from the moment it is ready: a lost message leaves no lease to expire.
local function make_ready(step, rec, dispatch_ms)
  rec.status, rec.dispatches, rec.ready_ms = 'ready', 1, NOW
  save(step, rec)
  redis.call('ZADD', READY, NOW + dispatch_ms, member(step))
end

-- End the run: close what is unfinished, leave no index entry, let every key expire.
local function finish(from, to, retention_ms, event, facts)
  if to ~= 'completed' then
    local fields = redis.call('HGETALL', RUN)
    for i = 1, #fields, 2 do
      local step = string.match(fields[i], '^step:(.*)$')
      if step then
        local rec = cjson.decode(fields[i + 1])
        if rec.status == 'pending' or rec.status == 'ready' or rec.status == 'running' or rec.status == 'waiting' then
          rec.status, rec.waiting = 'cancelled', nil
          save(step, rec)
          redis.call('ZREM', READY, member(step))
          redis.call('ZREM', LEASES, member(step))
          redis.call('ZREM', TIMERS, member(step))
        end
      end
    end
  end
  redis.call('ZREM', TIMERS, ID)
  redis.call('ZREM', INDEX[from], ID)
  redis.call('ZADD', INDEX[to], NOW + retention_ms, ID)
  redis.call('HSET', RUN, 'status', to, 'ended_ms', NOW)
  if facts.reason then redis.call('HSET', RUN, 'reason', facts.reason) end
  if facts.output then redis.call('HSET', RUN, 'output', facts.output) end
  emit(event, facts)
  redis.call('PEXPIRE', RUN, retention_ms)
  redis.call('PEXPIRE', DATA, retention_ms)
  redis.call('PEXPIRE', EVENTS, retention_ms)
end

local function fail_run(from, retention_ms, step, rec, reason)
  rec.status, rec.reason, rec.ended_ms = 'failed', reason, NOW
  save(step, rec)
  emit('StepFailed', {step = step, reason = reason})
  finish(from, 'failed', retention_ms, 'RunFailed', {reason = step .. ': ' .. reason})
end

-- The step's output is in: what follows becomes ready, or the run is completed. Returns the reply to the caller.
local function complete(status, retention_ms, step, rec, dispatch_ms)
  rec.status, rec.ended_ms, rec.waiting = 'completed', NOW, nil
  save(step, rec)
  emit('StepCompleted', {step = step, output = rec.output})
  if rec.next then
    local following = load(rec.next)
    following.input = rec.output
    make_ready(rec.next, following, dispatch_ms)
    return {'next', rec.next}
  end
  finish(status, 'completed', retention_ms, 'RunCompleted', {output = rec.output})
  return {'finished', ''}
end

local function fall_back(step, rec, agent, reason, dispatch_ms)
  local start = load(rec.start or step)
  rec.instead_of = rec.instead_of or rec.agent
  rec.agent, rec.reason, rec.degraded = agent, reason, true
  rec.input, rec.attempt = start.input, 0
  rec.draft = nil  -- another agent's, of another type
  emit('StepFellBack', {step = step, agent = agent, input = rec.input, reason = reason})
  make_ready(step, rec, dispatch_ms)
end
