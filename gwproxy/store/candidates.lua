-- The candidate: a configuration or a deployment beside the live one, at most one at a time. Each change of it is one step.
--
-- Runs behind revisions.lua and deployments.lua, which are there as revise(KEYS, ARGV) and deploy(KEYS, ARGV).
--
-- KEYS     routes, revision, history, candidate, candidate_last, the four of deployments.lua, and for publish those of wheels
-- ARGV[1]  look:    the store's clock is all it needs
--          start:   id, sha1 of the live configuration, its revision, lease, channel, sha1 of the live deployment, its revision ('':
--                   whichever is live), then the candidate's other fields and their values
--          renew:   id, lease
--          change:  id, channel, then fields and their new values
--          report:  id, worker, number of the report, milliseconds between two judgements, then counters and what to add to each
--          finish:  id, channel, outcome, reason, by, at
--          settle:  as finish, but only if it is void
--          publish: as finish, then what publish of revisions.lua or deployments.lua takes after the configuration or deployment
--          show, last: nothing
-- A lease is in milliseconds; '' has no end.
--
-- A candidate is void when the configuration or the deployment that it was made from is live no more, or its lease has run out.

local routes, counter, candidate, last, plugins, deployed, revoked = KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[9]
local KEPT = 7 * 86400 * 1000 -- milliseconds a candidate is kept that no worker asks for; its end is kept four times as long

local function now()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end

local function int(number)
  return string.format('%.0f', number)
end

-- Returns '' for what is missing or empty.
local function fingerprint(key)
  local live = redis.call('GET', key)
  return (live and live ~= '') and redis.sha1hex(live) or ''
end

local function number(key)
  return tonumber(redis.call('GET', key) or 0)
end

-- Returns '', 'superseded' or 'expired'.
local function void()
  local made = redis.call('HMGET', candidate, 'live', 'base', 'until', 'plugins', 'plugins_base')
  if made[1] ~= fingerprint(routes) or tonumber(made[2]) ~= number(counter) then return 'superseded' end
  if made[4] and (made[4] ~= fingerprint(plugins) or tonumber(made[5]) ~= number(deployed)) then return 'superseded' end
  if made[3] and now() > tonumber(made[3]) then return 'expired' end
  return ''
end

-- What is in its place and no candidate (somebody has SET the key) must not keep workers from the live configuration.
local function look()
  local gone = redis.call('HKEYS', revoked)
  table.sort(gone)
  local live = {fingerprint(plugins), #gone > 0 and redis.sha1hex(table.concat(gone, '\n')) or ''}
  local found = redis.pcall('HMGET', candidate, 'id', 'version')
  if found.err or not found[1] then return {fingerprint(routes), '', '', '', unpack(live)} end
  return {fingerprint(routes), found[1], found[2] or '0', void(), unpack(live)}
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
  local id, live, base, lease, channel, deployment, revision = unpack(ARGV, 2)
  if fingerprint(routes) ~= live or number(counter) ~= tonumber(base) then return {'moved'} end
  if revision == '' then deployment, revision = fingerprint(plugins), int(number(deployed)) end
  if fingerprint(plugins) ~= deployment or number(deployed) ~= tonumber(revision) then return {'redeployed'} end
  local found = redis.call('HMGET', candidate, 'id', 'mode', 'actor', 'at')
  if found[1] and void() == '' then return {'busy', unpack(found)} end
  redis.call('DEL', candidate)
  redis.call('HSET', candidate, 'id', id, 'version', 1, 'live', live, 'base', base, 'began', int(now()),
    'plugins', deployment, 'plugins_base', revision, unpack(ARGV, 9))
  set(lease)
  tell(channel, id)
  return {'done', tonumber(revision)}
end

local function renew()
  local id, lease = unpack(ARGV, 2)
  if not is(id) or void() ~= '' then return {'gone'} end
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
  local kept = redis.call('HMGET', candidate, 'mode', 'digest', 'base', 'actor', 'comment', 'share', 'rules', 'at',
    'deployment', 'plugins_base', 'action', 'distribution', 'wheel_version')
  local numbers = {}
  local counted = fields('^n:')
  for i = 1, #counted, 2 do numbers[string.sub(counted[i], 3)] = tonumber(counted[i + 1]) end
  redis.call('DEL', last)
  redis.call('HSET', last, 'id', id, 'outcome', outcome, 'reason', reason, 'by', by, 'at', at, 'revision', revision,
    'numbers', cjson.encode(numbers))
  for i, name in ipairs({'mode', 'digest', 'base', 'actor', 'comment', 'share', 'rules', 'started',
    'deployment', 'plugins_base', 'action', 'distribution', 'wheel_version'}) do
    redis.call('HSET', last, name, kept[i] or '')
  end
  redis.call('PEXPIRE', last, 4 * KEPT)
  redis.call('DEL', candidate)
  tell(channel, id)
  return {'done', revision}
end

local function publish()
  if not is(ARGV[2]) or void() ~= '' then return {'gone'} end
  local deployment = redis.call('HGET', candidate, 'deployment')
  local reply
  if deployment and deployment ~= '' then
    reply = deploy({unpack(KEYS, 6)}, {'publish', deployment, unpack(ARGV, 8)})
    if reply[1] == 'missing' then return reply end
  else
    reply = revise({KEYS[1], KEYS[2], KEYS[3]}, {'publish', redis.call('HGET', candidate, 'data'), unpack(ARGV, 8)})
  end
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
  settle = function() return is(ARGV[2]) and void() ~= '' and close('') or {'gone'} end,
  show = function() return fields('') end,
  last = function() return redis.call('HGETALL', last) end,
}
return steps[ARGV[1]]()
