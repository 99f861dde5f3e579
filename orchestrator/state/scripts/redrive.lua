--[[ redrive: a failed run goes on from a step, as it is or with another input or agent.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string  from which on everything runs again; empty: the first that is not done, or was undone
ARGV[2]   name     string  of a new input of that step, or empty: what it had
ARGV[3]   input    string  its value, JSON or its claim check
ARGV[4]   agent    string  who is to take that step, or empty: its own
ARGV[5]   deadline_ms int  > 0, from now
ARGV[6]   by       string  who
ARGV[7]   dispatch_ms int  > 0
Returns   {'redriven', step} | {'not failed', ''} | {'no step', step} | {'no input', step} nothing before it gave one
          | {'gone', ''}; nothing was written
Atomic    the run's end is taken back with all that follows from it
]]
local first, agent, dispatch_ms = ARGV[1], ARGV[4], tonumber(ARGV[7])
local status = redis.call('HGET', RUN, 'status')
if not status then return {'gone', ''} end
if status ~= 'failed' then return {'not failed', ''} end
local order, steps = {}, {}
for _, name in ipairs(in_order()) do
  local rec = load(name)
  if not rec.undoes then
    order[#order + 1], steps[name] = name, rec
    if first == '' and (rec.status ~= 'completed' or rec.undone) then first = name end
  end
end
if not steps[first] then return {'no step', first} end
if ARGV[2] == '' and not steps[first].input then return {'no input', first} end
-- What was undone before the step has to be done again before it.
for _, name in ipairs(order) do
  if name == first then break end
  if steps[name].undone or steps[name].status ~= 'completed' then
    if ARGV[2] == '' then return {'no input', first} end
    break
  end
end
for _, name in ipairs(in_order()) do
  if not steps[name] then
    local output = load(name).output
    if output then redis.call('HDEL', DATA, output) end
    redis.call('HDEL', RUN, 'step:' .. name)
  end
end
redis.call('HSET', RUN, 'order', cjson.encode(order))
local deadline_ms, reset, revised, after = NOW + tonumber(ARGV[5]), {}, {}, false
for _, name in ipairs(order) do
  local rec = steps[name]
  if name == first then after = true end
  if after then
    local changed = name == first and (ARGV[2] ~= '' or agent ~= '')
    reset[#reset + 1] = name
    -- What `once` recorded belongs to what was done: it is of no use to what is done anew, or with what is.
    if rec.status == 'completed' or changed or (name ~= first and (rec.begins or 0) > 0) then
      rec.revision = (rec.revision or 0) + 1
      revised[#revised + 1] = name
    end
    settle(rec)
    if rec.instead_of then rec.agent, rec.instead_of = rec.instead_of, nil end
    rec.status, rec.attempt, rec.losses, rec.strikes = 'pending', 0, nil, nil
    rec.output, rec.draft, rec.reason, rec.degraded, rec.undone, rec.rung = nil, nil, nil, nil, nil, nil
    rec.ended_ms, rec.first_ms, rec.until_ms, rec.decision, rec.sent_back = nil, nil, nil, nil, nil
    if name ~= first then rec.input = nil end
    save(name, rec)
  end
end
local rec = load(first)
if ARGV[2] ~= '' then
  redis.call('HSET', DATA, ARGV[2], ARGV[3])
  rec.input = ARGV[2]
end
if agent ~= '' then rec.agent = agent end
for _, key in ipairs({RUN, DATA, EVENTS, CHILDREN}) do redis.call('PERSIST', key) end
local kept = redis.call('HMGET', RUN, 'retention_ms', 'dead_ms')
keep_values(tonumber(ARGV[5]) + math.max(tonumber(kept[1]), tonumber(kept[2] or 0)))
redis.call('HDEL', RUN, 'ended_ms', 'reason', 'failure', 'output', 'partial')
redis.call('HSET', RUN, 'deadline_ms', deadline_ms)
redis.call('ZREM', DEAD, ID)
set_status('failed', 'running')
redis.call('ZADD', TIMERS, deadline_ms, ID)
-- Its children are to be ended no more: those that it submits from now on would be, too.
redis.call('ZREM', TIMERS, by_then(''))
emit('RunRedriven', {step = first, input = rec.input, agent = rec.agent, deadline_ms = deadline_ms, by = ARGV[6],
                     reset = reset, revised = revised})
make_ready(first, rec, dispatch_ms)
return {'redriven', first}
