--[[ _base: what scripts share that change a run or a blackboard; the registry puts it behind _run.lua and _few.lua.
]]
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)
local READIED = {}  -- steps that this script has made ready, each with its agent: publish them

local function live(status)
  return status == 'queued' or status == 'running' or status == 'waiting' or status == 'undoing'
end

local function load(step)
  return cjson.decode(redis.call('HGET', RUN, 'step:' .. step))
end

-- A reply: what was done, its step, and by turns the steps that are ready now and their agents.
local function told(what, step)
  local reply = {what, step or ''}
  for _, name in ipairs(READIED) do reply[#reply + 1] = name end
  return reply
end

-- Facts are a table, or JSON.
local function emit(kind, facts)
  local data = type(facts) == 'string' and facts or cjson.encode(facts)
  redis.call('XADD', EVENTS, '*', 'type', kind, 'v', '1', 'at', NOW, 'data', data)
end
