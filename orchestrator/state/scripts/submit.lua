--[[ submit: create a run, its first step ready with a dispatch deadline; or a failed run that says why it was refused.
KEYS[1-16]                as in _run.lua
KEYS[17]  key     string  {sNN}:key:<digest>, the idempotency record; touched only if ARGV[7] is not empty
KEYS[18]  holder  hash    {sNN}:run:<id>, the run that the record named when the caller looked; else the run itself
KEYS[19]  parent  hash    {sNN}:run:<id>, the run whose step submits this one; else the run itself
KEYS[20]  siblings set    {sNN}:run:<id>:children of that run
ARGV[1]   plan    JSON    RunSubmitted's facts: flow, tenant, priority, tags, key, parent_step, steps (absent where refused)
ARGV[2]   input   string  the first step's input, or its claim check
ARGV[3]   deadline_ms   int  > 0, from now
ARGV[4]   retention_ms  int  > 0, from the end
ARGV[5]   dispatch_ms   int  > 0
ARGV[6]   refused string  the reason, or empty
ARGV[7]   digest  string  of flow and input, where there is an idempotency key; else empty
ARGV[8]   dead_ms int     > 0, from the end, where it is a dead letter
Returns   {'created', id, ready...} | {'existing', id} | {'conflict', id} | {'closed', parent} the parent has ended, or its step that asks
          | {'no parent', parent} there is no such run
          A child that was cancelled because its parent ended, and is asked for when that was redriven, is begun anew as
          another run; one that had ended before is found again.
          ready: steps to be published, by turns with their agents
Atomic    key and run together: between them a second submission with the key would make a second run
]]
local deadline_ms, retention_ms, dispatch_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('EXISTS', RUN) == 1 then return {'existing', ID} end
local parent = KEYS[19] ~= RUN and string.match(KEYS[19], '([^:]+)$')
local above = parent and redis.call('HMGET', KEYS[19], 'status', 'deadline_ms', 'budgets')
local open = above and above[1] and live(above[1]) and above[1] ~= 'undoing'
local facts = cjson.decode(ARGV[1])
if open and facts.parent_step then
  local asks = redis.call('HGET', KEYS[19], 'step:' .. facts.parent_step)
  open = asks and not ended(cjson.decode(asks))
end
if ARGV[7] ~= '' then
  local known = redis.call('GET', KEYS[17])
  if known then
    local id, digest = string.match(known, '^(%S+) (%S+)$')
    local held = string.match(KEYS[18], '([^:]+)$') == id and redis.call('HMGET', KEYS[18], 'status', 'orphan')
    -- The record is written for the longest the run can last; where the run has ended and expired, the key is free.
    local expired = held and not held[1]
    -- One of which not all could be undone is a dead letter, for a person to decide about.
    local void = held and open and held[2] == parent and (held[1] == 'cancelled' or held[1] == 'undoing')
    if not expired and not void then return {digest == ARGV[7] and 'existing' or 'conflict', id} end
  end
end
if facts.budget then facts.budget.run = ID end
facts.deadline_ms, facts.retention_ms, facts.dead_ms = NOW + deadline_ms, retention_ms, tonumber(ARGV[8])
local budgets = {facts.budget}
if parent then
  if not open then return {above[1] and 'closed' or 'no parent', parent} end
  facts.parent = parent
  facts.deadline_ms = math.min(facts.deadline_ms, tonumber(above[2]))
  for _, name in ipairs(cjson.decode(above[3] or '[]')) do budgets[#budgets + 1] = name end
  redis.call('SADD', KEYS[20], ID)
end
local order = {}
for i, step in ipairs(facts.steps or {}) do order[i] = step.name end
if #budgets > 0 then facts.budgets = budgets end
emit('RunSubmitted', facts)
redis.call('HSET', RUN, 'flow', facts.flow, 'status', 'queued', 'tenant', facts.tenant, 'priority', facts.priority,
  'tags', cjson.encode(facts.tags), 'created_ms', NOW, 'deadline_ms', facts.deadline_ms,
  'retention_ms', retention_ms, 'dead_ms', facts.dead_ms, 'order', cjson.encode(order), 'size', #order)
if facts.parent then redis.call('HSET', RUN, 'parent', facts.parent) end
if facts.parent_step then redis.call('HSET', RUN, 'parent_step', facts.parent_step) end
if facts.budget then redis.call('HSET', RUN, 'budget', cjson.encode(facts.budget)) end
if facts.budgets then redis.call('HSET', RUN, 'budgets', cjson.encode(budgets)) end
if facts.key then redis.call('HSET', RUN, 'key', facts.key) end
if ARGV[7] ~= '' then
  redis.call('HSET', RUN, 'record', KEYS[17])
  redis.call('SET', KEYS[17], ID .. ' ' .. ARGV[7], 'PX', deadline_ms + math.max(retention_ms, facts.dead_ms))
end
if ARGV[6] ~= '' then
  finish('failed', retention_ms, 'RunFailed', {reason = ARGV[6]})
  return {'created', ID}
end
redis.call('HSET', DATA, 'input', ARGV[2])
redis.call('ZADD', INDEX.queued, NOW, ID)
redis.call('ZADD', TIMERS, facts.deadline_ms, ID)
local first
for i, rec in ipairs(facts.steps) do
  local name = rec.name
  rec.name, rec.status = nil, 'pending'
  if i == 1 then
    first, rec.input = rec, 'input'
  else
    save(name, rec)
  end
end
start(order[1], first, dispatch_ms)
return told('created', ID)
