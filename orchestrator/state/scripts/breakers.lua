--[[ breakers: give every breaker as it is stored.
KEYS[1]   breakers  hash  {guards}:breakers, the keys by name: those are read, all in the slot
Returns   {name, fields and values} of each
Atomic    a name leaves with its breaker: between the two it may have come back
]]
local found = {}
local index = redis.call('HGETALL', KEYS[1])
for i = 1, #index, 2 do
  local fields = redis.call('HGETALL', index[i + 1])
  if #fields == 0 then
    redis.call('HDEL', KEYS[1], index[i])
  else
    found[#found + 1] = {index[i], fields}
  end
end
return found
