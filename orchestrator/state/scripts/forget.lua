--[[ forget: a member is over: it leaves the queue and gives back what it holds; what it used stays counted.
KEYS[1-4]                as in _guards.lua
KEYS[5]   queue    zset  {guards}:queue:<agent>
The clock is the first of ARGV, as in that file.
ARGV[2]   id       string  <agent>/<member>
ARGV[3]   grant_ms int   > 0
ARGV[4]   grants   int   > 0, at most so many
ARGV[5]   queues   string  what the key of each agent's queue begins with
Returns   ids of those whose turn it is now; none where another agent waits for the same
Atomic    what is given back once may be taken once
]]
local m = load(ARGV[2])
if not m then return {} end
local queues = queueing()
if m.s == 'g' then queues.undo(m) elseif m.s == 'h' then queues.release(m, 'neutral', 0, nil) end
queues.drop(m)
return queues.grant_freed(KEYS[5], ARGV[5], tonumber(ARGV[3]), tonumber(ARGV[4]))
