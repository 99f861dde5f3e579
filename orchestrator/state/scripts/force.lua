--[[ force: open or close a breaker by hand, or leave it to itself again; twice, one that nothing was called through goes.
KEYS[1]   breaker   hash  {guards}:breaker:<name>
KEYS[2]   breakers  hash  {guards}:breakers
ARGV[1]   clock     int   now (ms), for tests; empty: TIME
ARGV[2]   name      string
ARGV[3]   state     string  open | closed | auto
ARGV[4]   ttl_ms    int   > 0, of one left to itself
Returns   1 there was a breaker | 0 there was none
Atomic    what it was and what it becomes; an epoch ends, so that calls under way do not change it afterwards
]]
local time = redis.call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('EXISTS', KEYS[1])
for b = 0, 9 do redis.call('HDEL', KEYS[1], 'bucket' .. b) end
if ARGV[3] == 'auto' then
  if redis.call('HDEL', KEYS[1], 'forced') == 1 then
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
  elseif redis.call('HEXISTS', KEYS[1], 'window') == 0 then
    -- Nothing was ever called through it: it may be a name that somebody mistyped.
    redis.call('DEL', KEYS[1])
    redis.call('HDEL', KEYS[2], ARGV[2])
  end
  return known
end
-- One that is left to itself after it was forced open has no cooldown to wait for: the next call is a probe.
redis.call('HSET', KEYS[1], 'forced', ARGV[3], 'state', ARGV[3], 'since', now, 'until', now, 'wins', 0)
redis.call('HSET', KEYS[1], 'epoch', tonumber(redis.call('HGET', KEYS[1], 'epoch') or 1) + 1)
redis.call('PERSIST', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[2], KEYS[1])
return known
