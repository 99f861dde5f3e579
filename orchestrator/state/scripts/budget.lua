--[[ budget: set the limits of a budget; what was used of it stays used.
KEYS[1]   budget   hash  {guards}:budget:<name>
KEYS[2]   budgets  set   {guards}:budgets
ARGV[1]   clock    int   now (ms), for tests; empty: TIME
ARGV[2]   name     string
ARGV[3]   tokens   int   >= 0; empty: no limit
ARGV[4]   cost     int   >= 0, millionths; empty: no limit
ARGV[5]   per_ms   int   > 0, after which it renews; empty: never
ARGV[6]   ttl_ms   int   > 0, at least; empty: it stays, and is listed
Returns   1
Atomic    the limits change together, and its periods begin once
]]
local time = redis.call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000 + math.floor(time[2] / 1000)
local per = redis.call('HGET', KEYS[1], 'per') or ''
for name, value in pairs({tokens = ARGV[3], cost = ARGV[4], per = ARGV[5]}) do
  if value == '' then redis.call('HDEL', KEYS[1], name) else redis.call('HSET', KEYS[1], name, value) end
end
redis.call('HSETNX', KEYS[1], 'since', now)
if per ~= ARGV[5] then redis.call('HSET', KEYS[1], 'since', now, 'period', 0) end
if ARGV[6] ~= '' then
  -- A child that draws on it may be meant to be kept for a shorter time than the run whose it is.
  local left = redis.call('PTTL', KEYS[1])
  if left < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
else
  redis.call('PERSIST', KEYS[1])
  redis.call('SADD', KEYS[2], ARGV[2])
end
return 1
