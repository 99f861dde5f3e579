--[[ lead: become or stay the caretaker.
KEYS[1]   caretaker  string  {caretaker}:lease
ARGV[1]   owner      string  unique to the worker process
ARGV[2]   ttl_ms     int     > 0; 0 gives the role up
Returns   1 the caller is the caretaker | 0 another is, or nobody
Atomic    check and renewal together: between them the lease may expire and be taken
]]
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
