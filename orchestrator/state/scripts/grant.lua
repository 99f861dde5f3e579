--[[ grant: give their turn to those of an agent who wait, as far as the guards let them, in fair order.
KEYS[1-4]                as in _guards.lua
KEYS[5]   queue    zset  {guards}:queue:<agent>
The clock is the first of ARGV, as in that file.
ARGV[2]   grant_ms int   > 0, how long they have to take it
ARGV[3]   grants   int   > 0, at most so many
ARGV[4]   class    int   >= 0, of the last who may go; 0 comes first
Returns   ids of those whose turn it is
Atomic    check and taking, as in admit
]]
reap(500)
return grant(KEYS[5], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
