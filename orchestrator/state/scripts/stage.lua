--[[ stage: store what a fan-out's members are to take, before the fan-out is committed.
KEYS[1]    run    hash    {sNN}:run:<id>
KEYS[2]    data   hash    {sNN}:run:<id>:data
ARGV[1]    step   string  that gives the work out
ARGV[2]    fence  string  from begin
ARGV[3..]  value  string  a name and its value, JSON or its claim check, by turns
Returns    1 | 0 the step is another's, or the run has ended; nothing was written
Atomic     check and values together: the data of a run that has expired meanwhile would stay for ever
]]
local rec = redis.call('HGET', KEYS[1], 'step:' .. ARGV[1])
rec = rec and cjson.decode(rec) or {}
if rec.status ~= 'running' or rec.fence ~= ARGV[2] then return 0 end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
