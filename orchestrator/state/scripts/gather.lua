--[[ gather: what the members of a fan-out have come to, some at a time, in the order in which they were given out.
KEYS[1]   run    hash    {sNN}:run:<id>
KEYS[2]   data   hash    {sNN}:run:<id>:data
ARGV[1]   first  string  where to begin: a member's first step
ARGV[2]   limit  int     > 0, members
Returns   {the next to begin at, or empty, then by turns: a name, its record, JSON, its answer, JSON or claim check, or empty}
Atomic    no need: nothing of them changes once they have come together
]]
local reply, name = {''}, ARGV[1]
for _ = 1, tonumber(ARGV[2]) do
  local text = redis.call('HGET', KEYS[1], 'step:' .. name)
  if not text then return reply end
  local rec = cjson.decode(text)
  reply[#reply + 1], reply[#reply + 2] = name, text
  reply[#reply + 1] = rec.answer and redis.call('HGET', KEYS[2], rec.answer) or ''
  if not rec.after then return reply end
  name = rec.after
end
reply[1] = name
return reply
