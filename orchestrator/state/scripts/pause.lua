--[[ pause: nobody is to call for an agent until a time; a shorter pause leaves a longer one as it is.
KEYS[1]   pause     string  {guards}:pause:<agent>
ARGV[1]   pause_ms  int     > 0, from now
Returns   1 | 0 there is a longer one
Atomic    which is the longer one: between look and write another may have been told
]]
if redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return 1
