-- Reading and writing scopes around a verb. Needs _wait.lua and _clock.lua.

-- how long leases of the scope last; nil if it has none
local function lease_s(n)
  local longest = nil
  for at = HEAD, #n - 1, WIDTH do
    if n[at + KIND] == IN_FLIGHT then
      longest = math.max(longest or 0, n[at + PERIOD])
    end
  end
  return longest
end

local function leases()
  if not made.leases then
    --#include _lease.lua
    made.leases = {finish = end_lease, write = write_lease, take = take_lease, renew = renew_lease, sweep = sweep}
  end
  return made.leases
end

local function quotas()
  if not made.quotas then
    --#include _quota.lua
    made.quotas = {set_limits = set_limits, spec_of = spec_of, note_change = note_change, revert = revert}
  end
  return made.quotas
end

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
    local n = scope.n
    if n[ENDS] ~= 0 and now >= n[ENDS] then
      scope.names, n = quotas().revert(scope.key, scope.names, n)
      scope.n = n
    end
    refill(n, now)
    scope.lease_s = lease_s(n)
    if scope.lease_s then
      leases().sweep(scope.key, scope.names, n)
    end
    n[CALLS] = n[CALLS] + 1
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
