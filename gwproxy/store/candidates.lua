-- The candidate: a configuration beside the live one, at most one at a time. Each change of it is one step.
--
-- Runs behind revisions.lua, which is there as revise(KEYS, ARGV).
--
-- KEYS     routes, revision, history, candidate, candidate_last
-- ARGV[1]  look:    the store's clock is all it needs
--          start:   id, sha1 of the live configuration, its revision, lease, channel, then the candidate's other fields and their values
--          renew:   id, lease
--          change:  id, channel, then fields and their new values
--          report:  id, worker, number of the report, milliseconds between two judgements, then counters and what to add to each
--          finish:  id, channel, outcome, reason, by, at
--          settle:  as finish, but only if it is void
--          publish: as finish, then what revisions.lua's publish takes after the configuration
--          show, last: nothing
-- A lease is in milliseconds; '' has no end.
--
-- A candidate is void when the configuration that it was made from is live no more, or its lease has run out.

local routes, counter, candidate, last = KEYS[1], KEYS[2], KEYS[4], KEYS[5]
local KEPT = 7 * 86400 * 1000 -- milliseconds a candidate is kept that no worker asks for; its end is kept four times as long

local function now()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end

local function int(number)
  return string.format('%.0f', number)
end

-- Returns '' for a missing or empty configuration.
local function fingerprint()
  local live = redis.call('GET', routes)
  return (live and live ~= '') and redis.sha1hex(live) or ''
end

-- Returns '', 'superseded' or 'expired'.
local function void(live)
  local made = redis.call('HMGET', candidate, 'live', 'base', 'until')
  if made[1] ~= live or tonumber(made[2]) ~= tonumber(redis.call('GET', counter) or 0) then return 'superseded' end
  if made[3] and now() > tonumber(made[3]) then return 'expired' end
  return ''
end

-- What is in its place and no candidate (somebody has SET the key) must not keep workers from the live configuration.
local function look()
  local live = fingerprint()
  local found = redis.pcall('HMGET', candidate, 'id', 'version')
  if found.err or not found[1] then return {live, '', '', ''} end
  return {live, found[1], found[2] or '0', void(live)}
end

local function is(id)
  return redis.call('HGET', candidate, 'id') == id
end

local function set(lease)
  if lease == '' then
    redis.call('PEXPIRE', candidate, KEPT)
  else
    redis.call('HSET', candidate, 'until', int(now() + lease))
    redis.call('PEXPIRE', candidate, int(lease + 60000))
  end
end

local function tell(channel, id)
  redis.call('PUBLISH', channel, '{"candidate":"' .. id .. '"}')
end

-- Returns names and values, without the configuration itself.
local function fields(pattern)
  local names, found = {}, {}
  for _, name in ipairs(redis.call('HKEYS', candidate)) do
    if name ~= 'data' and string.find(name, pattern) then names[#names + 1] = name end
  end
  if #names == 0 then return found end
  for i, value in ipairs(redis.call('HMGET', candidate, unpack(names))) do
    found[#found + 1], found[#found + 2] = names[i], value
  end
  return found
end

local function start()
  local id, live, base, lease, channel = unpack(ARGV, 2)
  if fingerprint() ~= live or tonumber(redis.call('GET', counter) or 0) ~= tonumber(base) then return {'moved'} end
  local found = redis.call('HMGET', candidate, 'id', 'mode', 'actor', 'at')
  if found[1] and void(live) == '' then return {'busy', unpack(found)} end
  redis.call('DEL', candidate)
  redis.call('HSET', candidate, 'id', id, 'version', 1, 'live', live, 'base', base, 'began', int(now()), unpack(ARGV, 7))
  set(lease)
  tell(channel, id)
  return {'done'}
end

local function renew()
  local id, lease = unpack(ARGV, 2)
  if not is(id) or void(fingerprint()) ~= '' then return {'gone'} end
  set(lease)
  return {'done'}
end

local function change()
  local id, channel = unpack(ARGV, 2)
  if not is(id) then return {'gone'} end
  redis.call('HSET', candidate, unpack(ARGV, 4))
  redis.call('HINCRBY', candidate, 'version', 1)
  tell(channel, id)
  return {'done'}
end

-- A report whose answer was lost comes again under the same number, and counts once.
local function report()
  local id, worker, number, between = unpack(ARGV, 2)
  if not is(id) then return {'gone'} end
  local seen = 'seen:' .. worker
  if tonumber(number) > tonumber(redis.call('HGET', candidate, seen) or 0) then
    redis.call('HSET', candidate, seen, number)
    for i = 6, #ARGV, 2 do redis.call('HINCRBY', candidate, 'n:' .. ARGV[i], ARGV[i + 1]) end
  end
  if not redis.call('HGET', candidate, 'until') then set('') end
  local clock = now()
  if clock - tonumber(redis.call('HGET', candidate, 'judged') or 0) < tonumber(between) then return {'done'} end
  redis.call('HSET', candidate, 'judged', int(clock))
  return {'judge', clock - tonumber(redis.call('HGET', candidate, 'began')), fields('^n:')}
end

local function close(revision)
  local id, channel, outcome, reason, by, at = unpack(ARGV, 2)
  local kept = redis.call('HMGET', candidate, 'mode', 'digest', 'base', 'actor', 'comment', 'share', 'rules', 'at')
  local numbers = {}
  local counted = fields('^n:')
  for i = 1, #counted, 2 do numbers[string.sub(counted[i], 3)] = tonumber(counted[i + 1]) end
  redis.call('DEL', last)
  redis.call('HSET', last, 'id', id, 'outcome', outcome, 'reason', reason, 'by', by, 'at', at, 'revision', revision,
    'numbers', cjson.encode(numbers))
  for i, name in ipairs({'mode', 'digest', 'base', 'actor', 'comment', 'share', 'rules', 'started'}) do
    redis.call('HSET', last, name, kept[i] or '')
  end
  redis.call('PEXPIRE', last, 4 * KEPT)
  redis.call('DEL', candidate)
  tell(channel, id)
  return {'done', revision}
end

local function publish()
  if not is(ARGV[2]) or void(fingerprint()) ~= '' then return {'gone'} end
  local told = {'publish', redis.call('HGET', candidate, 'data'), unpack(ARGV, 8)}
  local reply = revise({KEYS[1], KEYS[2], KEYS[3]}, told)
  if reply[1] ~= 'done' then return {'gone'} end
  return close(reply[2])
end

local steps = {
  look = look,
  start = start,
  renew = renew,
  change = change,
  report = report,
  publish = publish,
  finish = function() return is(ARGV[2]) and close('') or {'gone'} end,
  settle = function() return is(ARGV[2]) and void(fingerprint()) ~= '' and close('') or {'gone'} end,
  show = function() return fields('') end,
  last = function() return redis.call('HGETALL', last) end,
}
return steps[ARGV[1]]()
