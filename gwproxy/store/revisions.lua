-- Changes the live configuration and its history, each in one step.
--
-- KEYS     routes, revision, history, and with note audit
-- ARGV[1]  publish: configuration, sha256, actor, comment, expected revision or '', how many to keep, for how many ms (0: for ever), channel
--          seed:    as publish, but only if there are no routes
--          note:    sha1 of the configuration, its sha256, how many to keep, for how many ms, how many entries of the audit to keep, about
--          look:    nothing
-- returns  {'done', revision}
--          {'done', revision, 1 if the live configuration is that revision, the live configuration or ''}  look
--          {'absent'}  note: the live configuration is another one, and this one is not in the history
--          {'conflict', revision, actor, at}
--          {'present', revision}  seed: there are routes already
--          {'unnoted', configuration}  the live one was SET by somebody and has no revision yet: note it first

local routes, counter, history = KEYS[1], KEYS[2], KEYS[3]

local function fields_of(entry)
  local fields = {}
  for i = 1, #entry, 2 do fields[entry[i]] = entry[i + 1] end
  return fields
end

local function newest()
  local entry = redis.call('XREVRANGE', history, '+', '-', 'COUNT', 1)[1]
  return entry and fields_of(entry[2]) or {}
end

-- The counter may have been deleted or set back: a revision is higher than any before all the same.
local function current(last)
  return math.max(tonumber(redis.call('GET', counter) or 0) or 0, tonumber(last.revision or 0) or 0)
end

local function iso(seconds, microseconds)
  local days, rest = math.floor(seconds / 86400), seconds % 86400
  -- days to year, month and day, with years that begin in March (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms")
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local day_of_era = shifted - era * 146097
  local year_of_era = math.floor(
    (day_of_era - math.floor(day_of_era / 1460) + math.floor(day_of_era / 36524) - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local shifted_month = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * shifted_month + 2) / 5) + 1
  local month = shifted_month < 10 and shifted_month + 3 or shifted_month - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day,
    math.floor(rest / 3600), math.floor(rest % 3600 / 60), rest % 60, microseconds)
end

-- What is added is the live one, and neither bound takes the newest entry: there is no MAXLEN below 1, and its id is not
-- below the store's time. Returns when that is. Not '~', which would keep a hundred small ones more, or any number of old ones.
local function record(revision, digest, actor, comment, configuration, keep, lifetime)
  local clock = redis.call('TIME')
  local at = iso(tonumber(clock[1]), tonumber(clock[2]))
  redis.call('SET', counter, string.format('%.0f', revision))
  redis.call('XADD', history, 'MAXLEN', '=', math.max(1, tonumber(keep)), '*', 'revision', string.format('%.0f', revision),
    'digest', digest, 'at', at, 'actor', actor, 'comment', comment,
    'configuration', configuration)
  if tonumber(lifetime) > 0 then
    local oldest = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) - tonumber(lifetime)
    if oldest > 0 then redis.call('XTRIM', history, 'MINID', '=', string.format('%.0f', oldest)) end
  end
  return at
end

local function publish(only_if_absent)
  local configuration, digest, actor, comment, expected, keep, lifetime, channel = unpack(ARGV, 2)
  local live, last = redis.call('GET', routes), newest()
  if live == '' then live = false end
  if live and only_if_absent then return {'present', current(last)} end
  if live and live ~= last.configuration then return {'unnoted', live} end
  local revision = current(last)
  if expected ~= '' and tonumber(expected) ~= revision then
    return {'conflict', revision, last.actor or '', last.at or ''}
  end
  revision = revision + 1
  redis.call('SET', routes, configuration)
  record(revision, digest, actor, comment, configuration, keep, lifetime)
  redis.call('PUBLISH', channel, string.format('{"revision":%.0f,"digest":"%s"}', revision, digest))
  return {'done', revision}
end

-- In the step that numbers it: whoever is the first to note a change, the audit stream has it once.
local function audit(revision, digest, at, kept)
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', kept, '*', 'at', at, 'actor', 'external', 'action', 'set', 'outcome', 'done',
    'revision', string.format('%.0f', revision), 'detail', 'the key was written directly, digest ' .. string.sub(digest, 1, 12))
end

local function note()
  local hash, digest, keep, lifetime, audited = unpack(ARGV, 2)
  local last = newest()
  local revision = current(last)
  if last.digest == digest then
    if revision ~= tonumber(redis.call('GET', counter) or 0) then redis.call('SET', counter, string.format('%.0f', revision)) end
    return {'done', tonumber(last.revision)}
  end
  local live = redis.call('GET', routes)
  if live and live ~= '' and redis.sha1hex(live) == hash then
    local at = record(revision + 1, digest, 'external', '', live, keep, lifetime)
    audit(revision + 1, digest, at, audited)
    return {'done', revision + 1}
  end
  for _, entry in ipairs(redis.call('XREVRANGE', history, '+', '-', 'COUNT', 20)) do
    local fields = fields_of(entry[2])
    if fields.digest == digest then return {'done', tonumber(fields.revision)} end
  end
  return {'absent'}
end

local function look()
  local live, last = redis.call('GET', routes) or '', newest()
  return {'done', current(last), (live == '' or live == last.configuration) and 1 or 0, live}
end

if ARGV[1] == 'look' then return look() end
if ARGV[1] == 'note' then return note() end
return publish(ARGV[1] == 'seed')
