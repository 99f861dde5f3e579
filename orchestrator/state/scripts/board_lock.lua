--[[ board_lock: lock entries of a blackboard, all or none, or wait for them in a queue; asked again, what has come of it.
KEYS[1-16]                 as in _run.lua
KEYS[17]  board   hash    {sNN}:run:<id>:board:<step>
ARGV[1]   step    string  that asks; empty: somebody outside
ARGV[2]   fence   string  from begin
ARGV[3]   id      string  of the lock, the caller's; unique
ARGV[4]   channel string  on which the id is published, and the token, when the entries are locked; the id alone when it is
                           of no use to wait; or empty
ARGV[5]   ttl_ms  int     > 0, from when they are locked
ARGV[6]   wait_ms int     >= 0, from now, where it does not wait yet
ARGV[7]   most    int     > 0, that may wait at a time
ARGV[8..] entry   string  may be one that is not there yet
Returns   {'locked', token, left_ms} | {'waiting', ms} in which to ask again, should nothing be published: a lock of another
          ends by then
          | {'busy', ''} they are not free, and it has waited long enough; it waits no more | {'crowded', ''} too many wait
          | {'ended', outcome} | {'gone', ''} there is no such board yet | {'stale', ''} the step is another's
          | {'closed', ''} the run has ended, or goes on without the step
Atomic    all locks, the queue and whose turn it is together: two that ask for two in different orders would block each other
]]
local BOARD, step, fence, id = KEYS[17], ARGV[1], ARGV[2], ARGV[3]
local run = redis.call('HMGET', RUN, 'status', 'step:' .. step)
if not run[1] or not live(run[1]) or run[1] == 'undoing' then return {'closed', ''} end
if step ~= '' then
  local rec = run[2] and cjson.decode(run[2]) or {status = 'cancelled'}
  if rec.status == 'cancelled' then return {'closed', ''} end
  if rec.status ~= 'running' or rec.fence ~= fence then return {'stale', ''} end
end
local found = redis.call('HMGET', BOARD, '#state', '#queue', 'l:' .. ARGV[8], '#outcome')
if not found[1] then return {'gone', ''} end
if found[1] ~= 'open' then return {'ended', found[4] or 'goal'} end
local function mine(text)
  local lock = text and cjson.decode(text)
  return lock and lock.id == id and holds_lock(lock) and lock
end
local lock = mine(found[3])
if lock then return {'locked', lock.token, lock.until_ms - NOW} end
local queue, own = cjson.decode(found[2] or '[]'), nil
for _, waiter in ipairs(queue) do
  if waiter.id == id then own = waiter end
end
if not own then
  if #queue >= tonumber(ARGV[7]) then return {'crowded', ''} end
  own = {id = id, channel = ARGV[4], step = step, fence = fence, ttl_ms = tonumber(ARGV[5]), until_ms = NOW + tonumber(ARGV[6]),
         entries = {}}
  for i = 8, #ARGV do own.entries[#own.entries + 1] = ARGV[i] end
  queue[#queue + 1] = own
end
grant_locks(BOARD, queue, id)
lock = mine(redis.call('HGET', BOARD, 'l:' .. ARGV[8]))
if lock then return {'locked', lock.token, lock.until_ms - NOW} end
if own.until_ms <= NOW then return {'busy', ''} end
local soonest = own.until_ms
for _, waiter in ipairs(queue) do
  for _, entry in ipairs(waiter.entries) do
    local text = redis.call('HGET', BOARD, 'l:' .. entry)
    local other = text and cjson.decode(text)
    if other and holds_lock(other) then soonest = math.min(soonest, other.until_ms) end
  end
end
return {'waiting', math.max(soonest - NOW, 1)}
