--[[ drop: a failed run is given up; it is a dead letter no more and expires like any other run.
KEYS[1-16]                 as in _run.lua
ARGV[1]   by       string  who
Returns   'dropped' | 'closed' it is no dead letter
Atomic    the list and the log together
]]
-- The list may name a run that has expired since the caretaker last looked.
if redis.call('ZREM', DEAD, ID) == 0 or redis.call('EXISTS', RUN) == 0 then return 'closed' end
emit('DeadLetterDropped', {by = ARGV[1]})
redis.call('HDEL', RUN, 'failure')
local retention_ms = tonumber(redis.call('HGET', RUN, 'retention_ms'))
redis.call('ZADD', INDEX.failed, NOW + retention_ms, ID)
for _, key in ipairs({RUN, DATA, EVENTS, CHILDREN}) do redis.call('PEXPIRE', key, retention_ms) end
return 'dropped'
