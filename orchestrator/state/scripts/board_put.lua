--[[ board_put: change entries of a blackboard that no source watches, nor a condition asks for.
KEYS[1-3]                 as in _few.lua
The arguments are those of _write.lua.
Returns   as in that file; more: nothing was written, board_write does it
Atomic    versions, locks and fence, and the entries with their event: a lost update is impossible
]]
return write_entries(BOARD, nil)
