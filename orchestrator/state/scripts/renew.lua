--[[ renew: extend the lease of a step that the caller still holds.
KEYS[1-13]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   lease_ms int     > 0
Returns   'renewed' | 'stale' the step is another's or done | 'closed' the run has ended
Atomic    check and expiry together: between them the step may be lost and begun by another
]]
local status, _, _, _, rec = run_fields(ARGV[1])
if not status or not live(status) then return 'closed' end
if not rec or rec.status ~= 'running' or rec.fence ~= ARGV[2] then return 'stale' end
redis.call('ZADD', LEASES, 'XX', NOW + tonumber(ARGV[3]), member(ARGV[1]))
return 'renewed'
