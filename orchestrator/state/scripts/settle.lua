--[[ settle: give back what a call holds, say how it went, and give their turn to those who waited for that.
KEYS[1-4]                 as in _guards.lua
KEYS[5]   queue     zset  {guards}:queue:<agent>
KEYS[6]   good      string  {guards}:good:<agent>:<digest>, written only where ARGV[8] is above 0
The clock is the first of ARGV, as in that file.
ARGV[2]   id        string  <agent>/<member>
ARGV[3]   outcome   string  ok | failed | neutral
ARGV[4]   took_ms   int   >= 0
ARGV[5]   used      JSON  {tokens, cost}; empty: not known
ARGV[6]   closed_ms int   >= 0, how long from now nobody may call
ARGV[7]   guards    JSON  list, for closing where nothing is held; else empty
ARGV[8]   good_ms   int   >= 0
ARGV[9]   output    string  the last good output
ARGV[10]  grant_ms  int   > 0
ARGV[11]  grants    int   > 0, at most so many
ARGV[12]  queues    string  what the key of each agent's queue begins with
Returns   ids of those whose turn it is; none where another agent waits for the same
Atomic    what is given back once may be taken once
]]
local m = load(ARGV[2])
local held = m and m.s == 'h'
if held then
  release(m, ARGV[3], tonumber(ARGV[4]), ARGV[5] ~= '' and cjson.decode(ARGV[5]) or nil)
  drop(m)
end
local closed_ms = tonumber(ARGV[6])
if closed_ms > 0 then
  local guards, of = held and m.guards or cjson.decode(ARGV[7]), {}
  for _, g in ipairs(guards) do of[g.kind] = true end
  local closing = of.rate and 'rate' or 'breaker'
  local gate = NOW + closed_ms
  for _, g in ipairs(guards) do
    if g.kind == closing then
      local v = redis.call('HMGET', g.key, 'gate', 'forced')
      if gate > tonumber(v[1] or 0) then redis.call('HSET', g.key, 'gate', gate) end
      local longest = closed_ms + (closing == 'rate' and 2 * g.per or g.window + g.cooldown) + DAY_MS
      if not v[2] then redis.call('PEXPIRE', g.key, longest) end
    end
  end
end
if tonumber(ARGV[8]) > 0 then redis.call('SET', KEYS[6], NOW .. ':' .. ARGV[9], 'PX', ARGV[8]) end
if not freed then return {} end
return grant_freed(KEYS[5], ARGV[12], tonumber(ARGV[10]), tonumber(ARGV[11]))
