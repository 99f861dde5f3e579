--[[ _few: what a script takes that changes a blackboard, and nothing else of its run.
KEYS[1]   run     hash    {sNN}:run:<id>
KEYS[2]   events  stream  {sNN}:run:<id>:events
KEYS[3]   board   hash    {sNN}:run:<id>:board:<step>
]]
local RUN, EVENTS, BOARD = KEYS[1], KEYS[2], KEYS[3]
