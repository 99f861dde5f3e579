--[[ delegate: commit a step whose output is work for others: the members of a fan-out.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   fence    string  from begin
ARGV[3]   name     string  the output's name, unique to the attempt
ARGV[4]   output   string  JSON, or its claim check
ARGV[5]   fan      string  the step where the members come together: the next one, or the step itself for another round
ARGV[6]   facts    JSON    of the fan-out: need, share, accept, otherwise, width, within_ms, size, weight, failed, bad_weight,
                           fault, first, last; the last three absent where there is none
ARGV[7]   dispatch_ms int  > 0
ARGV[8]   tokens   int     used by the attempt
ARGV[9]   cost     number  likewise
ARGV[10]  chunk    int     members in an event
ARGV[11]  most     int     steps that a run may have
ARGV[12..] member  string  its step's name and record, JSON, by turns; in the order in which they begin
Returns   {'delegated', fan, ready...} | {'stale', ''} | {'closed', ''} the run has ended; nothing was written.
          | {'crowded', steps} it would be more than a run may have, with the steps that it has; nothing was written.
          ready: steps to be published, by turns with their agents
Atomic    output, members and what is ready together: a death between them would lose or double the work
]]
local step, fence, fan_name, dispatch_ms = ARGV[1], ARGV[2], ARGV[5], tonumber(ARGV[7])
local status, _, retention_ms, _, rec = run_fields(step)
if not status or not rec then return told('closed') end
if not live(status) or rec.status ~= 'running' or rec.fence ~= fence then
  if redis.call('HGET', DATA, ARGV[3]) == ARGV[4] then
    -- The reply was lost and the caller asks again. Members that nobody begins are published by the caretaker.
    return told('delegated', fan_name)
  end
  return told((not live(status) or rec.status == 'cancelled') and 'closed' or 'stale')
end
local names, has = {}, tonumber(redis.call('HGET', RUN, 'size'))
for i = 12, #ARGV, 2 do names[#names + 1] = ARGV[i] end
-- Other scripts go through all steps of a run in one go; what they are given here is how long Redis will stand still.
if #names > 0 and has + #names > tonumber(ARGV[11]) then return told('crowded', tostring(has)) end
local facts = cjson.decode(ARGV[6])
local before = load_fan(fan_name)
local again, fan = step == fan_name, before or {total = 0}
-- What the boss took; of a join that was given an input in place of the boss's plan, the fan-out does not know it.
local task = again and fan.task or nil
if again and not task then
  for _, name in ipairs(in_order()) do
    local boss = load(name)
    if boss.delegates and boss.next == fan_name then task = boss.input end
  end
end
fan = {
  total = fan.total + facts.size, round = again and (fan.round or 0) + 1 or 1,
  -- What a fallback gave out makes all that comes of it a lesser one, whoever puts it together.
  degraded = again and (fan.degraded or rec.degraded) or nil,
  first = again and fan.first or facts.first, tail = facts.last or (again and fan.tail or nil),
  task = task or rec.input, head = facts.first,
  need = facts.need, share = facts.share, accept = facts.accept, otherwise = facts.otherwise, width = facts.width,
  size = facts.size, weight = facts.weight, failed = facts.failed, bad_weight = facts.bad_weight, fault = facts.fault,
  ended = facts.failed, opened = facts.failed, good = 0, good_weight = 0,
  within_ms = facts.within_ms, until_ms = facts.within_ms and NOW + facts.within_ms or nil,
}
fan.first = fan.first or facts.first
redis.call('HSET', DATA, ARGV[3], ARGV[4])
redis.call('ZREM', LEASES, member(step))
spend(rec, ARGV[8], ARGV[9])
settle(rec)
if rec.until_ms then redis.call('ZREM', TIMERS, by_then(step)) end
if again then
  -- It runs again when the members have come together: what `once` recorded was for this round.
  give_back(rec)
  rec.status, rec.attempt, rec.revision = 'pending', 0, (rec.revision or 0) + 1
  rec.input, rec.first_ms, rec.until_ms, rec.rung, rec.losses, rec.strikes = nil, nil, nil, nil, nil, nil
  rec.degraded, rec.reason, rec.asked, rec.said = nil, nil, nil, nil
else
  rec.status, rec.ended_ms, rec.output = 'completed', NOW, ARGV[3]
end
save(step, rec)
charge(step, rec)
if again and before and facts.first then
  -- The members of all rounds are one list.
  local last = before.tail and load(before.tail)
  if last then
    last.after = facts.first
    save(before.tail, last)
  end
end
emit('StepDelegated', {step = step, fan = fan_name, output = ARGV[3], facts = facts, tokens = rec.tokens, cost = rec.cost})
local chunk = tonumber(ARGV[10])
for from = 12, #ARGV, 2 * chunk do
  local fields, listed = {}, {}
  for i = from, math.min(from + 2 * chunk, #ARGV + 1) - 1, 2 do
    fields[#fields + 1], fields[#fields + 2] = 'step:' .. ARGV[i], ARGV[i + 1]
    listed[#listed + 1] = cjson.encode(ARGV[i]) .. ':' .. ARGV[i + 1]
  end
  redis.call('HSET', RUN, unpack(fields))
  emit('MembersAdded', '{"fan":' .. cjson.encode(fan_name) .. ',"steps":{' .. table.concat(listed, ',') .. '}}')
end
if #names > 0 then add_to_order(names) end
if fan.until_ms then redis.call('ZADD', TIMERS, fan.until_ms, joined_by(fan_name)) end
local verdict, why = verdict_of(fan)
if verdict then
  join(retention_ms, fan_name, fan, verdict, why, dispatch_ms)
else
  -- Told first: a member that is a blackboard says itself that it is open.
  emit('MembersOpened', {fan = fan_name})
  open_members(fan_name, fan, dispatch_ms)
  save_fan(fan_name, fan)
end
return told('delegated', fan_name)
