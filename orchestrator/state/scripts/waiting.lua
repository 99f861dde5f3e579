--[[ waiting: name the agents with members who wait; take back what has expired.
KEYS[1-4]                as in _guards.lua
The clock is the first of ARGV, as in that file.
ARGV[2]   queues   string  what the key of each agent's queue begins with
Returns   by turns: a name, the class of the first who waits, and of the last
Atomic    an expired grant and the queue it returns to
]]
reap(500)
local function class_of(agent, at)
  return math.floor((call('ZRANGE', ARGV[2] .. agent, at, at, 'WITHSCORES')[2] or 0) / CLASS)
end
local found = {}
for _, agent in ipairs(call('SMEMBERS', WAITING)) do
  found[#found + 1], found[#found + 2], found[#found + 3] = agent, class_of(agent, 0), class_of(agent, -1)
end
return found
