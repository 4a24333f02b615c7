-- Takes one from a counter, or refuses; a refused request changes nothing.
--
-- KEYS[1]  the counter, a hash; field "a" names the algorithm that wrote it
-- ARGV     algorithm, limit, window in microseconds
-- returns  allowed (0 or 1), remaining, milliseconds until whole again, milliseconds until one more would be allowed
--
-- The clock is the server's. gwproxy/store/local_counters.py decides the same in a worker's memory: change both.

local key, algorithm = KEYS[1], ARGV[1]
local limit, window = tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function int(number)
  return string.format('%.0f', number) -- tostring() keeps 14 digits, a time in microseconds has 16
end

local function keep(microseconds)
  redis.call('PEXPIRE', key, int(math.max(1, math.ceil(microseconds / 1000))))
end

local function answer(allowed, remaining, reset, retry)
  return {allowed and 1 or 0, math.max(0, remaining), math.ceil(math.max(0, reset) / 1000), math.ceil(math.max(0, retry) / 1000)}
end

-- A window begins with the first request in it. Up to twice the limit can pass around the end of one.
local function fixed_window()
  local state = redis.call('HMGET', key, 'a', 'n', 'e')
  local count, ends = 0, now + window
  if state[1] == 'f' and tonumber(state[3]) > now then
    count, ends = tonumber(state[2]), math.min(tonumber(state[3]), ends)
  end
  local allowed = count < limit
  if allowed then
    count = count + 1
    if state[1] and state[1] ~= 'f' then redis.call('DEL', key) end
    redis.call('HSET', key, 'a', 'f', 'n', int(count), 'e', int(ends))
    keep(ends - now)
  end
  return answer(allowed, limit - count, ends - now, count < limit and 0 or ends - now)
end

-- The window is cut in 60 slices, and a slice counts until all of it is older than the window: never more than the
-- limit in any window, at most 61 fields a key, and a place is given back at most a slice late.
local SLICES = 60

local function sliding_window()
  local size = math.ceil(window / SLICES)
  local current = math.floor(now / size)
  local counts, order, past, total = {}, {}, {}, 0
  local state = redis.call('HGETALL', key)
  local fields = {}
  for i = 1, #state, 2 do fields[state[i]] = state[i + 1] end
  local ours = fields.a == 's' and tonumber(fields.g) == size
  for field, value in pairs(ours and fields or {}) do
    local slice = tonumber(field)
    if slice and slice >= current - SLICES then
      if slice > current then -- the clock went back
        past[#past + 1] = field
        slice = current
      end
      if not counts[slice] then order[#order + 1] = slice end
      counts[slice] = (counts[slice] or 0) + tonumber(value)
      total = total + tonumber(value)
    elseif slice then
      past[#past + 1] = field
    end
  end
  local allowed = total < limit
  if allowed then
    if not counts[current] then order[#order + 1] = current end
    counts[current] = (counts[current] or 0) + 1
    total = total + 1
    if not ours then redis.call('DEL', key) end
    if #past > 0 then redis.call('HDEL', key, unpack(past)) end
    redis.call('HSET', key, 'a', 's', 'g', int(size), int(current), int(counts[current]))
    keep((SLICES + 1) * size)
  end
  table.sort(order)
  local function leaves(slice) return (slice + SLICES + 1) * size - now end
  local retry, left = 0, total
  for _, slice in ipairs(order) do
    if left < limit then break end
    left = left - counts[slice]
    retry = leaves(slice)
  end
  return answer(allowed, limit - total, leaves(order[#order]), retry)
end

-- A bucket of `limit` tokens that fills evenly, in one window from empty to full. A burst of the limit, then its rate.
local function token_bucket()
  local state = redis.call('HMGET', key, 'a', 'k', 't')
  local tokens = limit
  if state[1] == 't' then
    tokens = math.min(limit, tonumber(state[2]) + math.max(0, now - tonumber(state[3])) * limit / window)
  end
  local allowed = tokens >= 1 - 1e-9
  if allowed then
    tokens = math.max(0, tokens - 1)
    if state[1] and state[1] ~= 't' then redis.call('DEL', key) end
    redis.call('HSET', key, 'a', 't', 'k', string.format('%.17g', tokens), 't', int(now))
    keep((limit - tokens) * window / limit)
  end
  local retry = tokens >= 1 - 1e-9 and 0 or (1 - tokens) * window / limit
  return answer(allowed, math.floor(tokens + 1e-9), (limit - tokens) * window / limit, retry)
end

if algorithm == 'sliding_window' then return sliding_window() end
if algorithm == 'token_bucket' then return token_bucket() end
return fixed_window()
