--[[ keep: calls under way hold what they hold for longer.
KEYS[1-4]  as in _guards.lua
The clock is the first of ARGV, as in that file.
ARGV[2]    hold_ms int     > 0, from now
ARGV[3..]  held    string  id and fence, by turns, as in admit
Returns    how many hold what is theirs still
Atomic     fence and expiry together: between them another attempt may have taken its own
]]
local kept = 0
for i = 3, #ARGV, 2 do
  local m = load(ARGV[i])
  if m and m.s == 'h' and (m.fence or '') == ARGV[i + 1] then
    call('ZADD', HOLDS, 'XX', NOW + tonumber(ARGV[2]), m.id)
    kept = kept + 1
  end
end
return kept
