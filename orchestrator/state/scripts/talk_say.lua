--[[ talk_say: somebody outside says something in a conversation.
KEYS[1-16]                as in _run.lua
ARGV[1]   talk    string  the conversation's step
ARGV[2]   by      string  who
ARGV[3]   said    JSON    see `say` in _talk.lua
ARGV[4]   body    JSON
ARGV[5]   dispatch_ms int > 0
ARGV[6]   nonce   string  random, the caller's: the same call sent again says nothing more
Returns   {'said', id, ready...} | {'gone', ''} there is no such conversation yet | {'ended', outcome} | {'closed', ''} the run has
          | {'full', ''} as much was said from outside as it may have turns.
          ready: steps to be published, by turns with their agents
Atomic    the message, the mailboxes and the end together
]]
local name = ARGV[1]
local status, _, _, _, rec = run_fields(name)
-- Looked at first: it may be the same call that has ended the conversation, or the run.
local before = redis.call('HGET', RUN .. ':talk:' .. name, 'n:' .. ARGV[2])
before = before and string.match(before, '^' .. ARGV[6] .. ' (%d+)$')
if before then return told('said', before) end
if not status or not rec or not rec.converses then return told('gone') end
if not live(status) then return told('closed') end
local library = talks()
library.dispatch(tonumber(ARGV[5]))
local T = library.state_of(name)
if not T.rules then return told('gone') end
if T.state ~= 'open' then return told('ended', redis.call('HGET', T.key, '#outcome') or '') end
if (T.sums.outside or 0) >= T.rules.max_turns then return told('full') end
T.sums.outside = (T.sums.outside or 0) + 1
local said, id = cjson.decode(ARGV[3]), T.sums.messages + 1
local value = name .. ':m' .. id
redis.call('HSET', DATA, value, ARGV[4])
redis.call('HSET', T.key, 'n:' .. ARGV[2], ARGV[6] .. ' ' .. id)
said.from = '~' .. ARGV[2]
library.say(T, said, value, nil, nil)
library.check(T)
return told('said', tostring(id))
