--[[ left: what is left to do of a run from some steps on, as far as it can be told: to publish it.
KEYS[1]    run    hash    {sNN}:run:<id>
ARGV[1]    most   int     > 0, steps in a row
ARGV[2..]  step   string  that is ready; none: every one that is
Returns    {} there is no such run
           | {status, flow, priority, tenant, budgets JSON or empty, by turns: a name, its record, JSON}
Atomic     no need: what is published is looked at again when it arrives
]]
local RUN = KEYS[1]
local found = redis.call('HMGET', RUN, 'status', 'flow', 'priority', 'tenant', 'budgets')
if not found[1] then return {} end
local reply, seen = {found[1], found[2], found[3], found[4], found[5] or ''}, {}
local function add(name)
  local text = redis.call('HGET', RUN, 'step:' .. name)
  if not text then return nil end
  local rec = cjson.decode(text)
  if not seen[name] then
    seen[name] = true
    reply[#reply + 1], reply[#reply + 2] = name, text
  end
  return rec
end
local function follow(name)
  local rec = add(name)
  if rec and rec.status == 'ready' and rec.fan then add(rec.fan) end
  if not rec or rec.status ~= 'ready' or rec.fan then return end
  for _ = 2, tonumber(ARGV[1]) do
    if not rec or rec.rules or rec.converses or not rec.next then return end
    rec = add(rec.next)
  end
end
for i = 2, #ARGV do follow(ARGV[i]) end
if #ARGV == 1 then
  local fields = redis.call('HGETALL', RUN)
  for i = 1, #fields, 2 do
    local name = string.match(fields[i], '^step:(.*)$')
    if name and string.find(fields[i + 1], '"ready"', 1, true) then follow(name) end
  end
end
return reply
