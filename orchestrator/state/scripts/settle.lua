--[[ settle: give back what a call holds, say how it went, and give their turn to those who waited for that.
KEYS[1-4]                 as in _guards.lua
KEYS[5]   queue     zset  {guards}:queue:<agent>
KEYS[6]   good      string  {guards}:good:<agent>:<digest>, written only where ARGV[9] is above 0
The clock is the first of ARGV, as in that file.
ARGV[2]   id        string  <agent>/<member>
ARGV[3]   outcome   string  ok | failed | neutral
ARGV[4]   took_ms   int   >= 0
ARGV[5]   tokens    int   >= 0, used; empty: not known
ARGV[6]   cost      int   >= 0, used, millionths; empty like that
ARGV[7]   closed_ms int   >= 0, how long from now nobody may call
ARGV[8]   spec      packed  for closing where nothing is held; else empty
ARGV[9]   good_ms   int   >= 0
ARGV[10]  output    string  the last good output
ARGV[11]  grant_ms  int   > 0
ARGV[12]  grants    int   > 0, at most so many
ARGV[13]  queues    string  what the key of each agent's queue begins with
ARGV[14]  fence     string  as in admit; what another attempt holds is not this one's to give back
Returns   ids of those whose turn it is; none where another agent waits for the same
Atomic    what is given back once may be taken once
]]
local m = load(ARGV[2])
local held = m and m.s == 'h' and (m.fence or '') == ARGV[14]
if held then
  release(m, ARGV[3], tonumber(ARGV[4]), ARGV[5] ~= '' and {tonumber(ARGV[5]), tonumber(ARGV[6])} or nil)
  call('ZREM', HOLDS, m.id)
  call('HDEL', MEMBERS, m.id)
end
local closed_ms = tonumber(ARGV[7])
if closed_ms > 0 then
  local guards, of = held and m.guards or spec_of(ARGV[8]).g, {}
  for _, g in ipairs(guards) do of[g.kind] = true end
  local closing = of.rate and 'rate' or 'breaker'
  local gate = NOW + closed_ms
  for _, g in ipairs(guards) do
    if g.kind == closing then
      local v = call('HMGET', g.key, 'gate', 'forced')
      if gate > tonumber(v[1] or 0) then call('HSET', g.key, 'gate', gate) end
      local longest = closed_ms + (closing == 'rate' and 2 * g.per or g.window + g.cooldown) + DAY_MS
      if not v[2] then call('PEXPIRE', g.key, longest) end
    end
  end
end
if tonumber(ARGV[9]) > 0 then call('SET', KEYS[6], NOW .. ':' .. ARGV[10], 'PX', ARGV[9]) end
if not freed or call('EXISTS', KEYS[5]) == 0 then return {} end
return library().grant_freed(KEYS[5], ARGV[13], tonumber(ARGV[11]), tonumber(ARGV[12]))
