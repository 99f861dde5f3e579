--[[ board_unlock: give up a lock of a blackboard's entries, or the wait for one; or hold it longer.
KEYS[1-16]                 as in _run.lua
KEYS[17]  board   hash    {sNN}:run:<id>:board:<step>
ARGV[1]   id      string  of the lock
ARGV[2]   ttl_ms  int     0: give it up; else hold it for so long from now
ARGV[3..] entry   string  all that it holds
Returns   1 | 0 it is held no more: not all of it, or it is another's
Atomic    check and change together, and who waits gets the lock with it
]]
local BOARD, id, ttl_ms = KEYS[17], ARGV[1], tonumber(ARGV[2])
local held = 1
for i = 3, #ARGV do
  local text = redis.call('HGET', BOARD, 'l:' .. ARGV[i])
  local lock = text and cjson.decode(text)
  if lock and lock.id == id and holds_lock(lock) then
    lock.until_ms = NOW + ttl_ms
    if ttl_ms > 0 then
      redis.call('HSET', BOARD, 'l:' .. ARGV[i], cjson.encode(lock))
    else
      redis.call('HDEL', BOARD, 'l:' .. ARGV[i])
    end
  else
    held = 0
  end
end
if ttl_ms == 0 then
  local queue = {}
  for _, waiter in ipairs(cjson.decode(redis.call('HGET', BOARD, '#queue') or '[]')) do
    if waiter.id ~= id then queue[#queue + 1] = waiter end
  end
  grant_locks(BOARD, queue)
end
return held
