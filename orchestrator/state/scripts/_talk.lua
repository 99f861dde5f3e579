--[[ _talk: what scripts on runs do with conversations; the registry puts it behind _board.lua.
Each conversation has a key of its own beside the run's:
talk      hash    {sNN}:run:<id>:talk:<step>
  #state    open | judging: it is over, and its judge is at work | ended
  #rules    JSON: what is fixed, but its members; names: theirs, in order
  #sums     JSON: messages so far; turns that have begun; done, those that have ended; busy, those that have not; last, when
            something was last said; opened, when it was; tokens and cost; proposals, by their messages; verdicts, by whom in
            which message; limit, which is reached; top, the proposal that most are for, and share, how many that are, in
            thousandths; armed, when its timer rings; outside, how much was said from there
  #end      JSON of what a conversation has come to whose judge is at work
  #outcome, #why: how it has ended; #deadline: when it will at the latest, where that is said
  r:<name>  JSON of a member's rules
  p:<name>  JSON of a member: present; n, its turns; turn, the first step of the one it is at; waits, for whose replies; ask,
            to which message; head and tail of its mailbox; stance, the proposals it is for; c, how sure; leaving; came and went,
            by its conditions
  b:<name>:<number> a message in its mailbox
  m:<id>    JSON of a message: k, its kind; f, from whom; t, to whom; y, its body's type; b, the value's name; r, what it is
            about; h, hops; v, volley; u, until when a reply is wanted; a, when; p, the step; w, what is around the task
  a:<id>    JSON of a question: step, from; of, each one's reply, or why there is none, false while it is awaited; left, how many
            of them are; need, after how many replies no other is awaited
  u:<step>  JSON of what a step has used that counts: tokens, cost
  n:<who>   the last thing that somebody outside has said: the call's nonce, and the message
Everything is made where it is first asked for: most runs have no conversation.
]]
local talk_made
talks = function()
if talk_made then return talk_made end
local dispatch_ms = 0

local function talk_key(step)
  return RUN .. ':talk:' .. step
end

local function get(key, field)
  local text = redis.call('HGET', key, field)
  return text and cjson.decode(text)
end

-- Conversations as one script sees them; what it changes is written by `flush`. There may be several: one that is a member
-- of another is opened and ends within that one's turns.
local seen = {}
local function state_of(name)
  if seen[name] then return seen[name] end
  local key = talk_key(name)
  local found = redis.call('HMGET', key, '#state', '#sums', '#rules')
  seen[name] = {name = name, key = key, state = found[1] or 'ended', sums = found[2] and cjson.decode(found[2]),
             rules = found[3] and cjson.decode(found[3]), peers = {}, touched = {}, of = {}}
  return seen[name]
end

