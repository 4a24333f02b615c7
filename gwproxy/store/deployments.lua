-- Changes the deployment, which is the set of pushed wheels that is live, its history and what is revoked, each in one step.
--
-- KEYS     plugins, plugins_revision, plugins_history, plugins_revoked, then those of wheels, which end with their sha256
-- ARGV[1]  publish: deployment, action, distribution, version, actor, comment, at, revision and sha1 of the deployment that it was
--                   made from (0 and '': there was none), how many of the wheels' keys it needs (the first), channel
--          revoke:  as publish, a deployment of '' changes none; then how it is revoked (JSON), and what
--          put:     names and values of a wheel, the only one
--          look:    nothing
-- returns  {'done', revision}
--          {'done'}  put
--          {'done', revision, the live deployment or ''}  look
--          {'conflict', revision, actor, at}  another deployment is live
--          {'missing', sha256}  a wheel that it needs is not in the store any more
--
-- A wheel is kept while the live deployment or one of the newest entries of the history names it, and a week longer.

local plugins, counter, history, revoked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local CHANGES = 1000 -- entries of the history
local NAMED = 20 -- of these, so many keep what they name
local WEEK = 7 * 86400 * 1000

local function newest(count)
  local found = {}
  for i, entry in ipairs(redis.call('XREVRANGE', history, '+', '-', 'COUNT', count)) do
    found[i] = {}
    for j = 1, #entry[2], 2 do found[i][entry[2][j]] = entry[2][j + 1] end
  end
  return found
end

-- The counter may have been deleted or set back: a revision is higher than any before all the same.
local function current(last)
  return math.max(tonumber(redis.call('GET', counter) or 0) or 0, tonumber(last.revision or 0) or 0)
end

local function record(revision, at, action, distribution, version, deployment, actor, comment)
  redis.call('SET', counter, string.format('%.0f', revision))
  redis.call('XADD', history, 'MAXLEN', '=', CHANGES, '*', 'revision', string.format('%.0f', revision), 'action', action,
    'distribution', distribution, 'version', version, 'deployment', deployment, 'at', at, 'actor', actor, 'comment', comment)
end

local function keep()
  local naming = {redis.call('GET', plugins) or ''}
  for _, entry in ipairs(newest(NAMED)) do naming[#naming + 1] = entry.deployment or '' end
  local names = table.concat(naming, '\n')
  for i = 5, #KEYS do
    if string.find(names, string.sub(KEYS[i], -64), 1, true) then
      redis.call('PERSIST', KEYS[i])
    elseif redis.call('PTTL', KEYS[i]) == -1 then
      redis.call('PEXPIRE', KEYS[i], WEEK)
    end
  end
end

local function publish()
  local deployment, action, distribution, version, actor, comment, at, expected, base, needed, channel = unpack(ARGV, 2)
  local live, last = redis.call('GET', plugins) or '', newest(1)[1] or {}
  local revision = current(last)
  local made_from = live ~= '' and redis.sha1hex(live) or ''
  if made_from ~= base or tonumber(expected) ~= revision then
    return {'conflict', revision, last.actor or '', last.at or ''}
  end
  for i = 5, 4 + tonumber(needed) do
    if redis.call('EXISTS', KEYS[i]) == 0 then return {'missing', string.sub(KEYS[i], -64)} end
  end
  if live ~= '' and live ~= last.deployment then -- somebody's bare SET: it is not lost
    revision = revision + 1
    record(revision, at, 'set', '', '', live, 'external', '')
  end
  revision = revision + 1
  redis.call('SET', plugins, deployment)
  record(revision, at, action, distribution, version, deployment, actor, comment)
  keep()
  redis.call('PUBLISH', channel, string.format('{"plugins":%.0f}', revision))
  return {'done', revision}
end

-- Together: between the two, workers would be told to run what they must not.
local function revoke()
  local reply = {'done', current(newest(1)[1] or {})}
  if ARGV[2] ~= '' then reply = publish() end
  if reply[1] ~= 'done' then return reply end
  for i = 14, #ARGV do redis.call('HSET', revoked, ARGV[i], ARGV[13]) end
  redis.call('PUBLISH', ARGV[12], '{"plugins":"revoked"}')
  return reply
end

-- One that is named already stays as long as it is.
local function put()
  local stays = redis.call('PTTL', KEYS[5]) == -1
  redis.call('HSET', KEYS[5], unpack(ARGV, 2))
  if not stays then redis.call('PEXPIRE', KEYS[5], WEEK) end
  return {'done'}
end

local function look()
  return {'done', current(newest(1)[1] or {}), redis.call('GET', plugins) or ''}
end

return ({publish = publish, revoke = revoke, put = put, look = look})[ARGV[1]]()
