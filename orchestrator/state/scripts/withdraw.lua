--[[ withdraw: an attempt asked ahead and is not begun: all that was taken for it is as if it had never asked.
KEYS[1-4]                as in _guards.lua
KEYS[5]   queue    zset  {guards}:queue:<agent>
The clock is the first of ARGV, as in that file.
ARGV[2]   id       string  <agent>/<member>
ARGV[3]   grant_ms int   > 0
ARGV[4]   grants   int   > 0, at most so many
ARGV[5]   queues   string  what the key of each agent's queue begins with
ARGV[6]   fence    string  that it asked with; what another attempt has stays
Returns   ids of those whose turn it is now; none where another agent waits for the same
Atomic    what is given back once may be taken once
]]
local m = load(ARGV[2])
if not m or m.fence ~= ARGV[6] then return {} end
if m.s ~= 'w' then undo(m) end
drop(m)
return grant_freed(KEYS[5], ARGV[5], tonumber(ARGV[3]), tonumber(ARGV[4]))