local function flush(T)
  local fields = {'#sums', cjson.encode(T.sums)}
  for name in pairs(T.touched) do
    fields[#fields + 1], fields[#fields + 2] = 'p:' .. name, cjson.encode(T.peers[name])
  end
  redis.call('HSET', T.key, unpack(fields))
  T.touched = {}
end

local function peer_of(T, name)
  if T.peers[name] == nil then T.peers[name] = get(T.key, 'p:' .. name) or false end
  return T.peers[name]
end

-- The same, to be changed.
local function changing(T, name)
  T.touched[name] = true
  return peer_of(T, name)
end

local function rules_of(T, name)
  if T.of[name] == nil then T.of[name] = get(T.key, 'r:' .. name) or false end
  return T.of[name]
end

-- The steps of a turn, the first one ready.
local function add_steps(T, root, planned_steps, extra, event, facts)
  local function full(name) return name and (name == '' and root or root .. '/' .. name) end
  local entry, names, steps, listed = full(planned_steps[1].name), {}, {}, {}
  for i, planned in ipairs(planned_steps) do
    local step = {}
    for field, value in pairs(planned) do step[field] = value end
    step.name, step.status, step.talk, step.member = nil, 'pending', T.name, entry
    step.next, step.start = full(planned.next), full(planned.start)
    if i == 1 then for field, value in pairs(extra) do step[field] = value end end
    names[i], steps[i], listed[full(planned.name)] = full(planned.name), step, step
  end
  add_to_order(names)
  facts.talk, facts.order, facts.steps = T.name, names, listed
  emit(event, facts)
  for i = 2, #names do save(names[i], steps[i]) end
  return entry, steps[1]
end

local function root_of(T, name, number)
  return (string.match(T.name, '^(.*/)') or '') .. name .. '#' .. number
end

-- A member has its turn: with a message.
local function start_turn(T, name, p, id, env)
  local rules, own, sums = T.rules, rules_of(T, name), T.sums
  if sums.turns >= rules.max_turns then
    sums.limit = 'after ' .. sums.turns .. ' turns'
    return
  elseif tonumber(redis.call('HGET', RUN, 'size')) + #own.steps > rules.max_steps then
    sums.limit = 'after as many steps as a run may have'
    return
  end
  p.n, sums.turns, sums.busy = p.n + 1, sums.turns + 1, sums.busy + 1
  local letter = {id = id, kind = env.k, sender = env.f, to = env.t, type = env.y, re = env.r, hops = env.h, volley = env.v,
                  until_ms = env.u, within = env.w and env.w.within, wake = env.w and env.w.wake}
  local entry, first = add_steps(T, root_of(T, name, p.n), own.steps, {peer = name, mail = letter, input = env.b},
                                 'TurnStarted', {peer = name, number = p.n, id = id})
  p.turn = entry
  start(entry, first, dispatch_ms)
end

-- A message reaches a member: now, or when it has done what came before.
local function deliver(T, name, id, env)
  local p = changing(T, name)
  if not p.turn and p.head == p.tail and not T.sums.limit then
    start_turn(T, name, p, id, env)
    if not T.sums.limit then return end
  end
  redis.call('HSET', T.key, 'b:' .. name .. ':' .. p.tail, id)
  p.tail = p.tail + 1
end

-- The next message of a member that has nothing else to do.
local function next_turn(T, name)
  local p = peer_of(T, name)
  if not p.present or p.turn or p.head == p.tail or T.sums.limit then return end
  changing(T, name)
  local field = 'b:' .. name .. ':' .. p.head
  local id = tonumber(redis.call('HGET', T.key, field))
  start_turn(T, name, p, id, get(T.key, 'm:' .. id))
  if not T.sums.limit then
    redis.call('HDEL', T.key, field)
    p.head = p.head + 1
  end
end

local function add_message(T, env, facts)
  local sums = T.sums
  sums.messages, sums.last = sums.messages + 1, NOW
  env.a = NOW
  redis.call('HSET', T.key, 'm:' .. sums.messages, cjson.encode(env))
  facts = facts or {}
  facts.talk, facts.id, facts.kind, facts.type, facts.value, facts.hops = T.name, sums.messages, env.k, env.y, env.b, env.h
  facts.from, facts.to, facts.re, facts.step, facts.until_ms = env.f, env.t, env.r, env.p, env.u
  emit('MessageSent', facts)
  return sums.messages
end

-- All that were asked have replied, or cannot any more: who asked goes on.
local function resume(T, id, asked)
  local p = changing(T, asked.from)
  if p.ask ~= id then return end  -- it has ended meanwhile, one way or another
  p.waits, p.ask = nil, nil
  local rec = load(asked.step)
  rec.asking = nil
  redis.call('ZREM', TIMERS, member(asked.step))
  make_ready(asked.step, rec, dispatch_ms)
  emit('StepReady', {step = asked.step})
end

-- A reply to a question, or why there is none. Returns whether it was awaited.
local function answer(T, id, name, result)
  local asked = get(T.key, 'a:' .. id)
  if not asked or asked.left == 0 or asked.of[name] ~= false then return false end
  asked.of[name], asked.left = result, asked.left - 1
  if not result.why then
    asked.good = asked.good + 1
    if asked.need and asked.good >= asked.need then asked.left = 0 end
  else
    emit('AskUnanswered', {talk = T.name, id = id, peer = name, why = result.why, reason = result.reason})
  end
  redis.call('HSET', T.key, 'a:' .. id, cjson.encode(asked))
  if asked.left == 0 then
    resume(T, id, asked)
  elseif peer_of(T, asked.from).ask == id then
    local waits = {}
    for _, each in ipairs(peer_of(T, asked.from).waits or {}) do
      if each ~= name then waits[#waits + 1] = each end
    end
    changing(T, asked.from).waits = waits
  end
  return true
end

-- Nobody's time is endless: what has not been replied by now is not awaited any more.
local function expire(T, id)
  local asked = get(T.key, 'a:' .. id)
  for _, name in ipairs(peer_of(T, asked.from).waits or {}) do
    if asked.of[name] == false then
      asked.of[name] = {why = 'deadline'}
      emit('AskUnanswered', {talk = T.name, id = id, peer = name, why = 'deadline'})
    end
  end
  asked.left = 0
  redis.call('HSET', T.key, 'a:' .. id, cjson.encode(asked))
  local p = changing(T, asked.from)
  p.waits, p.ask = nil, nil
end

-- Those who wait for each other from one member to another, or nil.
local function waiting_path(T, name, goal, seen)
  if name == goal then return {name} end
  if seen[name] then return nil end
  seen[name] = true
  local p = peer_of(T, name)
  for _, each in ipairs(p and p.waits or {}) do
    local path = waiting_path(T, each, goal, seen)
    if path then
      table.insert(path, 1, name)
      return path
    end
  end
  return nil
end

-- A message goes back to its sender, with the reason.
local function give_back(T, id, env, name, why, reason)
  emit('MessageReturned', {talk = T.name, id = id, to = name, why = why, reason = reason})
  if env.k == 'ask' then
    answer(T, id, name, {why = why, reason = reason})
    return
  end
  local own = rules_of(T, env.f)
  -- A limit is not argued with: what it stops would only go round once more.
  if not own or not own.returns or env.k == 'returned' or why == 'hops' or why == 'volleys' then return end
  if not peer_of(T, env.f).present then return end
  local back = {k = 'returned', f = '', t = {env.f}, y = 'Returned', r = id, h = env.h, v = 0}
  back.b = T.name .. ':m' .. T.sums.messages + 1
  redis.call('HSET', DATA, back.b, cjson.encode({message = id, kind = env.k, to = name, why = why, reason = reason or ''}))
  deliver(T, env.f, add_message(T, back), back)
end

local function known_proposal(T, id)
  for _, each in ipairs(T.sums.proposals) do
    if each == id then return true end
  end
  return false
end

-- Whether what is of this type can be the decision.
local function decidable(T, kind)
  local decides = T.rules.decides
  if not decides or #decides == 0 then return true end
  for _, each in ipairs(decides) do
    if each == kind then return true end
  end
  return false
end

-- Why what is said about a proposal is about none; nil: it is about one. One that cannot be the decision may be rejected:
-- that is no stance.
local function about_none(T, said, id)
  if known_proposal(T, id) then return nil end
  local env = T.rules.decides and get(T.key, 'm:' .. id)
  if not env or env.k ~= 'propose' then return 'there is no proposal ' .. id end
  if said.kind == 'reject' then return nil end
  return 'proposal ' .. id .. ' is a ' .. env.y .. ', and what is decided is ' .. table.concat(T.rules.decides, ' or ')
end

-- What a member says about proposals is where it stands, the last thing it says.
local function take_stance(T, said, id)
  if not peer_of(T, said.from) then return end
  if said.kind == 'propose' and not decidable(T, said.type) then return end
  if said.kind == 'reject' and not known_proposal(T, said.re) then return end
  local p, kind = changing(T, said.from), said.kind
  if kind == 'propose' then
    T.sums.proposals[#T.sums.proposals + 1] = id
    p.stance = {id}
  elseif kind == 'accept' then
    p.stance = {said.re}
  elseif kind == 'reject' then
    local left = {}
    for _, each in ipairs(p.stance or {}) do
      if each ~= said.re then left[#left + 1] = each end
    end
    p.stance = #left > 0 and left or nil
  elseif kind == 'vote' then
    p.stance = #said.proposals > 0 and said.proposals or nil
  end
  p.c = p.stance and said.confidence or nil
  T.stanced = true
end

local function join_in(T, name, why)
  local p = changing(T, name)
  if p.present then return end
  p.present, p.leaving, T.stanced = true, nil, true
  emit('MemberJoined', {talk = T.name, peer = name, why = why})
end

-- A member is there no more: what waits for it goes back to whom it came from.
local function leave(T, name, why)
  local p = changing(T, name)
  if not p.present then return end
  if p.turn then
    p.leaving = why  -- it ends what it is at
    return
  end
  p.present, p.leaving, p.stance, p.c, T.stanced = false, nil, nil, nil, true
  emit('MemberLeft', {talk = T.name, peer = name, why = why})
  while p.head < p.tail do
    local field = 'b:' .. name .. ':' .. p.head
    local id = tonumber(redis.call('HGET', T.key, field))
    redis.call('HDEL', T.key, field)
    p.head = p.head + 1
    give_back(T, id, get(T.key, 'm:' .. id), name, 'left')
  end
end

-- Something is said. `said`: kind, from, to, type, re, proposals, confidence, within_ms, need, wide: those it is to
-- only if they are there; `mail`: what it follows from, a letter, or nil; `value`: the body's name, or nil where there is none.
local function say(T, said, value, mail, step)
  if said.kind == 'leave' then return leave(T, said.from, 'wish') end
  local env = {k = said.kind, f = said.from, t = said.to, y = said.type, b = value, r = said.re, p = step,
               h = mail and mail.hops + 1 or 0, v = 0}
  local id = T.sums.messages + 1
  local about = said.kind == 'vote' and said.proposals or (said.kind == 'accept' or said.kind == 'reject') and {said.re} or {}
  local facts = {proposals = said.proposals, confidence = said.confidence}
  for _, each in ipairs(about) do
    local reason = about_none(T, said, each)
    if reason then
      add_message(T, env, facts)
      give_back(T, id, env, '', 'proposal', reason)
      return
    end
  end
  if said.kind == 'propose' or said.kind == 'vote' or #about > 0 then take_stance(T, said, id) end
  if said.kind == 'conclude' and decidable(T, said.type) then T.sums.verdicts[said.from] = id end
  if said.kind == 'ask' then env.u = NOW + said.within_ms end
  if mail and #said.to == 1 and said.to[1] == mail.sender and mail.sender ~= said.from then env.v = mail.volley + 1 end
  local to = {}
  local wide = {}
  for _, name in ipairs(said.wide or {}) do wide[name] = true end
  for _, name in ipairs(said.to) do
    local p = wide[name] and peer_of(T, name)
    if not wide[name] or p and p.present then to[#to + 1] = name end
  end
  env.t = to
  add_message(T, env, facts)
  if said.kind == 'invite' then join_in(T, to[1], 'invited by ' .. said.from) end
  if said.kind == 'ask' then
    local asked = {step = step, from = said.from, of = {}, left = #to, good = 0, need = said.need}
    for _, name in ipairs(to) do asked.of[name] = false end
    redis.call('HSET', T.key, 'a:' .. id, cjson.encode(asked))
    local p = changing(T, said.from)
    p.waits, p.ask = to, id
    if #to == 0 then resume(T, id, asked) end
  end
  local back = {}
  for _, name in ipairs(to) do
    local p, why, reason = peer_of(T, name), nil, nil
    if not p or not p.present then why = 'absent'
    elseif p.tail - p.head >= T.rules.max_mail then why = 'full'
    elseif env.h > T.rules.max_hops then why = 'hops'
    elseif env.v > T.rules.max_volleys then
      why = 'volleys'
      emit('PingPongFound', {talk = T.name, id = id, peers = {said.from, name}, volleys = env.v})
    elseif said.kind == 'ask' then
      local path = waiting_path(T, name, said.from, {})
      if path then
        why, reason = 'cycle', said.from .. ' waits for ' .. table.concat(path, ' waits for ')
        emit('WaitCycleFound', {talk = T.name, id = id, peers = path})
      end
    end
    if why then back[#back + 1] = {name, why, reason} else deliver(T, name, id, env) end
  end
  -- What returns is a message of its own, and comes behind this one in every mailbox.
  for _, each in ipairs(back) do give_back(T, id, env, each[1], each[2], each[3]) end
end

-- How many are for each proposal, by the first of those they are for; how many there are in all.
local function tally(T, heads)
  local votes, total = {}, 0
  for _, name in ipairs(T.rules.names) do
    local p, own = peer_of(T, name), rules_of(T, name)
    if p.present and own.votes > 0 then
      local weight = heads and 1000 or own.votes
      total = total + weight
      local first = p.stance and p.stance[1]
      if first then votes[first] = (votes[first] or 0) + weight end
    end
  end
  return votes, total
end

local function count_stances(T)
  if not T.stanced then return end
  T.stanced = nil
  local votes, total = tally(T)
  local sums = T.sums
  sums.top, sums.share = nil, 0
  for _, id in ipairs(sums.proposals) do
    local share = total > 0 and (votes[id] or 0) * 1000 / total or 0
    if share > sums.share then sums.top, sums.share = id, share end
  end
end

-- Which parts of a condition hold, where it does; else nil.
local function held(T, condition)
  local kind, sums = condition[1], T.sums
  if kind == 'all' or kind == 'any' then
    local parts = {}
    for i = 2, #condition do
      local found = held(T, condition[i])
      if not found and kind == 'all' then return nil end
      for _, part in ipairs(found or {}) do parts[#parts + 1] = part end
    end
    return #parts > 0 and parts or nil
  end
  local holds
  if kind == 'turns' then holds = sums.done >= condition[2]
  elseif kind == 'deadline' then holds = NOW >= sums.opened + condition[2]
  elseif kind == 'silence' then holds = NOW >= sums.last + condition[2]
  elseif kind == 'consensus' then holds = sums.top and sums.share >= condition[2] - 0.0001
  elseif kind == 'verdict' then holds = sums.verdicts[condition[2]]
  elseif kind == 'spent' then
    local tokens, cost = condition[2], condition[3]
    holds = tokens ~= cjson.null and sums.tokens >= tokens or cost ~= cjson.null and sums.cost >= cost
  end
  return holds and {condition} or nil
end

local SAID = {
  turns = function(T) return T.sums.done .. ' turns' end,
  deadline = function(_, part) return part[2] / 1000 .. ' s' end,
  silence = function(_, part) return 'nothing was said for ' .. part[2] / 1000 .. ' s' end,
  consensus = function(T) return string.format('%.2f of the votes are for proposal %d', T.sums.share / 1000, T.sums.top) end,
  verdict = function(_, part) return 'a verdict of ' .. part[2] end,
  spent = function(T) return string.format('%d tokens and a cost of %g', T.sums.tokens, T.sums.cost) end,
}

local function outcome_of(T, parts)
  local outcome, said, verdict = nil, {}, 0  -- of several the last one
  for i, part in ipairs(parts) do
    said[i] = SAID[part[1]](T, part)
    if not outcome or part[1] == 'verdict' or part[1] == 'consensus' and outcome ~= 'verdict' then outcome = part[1] end
    if part[1] == 'verdict' then verdict = math.max(verdict, T.sums.verdicts[part[2]]) end
  end
  return outcome, table.concat(said, '; '), verdict
end

-- When a condition may next hold by time alone.
local function next_due(T, condition, due)
  local kind = condition[1]
  if kind == 'all' or kind == 'any' then
    for i = 2, #condition do due = next_due(T, condition[i], due) end
    return due
  end
  local at = kind == 'deadline' and T.sums.opened + condition[2] or kind == 'silence' and T.sums.last + condition[2]
  return at and at > NOW and (not due or at < due) and at or due
end

-- Returns when that is, if time alone can still bring anything.
local function arm(T)
  local rules, due = T.rules, nil
  if not rules.timed then return nil end
  if rules['until'] then due = next_due(T, rules['until'], nil) end
  if rules.moves then
    for _, name in ipairs(rules.names) do
      local own = rules_of(T, name)
      if own.joins then due = next_due(T, own.joins, due) end
      if own.leaves then due = next_due(T, own.leaves, due) end
    end
  end
  -- Set for too early it rings, finds nothing and is set again: most of what is said need not touch it.
  local armed = T.sums.armed
  if due and (not armed or armed <= NOW or due < armed) then
    T.sums.armed = due
    redis.call('ZADD', TIMERS, due, joined_by(T.name))
  elseif not due and armed then
    T.sums.armed = nil
    redis.call('ZREM', TIMERS, joined_by(T.name))
  end
  return due
end

-- Of those with as much as each other, who wins.
local function settle_tie(T, ids, ties, sureness)
  if #ids == 1 then return ids[1], false end
  if ties == 'none' then return nil, true end
  if ties == 'latest' then return ids[#ids], true end
  if ties == 'confidence' then
    local best = ids[1]
    for _, id in ipairs(ids) do
      if (sureness[id] or 0) > (sureness[best] or 0) then best = id end
    end
    return best, true
  end
  return ids[1], true
end

local function most_of(T, ids, votes)
  local best, most = {}, -1
  for _, id in ipairs(ids) do
    local has = votes[id] or 0
    if has > most then best, most = {id}, has elseif has == most then best[#best + 1] = id end
  end
  return best, most
end

local function sureness_of(T)
  local sure = {}
  for _, name in ipairs(T.rules.names) do
    local p = peer_of(T, name)
    local first = p.present and rules_of(T, name).votes > 0 and p.stance and p.stance[1]
    if first and (p.c or 0) > (sure[first] or -1) then sure[first] = p.c or 0 end
  end
  return sure
end

-- Instant run-off: whoever has least is struck, and its votes go to the next on each list, until one has more than half.
local function run_off(T, resolve)
  local left, sure = {}, sureness_of(T)
  for _, id in ipairs(T.sums.proposals) do left[#left + 1] = id end
  while true do
    local votes, cast, standing = {}, 0, {}
    for _, id in ipairs(left) do standing[id] = true end
    for _, name in ipairs(T.rules.names) do
      local p, own = peer_of(T, name), rules_of(T, name)
      if p.present and own.votes > 0 then
        for _, id in ipairs(p.stance or {}) do
          if standing[id] then
            local weight = resolve.weighted and own.votes or 1000
            votes[id], cast = (votes[id] or 0) + weight, cast + weight
            break
          end
        end
      end
    end
    if cast == 0 then return nil, false, votes end
    local best, most = most_of(T, left, votes)
    if most * 2 > cast or #best == #left then
      local id, tie = settle_tie(T, best, resolve.ties, sure)
      return id, tie, votes
    end
    local least, worst = nil, nil
    for _, id in ipairs(left) do
      local has = votes[id] or 0
      local loses = resolve.ties ~= 'latest'
      if resolve.ties == 'confidence' and worst then loses = (sure[id] or 0) <= (sure[worst] or 0) end
      if not least or has < least or has == least and loses then least, worst = has, id end
    end
    local rest = {}
    for _, id in ipairs(left) do if id ~= worst then rest[#rest + 1] = id end end
    left = rest
  end
end

-- What it is decided to be: the proposal, how, whether by a tie's rule, and how many are for each.
local function decide(T, resolve)
  local votes, total = tally(T, resolve and not resolve.weighted)
  local ids = T.sums.proposals
  if not resolve then return nil, '', false, votes end
  if #ids == 0 then
    local of = T.rules.decides and ' that can be decided, which is ' .. table.concat(T.rules.decides, ' or ') or ''
    return nil, 'nothing was proposed' .. of, false, votes
  end
  if resolve.by == 'order' then
    for _, name in ipairs(resolve.order) do
      local p = peer_of(T, name)
      if p.present and p.stance and p.stance[1] then return p.stance[1], 'the word of ' .. name, false, votes end
    end
    return nil, 'none of those whose word counts is for a proposal', false, votes
  elseif resolve.by == 'confidence' then
    local sure = sureness_of(T)
    if not next(sure) then return nil, 'nobody is for any', false, votes end
    local best, most = {}, -1
    for _, id in ipairs(ids) do
      if sure[id] and sure[id] > most then best, most = {id}, sure[id] elseif sure[id] == most then best[#best + 1] = id end
    end
    local id, tie = settle_tie(T, best, resolve.ties, sure)
    return id, string.format('the highest confidence, %.2f', most), tie, votes
  elseif resolve.by == 'ranked' then
    local id, tie, last = run_off(T, resolve)
    return id, 'ranked votes', tie, last
  end
  local cast = 0
  for _, has in pairs(votes) do cast = cast + has end
  if cast == 0 then return nil, 'nobody is for any', false, votes end
  local best, most = most_of(T, ids, votes)
  local how = string.format('%.4g of %.4g votes', most / 1000, total / 1000)
  if most * 1000 <= resolve.need * cast then
    return nil, how .. ', which is not above ' .. resolve.need / 1000 .. ' of those cast', #best > 1, votes
  end
  local id, tie = settle_tie(T, best, resolve.ties, sureness_of(T))
  return id, how, tie, votes
end

local function told_list(list)
  return #list == 0 and '[]' or cjson.encode(list)
end

-- A result with its task, which comes last: one behind a claim check is put in where the result is read, see payload.py.
-- The task may be such a result itself, of a conversation before this one.
local function with_task(text, rec)
  local task = redis.call('HGET', DATA, rec.input)
  text = text .. ',"task":'
  if string.byte(task) == 1 then return '\2' .. string.sub(task, 2) .. '\n}\n' .. text end
  if string.byte(task) ~= 2 then return text .. task .. '}' end
  local blob, closing, inner = string.match(task, '^.([^\n]*)\n(}*)\n(.*)$')
  return '\2' .. blob .. '\n' .. closing .. '}\n' .. text .. inner
end

-- What a conversation gives, as JSON, and the facts of its end.
local function result_of(T, rec, outcome, why, id, how, tie, votes, note)
  local dissent, abstained, counts = {}, {}, {}
  for _, name in ipairs(T.rules.names) do
    local p, own = peer_of(T, name), rules_of(T, name)
    if p.present and own.votes > 0 then
      local first = p.stance and p.stance[1]
      if not first and #T.sums.proposals > 0 then abstained[#abstained + 1] = name
      elseif first and id and first ~= id then dissent[#dissent + 1] = name end
    end
  end
  for _, each in ipairs(T.sums.proposals) do
    if votes[each] then counts[#counts + 1] = '"' .. each .. '":' .. votes[each] / 1000 end
  end
  local decision = 'null'
  if id then
    local env = get(T.key, 'm:' .. id)
    decision = '{"message":' .. id .. ',"by":' .. cjson.encode(env.f) .. ',"type":' .. cjson.encode(env.y) ..
      ',"body":' .. redis.call('HGET', DATA, env.b) .. '}'
  end
  local text = '{"outcome":' .. cjson.encode(outcome) .. ',"why":' .. cjson.encode(why) .. ',"how":' .. cjson.encode(how) ..
    ',"decision":' .. decision .. ',"note":' .. cjson.encode(note or '') .. ',"tie":' .. (tie and 'true' or 'false') ..
    ',"votes":{' .. table.concat(counts, ',') .. '},"dissent":' .. told_list(dissent) .. ',"abstained":' .. told_list(abstained) ..
    ',"messages":' .. T.sums.messages .. ',"turns":' .. T.sums.turns ..
    (rec.degraded and ',"fault":' .. cjson.encode(rec.reason or '') or '')
  return with_task(text, rec), {talk = T.name, outcome = outcome, why = why, how = how, decision = id or nil, tie = tie or nil,
                dissent = #dissent > 0 and dissent or nil}
end

-- Close what members are at. Returns how many there were.
local function close_turns(T)
  local late = 0
  for _, name in ipairs(T.rules.names) do
    local p = peer_of(T, name)
    if p.turn then
      close_member(p.turn)
      changing(T, name)
      p.turn, p.waits, p.ask, late = nil, nil, nil, late + 1
    end
  end
  T.sums.busy = 0
  if late > 0 then end_children() end
  return late
end

local function shut(T, state)
  T.state = state
  redis.call('HSET', T.key, '#state', state)
  redis.call('ZREM', TIMERS, joined_by(T.name))
end

-- It is decided, or it cannot be. Returns what `fail_step` does.
local function finish_talk(T, outcome, why, late, id, how, tie, votes, note)
  local retention_ms = tonumber(redis.call('HGET', RUN, 'retention_ms'))
  local rec, rules = load(T.name), T.rules
  local text, facts = result_of(T, rec, outcome, why, id, how, tie, votes, note)
  shut(T, 'ended')
  redis.call('HDEL', T.key, '#end')
  redis.call('HSET', T.key, '#outcome', outcome, '#why', why)
  flush(T)
  facts.late = late
  emit('ConversationEnded', facts)
  seen[T.name] = nil
  local lacks = outcome ~= 'failed' and rules.resolve and not id
  if outcome == 'failed' or lacks and rules.otherwise == 'fail' then
    local reason = outcome == 'failed' and why or 'no decision was reached: ' .. outcome .. ', ' .. why .. '; ' .. how
    return fail_step(retention_ms, T.name, rec, reason, 'failed', dispatch_ms)
  end
  rec.output = T.name .. '@' .. rec.begins
  redis.call('HSET', DATA, rec.output, text)
  if lacks then rec.degraded, rec.reason = true, rec.reason or 'no decision was reached: ' .. how end
  complete(retention_ms, T.name, rec, nil, dispatch_ms)
  return 'failed'
end

-- It is over: goes to its judge, or is decided at once. Returns what `fail_step` does.
local function end_talk(T, outcome, why, verdict)
  local late, resolve = close_turns(T), T.rules.resolve
  if outcome == 'verdict' then
    return finish_talk(T, outcome, why, late, verdict, 'a verdict', false, (tally(T)))
  elseif outcome == 'consensus' then
    return finish_talk(T, outcome, why, late, T.sums.top, 'consensus', false, (tally(T)))
  elseif outcome == 'failed' then
    return finish_talk(T, outcome, why, late, nil, 'it failed', false, (tally(T)))
  elseif resolve and resolve.by == 'judge' and #T.sums.proposals > 0 then
    shut(T, 'judging')
    local parts = {}
    for i, id in ipairs(T.sums.proposals) do
      local env, of = get(T.key, 'm:' .. id), {}
      for _, name in ipairs(T.rules.names) do
        local p = peer_of(T, name)
        if p.present and p.stance and p.stance[1] == id then of[#of + 1] = name end
      end
      parts[i] = '{"id":' .. id .. ',"by":' .. cjson.encode(env.f) .. ',"type":' .. cjson.encode(env.y) .. ',"body":' ..
        redis.call('HGET', DATA, env.b) .. ',"supporters":' .. told_list(of) .. '}'
    end
    T.sums.judged = (T.sums.judged or 0) + 1
    local root = root_of(T, 'judge', T.sums.judged)
    local value = T.name .. ':judge' .. T.sums.judged
    redis.call('HSET', DATA, value, '{"why":' .. cjson.encode(why) .. ',"proposals":[' .. table.concat(parts, ',') .. ']}')
    redis.call('HSET', T.key, '#end', cjson.encode({outcome = outcome, why = why, late = late}))
    flush(T)
    local entry, first = add_steps(T, root, resolve.steps, {input = value}, 'JudgeCalled',
                                   {outcome = outcome, why = why, late = late})
    start(entry, first, dispatch_ms)
    return 'failed'
  end
  local id, how, tie, votes = decide(T, resolve)
  return finish_talk(T, outcome, why, late, id, how, tie, votes)
end

-- What is around the task of a conversation that is itself a member of another, or a blackboard's source: what that one's
-- own step would be told, were there one.
local function around(name, rec)
  local wake = rec.source and {source = rec.source, changed = rec.changed,
                               number = tonumber(string.match(name, '#(%d+)[^#]*$'))} or nil
  return (rec.mail or wake) and {within = rec.mail, wake = wake} or nil
end

-- Members come and go by their conditions, each of them once: conditions go on holding.
local function move(T)
  for _, name in ipairs(T.rules.names) do
    local own, p = rules_of(T, name), peer_of(T, name)
    if own.joins and not p.present and not p.came and not p.went and held(T, own.joins) then
      changing(T, name).came = true
      join_in(T, name, 'its condition holds')
      if own.greeted then
        local above = load(T.name)
        local env = {k = 'open', f = '', t = {name}, y = T.rules.task, b = above.input, h = 0, v = 0,
                     w = around(T.name, above)}
        deliver(T, name, add_message(T, env), env)
      end
    elseif own.leaves and p.present and not p.leaving and not p.went and held(T, own.leaves) then
      changing(T, name).went = true
      leave(T, name, 'its condition holds')
    end
  end
end

-- After every change: is it over? Returns what `fail_step` does, where it ended it, else nil.
local function check(T)
  if T.state ~= 'open' then return nil end  -- its judge is a flow, and comes to its next step
  count_stances(T)
  if T.rules.moves then
    move(T)
    count_stances(T)
  end
  local parts = T.rules['until'] and held(T, T.rules['until'])
  if parts then return end_talk(T, outcome_of(T, parts)) end
  if T.sums.limit then return end_talk(T, 'limit', T.sums.limit) end
  -- With a silence it waits for who is outside, but not when all that was to pass has passed and it takes more to end it.
  local due = arm(T)
  if T.sums.busy == 0 and not (T.rules.waits and due) then return end_talk(T, 'quiet', 'nobody has anything to do') end
  flush(T)
  return nil
end

-- A conversation's turn has come: those who open it are told the task.
local function open(name, rec, dispatch)
  dispatch_ms = dispatch
  local key, rules = talk_key(name), rec.converses
  settle(rec)
  rec.status, rec.started_ms, rec.begins = 'running', NOW, (rec.begins or 0) + 1
  if rec.source then take_changes(rec) end
  save(name, rec)
  local all, known = cjson.decode(redis.call('HGET', RUN, 'talks') or '[]'), false
  for _, each in ipairs(all) do known = known or each == name end
  if not known then
    all[#all + 1] = name
    redis.call('HSET', RUN, 'talks', cjson.encode(all))
  end
  -- Of one that is opened again nothing stands; its names and numbers are not given twice.
  local before, turns = known and get(key, '#sums') or {}, {}
  for _, own in ipairs(rules.members) do
    local p = known and get(key, 'p:' .. own.name)
    turns[own.name] = p and p.n or 0
  end
  if known then redis.call('DEL', key) end
  local T = {name = name, key = key, state = 'open', peers = {}, touched = {}, of = {}, stanced = true}
  local fixed, fields, present, timed = {names = {}}, {'#state', 'open'}, {}, false
  for field, value in pairs(rules) do if field ~= 'members' then fixed[field] = value end end
  for i, own in ipairs(rules.members) do
    fixed.names[i] = own.name
    own.votes = own.votes or 1000
    T.of[own.name] = own
    fields[#fields + 1], fields[#fields + 2] = 'r:' .. own.name, cjson.encode(own)
    T.peers[own.name] = {present = own.present ~= false, n = turns[own.name], head = 1, tail = 1}
    T.touched[own.name] = true
    if own.present ~= false then present[#present + 1] = own.name end
    timed = timed or own.joins or own.leaves
  end
  fixed.timed = (fixed['until'] or timed) and true or nil
  -- Nobody asks what was used.
  fixed.unpaid = not string.find(cjson.encode(rules), '["spent",', 1, true) or nil
  if fixed.resolve and fixed.resolve.weighted == nil then fixed.resolve.weighted = true end
  if fixed.resolve then fixed.resolve.need, fixed.resolve.ties = fixed.resolve.need or 0, fixed.resolve.ties or 'earliest' end
  fields[#fields + 1], fields[#fields + 2] = '#rules', cjson.encode(fixed)
  -- What a member gives after this is of no use: begin.lua tells it how long it has.
  local cut
  for _, part in ipairs(fixed['until'] and (fixed['until'][1] == 'any' and fixed['until'] or {'any', fixed['until']}) or {}) do
    if part[1] == 'deadline' and (not cut or part[2] < cut) then cut = part[2] end
  end
  if cut then fields[#fields + 1], fields[#fields + 2] = '#deadline', string.format('%d', NOW + cut) end
  redis.call('HSET', key, unpack(fields))
  T.rules = fixed
  T.sums = {messages = before.messages or 0, turns = 0, done = 0, busy = 0, last = NOW, opened = NOW, tokens = 0, cost = 0,
            proposals = {}, verdicts = {}, share = 0, judged = before.judged}
  seen[name] = T
  emit('ConversationOpened', {talk = name, begins = rec.begins, present = present, changed = rec.changed})
  local env = {k = 'open', f = '', t = rules.opening, y = rules.task, b = rec.input, h = 0, v = 0, w = around(name, rec)}
  local id = add_message(T, env)
  for _, each in ipairs(rules.opening) do deliver(T, each, id, env) end
  count_stances(T)
  arm(T)
  if T.sums.limit then
    -- It ends by its timer, and not within whatever is going on here.
    T.sums.armed = NOW
    redis.call('ZADD', TIMERS, NOW, joined_by(name))
  end
  flush(T)
end

-- It is of no use any more: the run, or the member of a fan-out that it is, has ended.
local function close(name, rec)
  if rec.status ~= 'running' then return end
  local T = state_of(name)
  if not T.rules or T.state == 'ended' then return end
  local judge = T.state == 'judging' and root_of(T, 'judge', T.sums.judged)
  shut(T, 'ended')
  redis.call('HDEL', T.key, '#end')
  redis.call('HSET', T.key, '#outcome', 'closed', '#why', 'the others went on without it')
  local late = close_turns(T)
  if judge then close_member(judge .. (T.rules.resolve.steps[1].name == '' and '' or '/' .. T.rules.resolve.steps[1].name)) end
  flush(T)
  emit('ConversationEnded', {talk = name, outcome = 'closed', why = 'the others went on without it', late = late})
  seen[name] = nil
end

-- What a step has used counts for all conversations that it is within, as far as it did not before: a gate may send it
-- back, and it ends once more.
local charged = {}
local function charge(step, rec)
  local at = rec
  while at do
    local above = at.talk or at.board or at.fan
    local T = at.talk and state_of(above)
    if T and T.rules and T.state == 'open' and not T.rules.unpaid then
      local before = get(T.key, 'u:' .. step) or {0, 0}
      local tokens, cost = rec.tokens or 0, rec.cost or 0
      T.sums.tokens, T.sums.cost = T.sums.tokens + tokens - before[1], T.sums.cost + cost - before[2]
      redis.call('HSET', T.key, 'u:' .. step, cjson.encode({tokens, cost}))
      flush(T)
      charged[#charged + 1], talks_charged = above, true
    end
    at = above and load(above)
  end
end

-- Is a conversation over by what those within its turns have used? Returns what `fail_step` does, else nil.
local function spent(dispatch)
  dispatch_ms, talks_charged = dispatch, false
  local names, ended = charged, nil
  charged = {}
  for i = #names, 1, -1 do
    local T = state_of(names[i])
    if T.rules and T.state == 'open' then ended = check(T) or ended end
  end
  return ended
end

-- The judge has spoken, or cannot. Returns what `fail_step` does.
local function judged(T, rec, fault)
  local ending = get(T.key, '#end')
  local votes = tally(T)
  if fault then
    return finish_talk(T, ending.outcome, ending.why, ending.late, nil, 'its judge failed: ' .. fault, false, votes)
  end
  local stored = redis.call('HGET', DATA, rec.output)
  if string.byte(stored) == 1 then
    local how = 'what its judge says is too long to be read'
    return finish_talk(T, ending.outcome, ending.why, ending.late, nil, how, false, votes)
  end
  local ruling = cjson.decode(stored)
  local id = type(ruling) == 'table' and tonumber(ruling.proposal)
  if not id or not known_proposal(T, id) then
    local how = id and 'its judge chose proposal ' .. id .. ', which there is not' or 'its judge chose none'
    return finish_talk(T, ending.outcome, ending.why, ending.late, nil, how, false, votes, ruling.why)
  end
  local how = 'a judge' .. (rec.degraded and ', or what stands in for it' or '')
  return finish_talk(T, ending.outcome, ending.why, ending.late, id, how, false, votes, ruling.why)
end

-- A member's turn has ended: its reply reaches who asked, its next message is due. Returns what `fail_step` does.
local function turn_ended(step, rec, fault, dispatch)
  dispatch_ms = dispatch
  local T = state_of(rec.talk)
  if T.state == 'judging' then return judged(T, rec, fault) end
  local first = rec.member == step and rec or load(rec.member)
  local name, mail, sums = first.peer, first.mail, T.sums
  local p = changing(T, name)
  p.turn, p.waits, p.ask = nil, nil, nil
  sums.busy, sums.done = sums.busy - 1, sums.done + 1
  if mail.kind == 'ask' then
    if fault then
      end_children()
      answer(T, mail.id, name, {why = 'failed', reason = fault})
    elseif redis.call('HGET', DATA, rec.output) == 'null' then
      answer(T, mail.id, name, {why = 'declined'})
    else
      local env = {k = 'reply', f = name, t = {mail.sender}, y = rec.says or '', b = rec.output, r = mail.id, p = step,
                   h = mail.hops + 1, v = 0}
      local id = add_message(T, env)
      answer(T, mail.id, name, {m = id, b = rec.output, y = rec.says or ''})
    end
  elseif fault then
    end_children()
    if T.rules.otherwise == 'fail' then return end_talk(T, 'failed', step .. ': ' .. fault) end
    local above = load(T.name)
    above.degraded, above.reason = true, above.reason or step .. ': ' .. fault
    save(T.name, above)
    give_back(T, mail.id, get(T.key, 'm:' .. mail.id), name, 'failed', fault)
  end
  if p.leaving then leave(T, name, p.leaving) end
  next_turn(T, name)
  return check(T) or 'failed'
end

-- A conversation's timer has rung. Returns what `join` does.
local function due(name, rec, status, dispatch)
  dispatch_ms = dispatch
  local T = state_of(name)
  if not status or not live(status) or rec.status ~= 'running' or T.state ~= 'open' then
    redis.call('ZREM', TIMERS, joined_by(name))
    return 'closed'
  end
  T.sums.armed = nil
  redis.call('ZREM', TIMERS, joined_by(name))
  return check(T) and 'joined' or 'early'
end

talk_made = {
  open = open, close = close, turn_ended = turn_ended, due = due, state_of = state_of, say = say, check = check,
  expire = expire, flush = flush, charge = charge, spent = spent,
  dispatch = function(ms) dispatch_ms = ms end,
}
return talk_made
end
