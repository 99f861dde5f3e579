--[[ retry_budget: take a retry out of an agent's budget, for now or for when its turn comes.
KEYS[1]   budget   hash    {guards}:retries:<agent>
ARGV[1]   first    int     first attempts made since the caller's last call
ARGV[2]   ratio    number  >= 0, retries for each first attempt
ARGV[3]   floor    number  > 0, retries a second that are always allowed
ARGV[4]   longest_ms int   a wait above it is told and not taken; -1: any is taken
ARGV[5]   now_ms   int     in the place of the server's clock, for tests; empty: the server's
Returns   ms until the retry may be made; 0 now
Atomic    balance and withdrawal together: between them two workers would take the same retry
]]
local HOUR = 3600000
local time = redis.call('TIME')
local now = ARGV[5] ~= '' and tonumber(ARGV[5]) or time[1] * 1000 + math.floor(time[2] / 1000)
local first, ratio, floor = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local longest_ms = tonumber(ARGV[4])
-- Saved up are at most ten seconds' worth and that of a hundred first attempts; an agent not seen lately has the former.
-- A floor below one in ten seconds would otherwise save up less than one retry.
local idle = math.max(1, 10 * floor)
local known = redis.call('HMGET', KEYS[1], 'balance', 'at_ms')
local balance = tonumber(known[1] or idle)
-- A clock that was set back earns nothing, and counts on from where it is.
local passed_ms = math.max(0, now - tonumber(known[2] or now))
balance = math.min(idle + 100 * ratio, balance + first * ratio + passed_ms / 1000 * floor)
-- What is short is made up for by the floor alone: of first attempts nobody knows when they come.
local wait_ms = math.max(0, math.ceil((1 - balance) / floor * 1000 - 0.001))
if longest_ms < 0 or wait_ms <= longest_ms then balance = balance - 1 end
redis.call('HSET', KEYS[1], 'balance', string.format('%.6f', balance), 'at_ms', string.format('%.0f', now))
-- It outlives every wait that was given out, or those who come after would not queue behind it.
redis.call('PEXPIRE', KEYS[1], HOUR + math.max(0, math.ceil((1 - balance) / floor * 1000)))
return wait_ms
