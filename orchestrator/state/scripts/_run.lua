--[[ _run: what every script on a run shares; the registry puts it in front of each.
Behind it come _base.lua, _step.lua and, where a step's change may mean something for others, _steps.lua and _board.lua:
every function of a script is made anew at each call.
KEYS[1]   run        hash    {sNN}:run:<id>
KEYS[2]   data       hash    {sNN}:run:<id>:data
KEYS[3]   events     stream  {sNN}:run:<id>:events
KEYS[4]   ready      zset    {sNN}:ready
KEYS[5]   leases     zset    {sNN}:leases
KEYS[6]   timers     zset    {sNN}:timers
KEYS[7]   marks      hash    {sNN}:marks
KEYS[8]   queued     zset    {sNN}:runs:queued
KEYS[9]   running    zset    {sNN}:runs:running
KEYS[10]  waiting    zset    {sNN}:runs:waiting
KEYS[11]  completed  zset    {sNN}:runs:completed
KEYS[12]  failed     zset    {sNN}:runs:failed
KEYS[13]  cancelled  zset    {sNN}:runs:cancelled
KEYS[14]  undoing    zset    {sNN}:runs:undoing
KEYS[15]  dead       zset    {sNN}:dead
KEYS[16]  children   set     {sNN}:run:<id>:children
]]
local RUN, DATA, EVENTS = KEYS[1], KEYS[2], KEYS[3]
local ID = string.match(RUN, '.*:(.*)')
local READY, LEASES, TIMERS, MARKS = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local INDEX = {queued = KEYS[8], running = KEYS[9], waiting = KEYS[10],
               completed = KEYS[11], failed = KEYS[12], cancelled = KEYS[13], undoing = KEYS[14]}
local DEAD, CHILDREN = KEYS[15], KEYS[16]
