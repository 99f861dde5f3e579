--[[ begin: take the lease of a ready step, count the attempt, hand out its input.
KEYS[1-13]                 as in _run.lua
ARGV[1]   step     string
ARGV[2]   nonce    string  random, the caller's; the same one again gets the same answer
ARGV[3]   lease_ms int     > 0
ARGV[4]   worker   string  for people to read
ARGV[5]   agent    string  the caller's; after a fallback the step is another agent's
Returns   {'execute', step JSON, input, draft, flow, tenant, tags JSON, deadline_ms, now_ms, retention_ms}
          | {'gone'} no such run or step | {'closed'} the run has ended | {'done'} the step is completed
          | {'held'} another attempt has the lease | {'early'} the step is not ready yet | {'moved'} to another agent
Atomic    state, lease, fence and event together: a second delivery between them would execute too
]]
local step, nonce = ARGV[1], ARGV[2]
local status, deadline_ms, retention_ms, priority, rec = run_fields(step)
if not status or not rec then return {'gone'} end
if rec.status == 'completed' then return {'done'} end
if not live(status) or deadline_ms <= NOW then return {'closed'} end
local again = rec.status == 'running' and string.match(rec.fence, '%-(.*)$') == nonce
if not again then
  if rec.status == 'running' then return {'held'} end
  if rec.status ~= 'ready' then return {'early'} end
  if rec.agent ~= ARGV[5] then return {'moved'} end
  rec.attempt, rec.begins = (rec.attempt or 0) + 1, (rec.begins or 0) + 1
  rec.fence = rec.begins .. '-' .. nonce
  rec.status, rec.started_ms, rec.worker = 'running', NOW, ARGV[4]
  local queue = rec.agent .. '|' .. priority
  if tonumber(redis.call('HGET', MARKS, queue) or 0) < rec.ready_ms then
    redis.call('HSET', MARKS, queue, rec.ready_ms)
  end
  save(step, rec)
  emit('StepStarted', {step = step, attempt = rec.attempt, begins = rec.begins, fence = rec.fence, worker = ARGV[4]})
  set_status(status, 'running')
  redis.call('ZREM', READY, member(step))
end
redis.call('ZADD', LEASES, NOW + tonumber(ARGV[3]), member(step))
local run = redis.call('HMGET', RUN, 'flow', 'tenant', 'tags')
local input = redis.call('HGET', DATA, rec.input)
local draft = rec.draft and redis.call('HGET', DATA, rec.draft) or ''
return {'execute', cjson.encode(rec), input, draft, run[1], run[2], run[3], deadline_ms, NOW, retention_ms}
