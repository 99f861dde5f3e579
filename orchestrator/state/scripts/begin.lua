--[[ begin: take the lease of a ready step, count the attempt, hand out its input.
KEYS[1-16]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   nonce    string  random, the caller's; the same one again gets the same answer
ARGV[3]   lease_ms int     > 0
ARGV[4]   worker   string  for people to read
ARGV[5]   agent    string  the caller's; after a fallback the step is another agent's
ARGV[6]   dispatch_ms int  > 0
Returns   {'execute', step JSON, input, draft, flow, tenant, tags JSON, deadline_ms, now_ms, keep_ms, priority, budgets JSON,
             joined_ms} the latter where the step is a member's: when its fan-out comes together, or its conversation is over;
             or empty
          | {'gone'} no such run or step | {'closed'} the run, or the one it is a child of, has ended
          | {'done'} the step is completed | {'held'} another attempt has the lease | {'early'} the step is not ready yet
          | {'moved'} to another agent | {'late'} its time has passed
          The input of a step that joins a fan-out is what the boss took; what its members gave is read by `gather`.
Atomic    state, lease, fence and event together: a second delivery between them would execute too
]]
local step, nonce = ARGV[1], ARGV[2]
local status, deadline_ms, retention_ms, priority, rec = run_fields(step)
if not status or not rec then return {'gone'} end
if rec.status == 'completed' then return {'done'} end
local over = rec.status == 'cancelled' or rec.status == 'failed'  -- while what was done is undone
if rec.board and rec.status == 'ready' and redis.call('HGET', RUN .. ':board:' .. rec.board, '#state') == 'closing' then
  -- It has reached the goal, and was lost before it ended: there is nothing left for it to do.
  library().end_board(rec.board, load(rec.board), 'goal', 'it holds', tonumber(ARGV[6]))
  return {'closed'}
end
if not live(status) or deadline_ms <= NOW or over then return {'closed'} end
-- A child lives in its parent's shard, so the parent's key is in the same slot as KEYS. What it did is undone, though.
local parent = not rec.undoes and redis.call('HGET', RUN, 'parent')
while parent do
  local above = redis.call('HMGET', string.sub(RUN, 1, -#ID - 1) .. parent, 'status', 'parent')
  if above[1] == 'failed' or above[1] == 'cancelled' or above[1] == 'undoing' then return {'closed'} end
  parent = above[2]
end
local run = redis.call('HMGET', RUN, 'flow', 'tenant', 'tags', 'dead_ms', 'budgets')
local again = rec.status == 'running' and string.match(rec.fence, '%-(.*)$') == nonce
if not again then
  if rec.status == 'running' then return {'held'} end
  if rec.status ~= 'ready' then return {'early'} end
  if rec.agent ~= ARGV[5] then return {'moved'} end
  if rec.until_ms and rec.until_ms <= NOW then return {'late'} end
  rec.attempt, rec.begins = (rec.attempt or 0) + 1, (rec.begins or 0) + 1
  rec.fence = rec.begins .. '-' .. nonce
  rec.status, rec.started_ms, rec.worker = 'running', NOW, ARGV[4]
  local mark = mark_of(rec.agent, priority, run[2])
  if tonumber(redis.call('HGET', MARKS, mark) or 0) < rec.ready_ms then
    redis.call('HSET', MARKS, mark, rec.ready_ms)
  end
  if rec.source then library().take_changes(rec) end
  save(step, rec)
  emit('StepStarted', {step = step, attempt = rec.attempt, begins = rec.begins, fence = rec.fence, worker = ARGV[4],
                       changed = rec.changed})
  if status == 'queued' then set_status(status, 'running') end
  redis.call('ZREM', READY, member(step))
end
redis.call('ZADD', LEASES, NOW + tonumber(ARGV[3]), member(step))
local keep_ms = math.max(retention_ms, tonumber(run[4] or 0))
local joins = rec.input == 'fan:' .. step
local input = redis.call('HGET', DATA, joins and load_fan(step).task or rec.input)
local draft = rec.draft and redis.call('HGET', DATA, rec.draft) or ''
-- A member has the run's time, but is late where the others come together: so is one whose fan-out is within another.
if rec.member and (joins or rec.took) then
  -- Where the boss has the turn of a member, or of a source, what it took is what is around that input, too. So is what
  -- a gate's fallback takes in place of another step.
  local first = load(rec.member)
  if first.input == (joins and load_fan(step).task or rec.input) then
    rec.mail, rec.source, rec.changed = first.mail, first.source, first.changed
  end
end
local joined_ms, fan = '', rec.fan
while fan do
  local ms = redis.call('ZSCORE', TIMERS, joined_by(fan))
  if ms and (joined_ms == '' or tonumber(ms) < tonumber(joined_ms)) then joined_ms = ms end
  fan = string.find(fan, '#', 1, true) and load(fan).fan
end
local over_ms = rec.talk and redis.call('HGET', RUN .. ':talk:' .. rec.talk, '#deadline')
if over_ms and (joined_ms == '' or tonumber(over_ms) < tonumber(joined_ms)) then joined_ms = over_ms end
return {'execute', cjson.encode(rec), input, draft, run[1], run[2], run[3], deadline_ms, NOW, keep_ms,
        priority, run[5] or '[]', joined_ms}
