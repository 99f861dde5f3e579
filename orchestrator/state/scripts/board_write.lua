--[[ board_write: change entries of a blackboard, and wake the sources that this concerns.
KEYS[1-16]                 as in _run.lua
KEYS[17]  board   hash    {sNN}:run:<id>:board:<step>
The arguments are those of _write.lua.
Returns   as in that file
Atomic    versions, locks and fence, the entries with their event, and who is woken: a lost update is impossible
]]
return write_entries(KEYS[17], library)
