-- Refill, read the clock, and the waits that follow from it. Needs _scope.lua.

local function seconds_at_full_pace(dt, pace, recovery)
  local ramp = (1 - pace) / recovery
  if dt <= ramp then
    return pace * dt + recovery * dt * dt / 2
  end
  return pace * ramp + recovery * ramp * ramp / 2 + (dt - ramp)
end

local function seconds_until(full, pace, recovery)
  local ramp = (1 - pace) / recovery
  local ramped = pace * ramp + recovery * ramp * ramp / 2
  if full <= ramped then
    return 2 * full / (pace + math.sqrt(pace * pace + 2 * recovery * full))
  end
  return ramp + (full - ramped)
end

-- everything booked is paid for: whoever still stands behind a cancelled place may start
local function call_up(bucket)
  if bucket.level >= 0 and bucket.clock < bucket.tail then
    bucket.clock = bucket.tail
  end
end

local function closed_for(scope)
  return math.max(0, scope.cooldown_until - scope.at)
end

-- seconds until every limit has got what it is owed, and the limit that takes longest
local function wait_for(scope, owed)
  local longest, binding = 0, 'cooldown'
  for _, name in ipairs(scope.names) do
    local full = (owed[name] or 0) / scope.buckets[name].rate
    if full > longest then
      longest, binding = full, name
    end
  end
  return closed_for(scope) + seconds_until(longest, scope.pace, scope.recovery), binding
end

local function refill(scope, now)
  local start = math.max(scope.at, scope.cooldown_until)
  -- an instant before the last one is a server's clock that was set back: time stands still until it has caught up
  scope.at = math.max(scope.at, now)
  local dt = scope.at - start
  if dt <= 0 then
    return
  end
  local full = seconds_at_full_pace(dt, scope.pace, scope.recovery)
  scope.pace = math.min(1, scope.pace + scope.recovery * dt)
  if scope.pace == 1 then
    scope.strikes = 0
  end
  for _, name in ipairs(scope.names) do
    local bucket = scope.buckets[name]
    local moved = math.min(bucket.rate * full, bucket.burst - bucket.level)
    bucket.level = bucket.level + moved
    bucket.clock = bucket.clock + moved
    call_up(bucket)
  end
end

local function begin(key, now)
  local scope = read_scope(key)
  if scope then
    refill(scope, instant(now))
    scope.calls = scope.calls + 1
  end
  return scope
end

-- the limits' names; packed: now, closed_for, pace, epoch, born, recovery, then clock, rate, burst of each limit
local function reading(scope)
  local numbers = {scope.at, closed_for(scope), scope.pace, scope.epoch, scope.born, scope.recovery}
  for _, name in ipairs(scope.names) do
    local bucket = scope.buckets[name]
    numbers[#numbers + 1] = bucket.clock
    numbers[#numbers + 1] = bucket.rate
    numbers[#numbers + 1] = bucket.burst
  end
  return {scope.joined, pack(numbers)}
end
