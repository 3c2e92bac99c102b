-- Reading and writing scopes around a verb. Needs _quota.lua and _wait.lua.

-- the scopes of a chain, innermost first, each brought to its instant; nothing if one of them is not configured
local function begin(count, now)
  local chain = {}
  now = instant(now)
  for i = 1, count do
    local names, n = read_scope(KEYS[i])
    if not names then
      return nil
    end
    chain[i] = {key = KEYS[i], names = names, n = n}
  end
  for _, scope in ipairs(chain) do
    if scope.n[ENDS] ~= 0 and now >= scope.n[ENDS] then
      scope.names, scope.n = revert(scope.key, scope.names, scope.n)
    end
    refill(scope.n, now)
    sweep(scope.key, scope.names, scope.n)
    scope.n[CALLS] = scope.n[CALLS] + 1
  end
  return chain
end

-- the instant of the call
local function instant_of(chain)
  local latest = 0
  for _, scope in ipairs(chain) do
    latest = math.max(latest, scope.n[AT])
  end
  return latest
end

local function count_up(chain, counter, by)
  for _, scope in ipairs(chain) do
    scope.n[counter] = scope.n[counter] + by
  end
end

-- when a passing scope is as new: full, open, and nothing in flight
local function life_ms(n)
  local owed = {}
  for at = HEAD, #n - 1, WIDTH do
    owed[at] = n[at + BURST] - n[at + LEVEL]
  end
  local wait = wait_for(n, owed) + (lease_s(n) or 0)
  return wait < 8e12 and math.ceil(wait * 1000) + 60000 or nil
end

local function write(scope)
  local raw = state(scope.names, scope.n)
  local life = scope.n[PASSING] == 1 and life_ms(scope.n)
  if life then
    redis.call('SET', scope.key, raw, 'PX', text(life))
  else
    redis.call('SET', scope.key, raw)
  end
  return raw
end

-- the states in order
local function write_all(chain)
  local raws = {}
  for i, scope in ipairs(chain) do
    raws[i] = write(scope)
  end
  return raws
end
