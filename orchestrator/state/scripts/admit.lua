--[[ admit: take all that a call needs from its guards and budgets, or nothing; where it is told to, queue.
KEYS[1-4]                  as in _guards.lua
KEYS[5]    queue    zset   {guards}:queue:<agent>
The clock is the first of ARGV, as in that file.
ARGV[2]    id       string  <agent>/<member>
ARGV[3]    spec     packed  as in _guards.lua
ARGV[4]    hold_ms  int     >= 0; 0: nothing is held, nothing will be settled
ARGV[5]    wait     string  '1' or empty
ARGV[6]    tenant   string
ARGV[7]    class    int     0 first
ARGV[8]    tokens   int     >= 0, needed
ARGV[9]    cost     int     >= 0, needed, millionths
ARGV[10]   fence    string  of the attempt, from `begin`; empty where there are none
ARGV[11]   known_ms int     >= 0, likewise where it has neither a place nor a probe; 0: no longer than hold_ms
ARGV[12]   ahead    string  '1' where the attempt is not begun yet; or empty
ARGV[13..] budgets  string  name and key of each
Returns    {'admitted', at_ms, probe 0 | 1, ms in the queue} | {'refused', kind, name, retry_ms, queued 0 | 1}
           | {'unsaid'} asked ahead, and the member has or waits for something: its attempts sort that out once begun
Atomic     check and taking: between them others would take the same; all guards or none
]]
local id, hold_ms, fence = ARGV[2], tonumber(ARGV[4]), ARGV[10]
local m = load(id)
if m and ARGV[12] == '1' then return {'unsaid'} end
if m and (m.fence or '') ~= fence then
  local last, asks = string.match(m.fence or '', '^%d*'), string.match(fence, '^%d*')
  if (tonumber(last) or 0) > (tonumber(asks) or 0) then
    -- Its step is another attempt's by now, as it will find out where it gives that back.
    return {'refused', 'turn', m.spec.a, SOON_MS, 0}
  end
end
if m and m.s == 'h' then
  if (m.fence or '') == fence then
    call('ZADD', HOLDS, NOW + hold_ms, id)
    return {'admitted', m.at, m.probe or 0, m.since and m.at - m.since or 0}
  end
  -- The attempt that holds it was lost: this one takes its own, and counts for itself.
  library().release(m, 'neutral', 0, nil)
  call('ZREM', HOLDS, id)
  call('HDEL', MEMBERS, id)
  m = nil
end
local known = m and library()
-- A granted member gives back what it has and takes it again: its call counts from now, and a gate that was closed
-- since then, or a breaker, holds it too.
local granted = m ~= nil and m.s == 'g'
if granted then
  known.undo(m)
  call('ZREM', HOLDS, id)
end
local budgets = {}
for i = 13, #ARGV do budgets[i - 12] = ARGV[i] end
local spec, need = spec_of(ARGV[3]), {tonumber(ARGV[8]), tonumber(ARGV[9])}
if m then
  m.fence, m.tenant, m.class, m.need, m.budgets = fence, ARGV[6], tonumber(ARGV[7]), need, budgets
  m.spec, m.guards, m.text = spec, spec.g, ARGV[3]
else
  -- With room for all that comes to it: a table that grows is made anew each time.
  m = {id = id, fence = fence, tenant = ARGV[6], class = tonumber(ARGV[7]), need = need, budgets = budgets, spec = spec,
       guards = spec.g, text = ARGV[3], s = nil, at = nil, x = nil, p = nil, looks = nil, balances = nil, probe = nil}
end
local refusal = check(m)
-- It may be a dead worker that has what is missing.
if refusal and library().reap(500) > 0 then refusal = check(m) end
if not refusal and not granted then
  local first = call('ZRANGE', KEYS[5], 0, 0)[1]
  if first and first ~= id then refusal = {kind = 'turn', name = m.spec.a, retry = SOON_MS} end
end
if refusal then
  local queued = ARGV[5] == '1' and not refusal.final
  if queued and granted then
    known.queue_at(m, 0)
  elseif queued then
    library().enqueue(m)
  elseif known then
    known.drop(m)
  end
  return {'refused', refusal.kind, refusal.name, math.ceil(refusal.retry), queued and 1 or 0}
end
if m.s == 'w' then known.dequeue(m, true) end
take(m, false)
m.s, m.at = 'h', NOW
if hold_ms > 0 then
  save(m)
  -- Without a place and a probe it keeps nothing from others, and how it ends shall count however long it takes.
  local keeps = m.probe
  for _, g in ipairs(m.guards) do keeps = keeps or g.kind == 'concurrency' end
  call('ZADD', HOLDS, NOW + (keeps and hold_ms or max(hold_ms, tonumber(ARGV[11]))), id)
elseif known then
  known.drop(m)
end
return {'admitted', NOW, m.probe or 0, m.since and NOW - m.since or 0}
