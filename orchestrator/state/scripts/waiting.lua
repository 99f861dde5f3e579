--[[ waiting: name the agents with members who wait; take back what has expired.
KEYS[1-4]                as in _guards.lua
The clock is the first of ARGV, as in that file.
Returns   names
Atomic    an expired grant and the queue it returns to
]]
reap(500)
return call('SMEMBERS', WAITING)
