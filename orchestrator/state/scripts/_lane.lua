--[[ _lane: how far a queue has been worked off; the registry puts it behind _step.lua.
]]
-- The field of the marks for a lane of a queue. Tenants are spread over the lanes as broker.py does it, and each lane is
-- first in, first out.
local function mark_of(agent, priority, tenant)
  local mark = agent .. '|' .. priority
  if tenant == 'default' then return mark end
  return mark .. '|' .. tonumber(string.sub(redis.sha1hex(tenant), 1, 6), 16) % 15 + 1
end
