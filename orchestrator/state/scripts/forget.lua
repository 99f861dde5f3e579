--[[ forget: a member is over: it leaves the queue and gives back what it holds; what it used stays counted.
KEYS[1-4]                as in _guards.lua
KEYS[5]   queue    zset  {guards}:queue:<agent>
The clock is the first of ARGV, as in that file.
ARGV[2]   id       string  <agent>/<member>
ARGV[3]   grant_ms int   > 0
ARGV[4]   grants   int   > 0, at most so many
ARGV[5]   queues   string  what the key of each agent's queue begins with
ARGV[6]   fence    string  of the attempt that is over: what a later one has stays; empty: the member is over
Returns   ids of those whose turn it is now; none where another agent waits for the same
Atomic    what is given back once may be taken once
]]
local m = load(ARGV[2])
if not m then return {} end
-- What an earlier begin was granted is for the one that is over too.
local over, last = tonumber(string.match(ARGV[6], '^%d+')), tonumber(string.match(m.fence or '', '^%d+'))
if over and last and last > over then return {} end
if m.s == 'g' then undo(m) elseif m.s == 'h' then release(m, 'neutral', 0, nil) end
drop(m)
return grant_freed(KEYS[5], ARGV[5], tonumber(ARGV[3]), tonumber(ARGV[4]))
