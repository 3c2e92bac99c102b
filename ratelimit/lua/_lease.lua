-- What is in flight: leases that end by themselves. Needs _scope.lua and _clock.lua.
-- A sorted set says when each lease ends, a hash what it holds: when it began (empty: unknown), then limit, units, due
-- of each limit.

-- units come back. Those of a call that had started call up the next in line; those of a place in line only lower what
-- is owed, for whoever stands before it must not start early
local function release(n, at, units, due, held)
  if due <= n[at + CLOCK] + EPSILON * math.max(1, math.abs(due)) then
    if held then
      local mean = n[at + BURST] / n[at + RATE]
      n[at + RATE] = n[at + BURST] / math.max(0.001, mean + 0.1 * (held - mean))
    end
    pour(n, at, units)
  else
    n[at + LEVEL] = math.min(n[at + BURST], n[at + LEVEL] + units)
    call_up(n, at)
  end
end

-- whether the lease was still there
local function end_lease(key, names, n, number, over)
  local held = sibling(key, 'held')
  local raw = redis.call('HGET', held, number)
  if not raw then
    return false
  end
  redis.call('HDEL', held, number)
  redis.call('ZREM', sibling(key, 'leases'), number)
  local words, places = {}, places_of(names)
  for word in string.gmatch(raw, '[^ ]+') do
    words[#words + 1] = word
  end
  local began = tonumber(words[1])
  for i = 2, #words, 3 do
    local at = places[words[i]]
    if at and n[at + KIND] == IN_FLIGHT then
      local since = over and began and math.max(0, n[AT] - began) or nil
      release(n, at, tonumber(words[i + 1]), tonumber(words[i + 2]), since)
    end
  end
  return true
end

local function write_lease(key, number, ends, began, words)
  redis.call('ZADD', sibling(key, 'leases'), text(ends), number)
  redis.call('HSET', sibling(key, 'held'), number, began .. ' ' .. table.concat(words, ' '))
end

-- the lease of a place that waits so long; its number, 0 if nothing is held. cost, due by the limit's place
local function take_lease(key, names, n, wait, cost, due)
  local words, at = {}, HEAD
  for name in string.gmatch(names, '[^ ]+') do
    if n[at + KIND] == IN_FLIGHT and cost[at] then
      for _, word in ipairs({name, text(cost[at]), text(due[at])}) do
        words[#words + 1] = word
      end
    end
    at = at + WIDTH
  end
  if #words == 0 then
    return 0
  end
  n[LEASED] = n[LEASED] + 1
  local begins = n[AT] + math.min(wait, DAY_S)
  write_lease(key, text(n[LEASED]), begins + lease_s(n), text(begins), words)
  return n[LEASED]
end

local function renew_lease(key, n, number, wait)
  redis.call('ZADD', sibling(key, 'leases'), text(n[AT] + math.min(wait, DAY_S) + (lease_s(n) or 0)), number)
end

-- what nobody renews is given back
local function sweep(key, names, n)
  for _, number in ipairs(redis.call('ZRANGEBYSCORE', sibling(key, 'leases'), '-inf', text(n[AT]))) do
    end_lease(key, names, n, number, false)
  end
end
