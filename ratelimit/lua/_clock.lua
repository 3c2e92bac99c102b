-- Refill, and the waits that follow from it. Needs _scope.lua.

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
local function call_up(n, at)
  if n[at + LEVEL] >= 0 and n[at + CLOCK] < n[at + TAIL] then
    n[at + CLOCK] = n[at + TAIL]
  end
end

local function refill(n, now)
  local start = math.max(n[AT], n[COOLDOWN])
  -- an instant before the last one is a server's clock that was set back: time stands still until it has caught up
  n[AT] = math.max(n[AT], now)
  local dt = n[AT] - start
  if dt <= 0 then
    return
  end
  local full = seconds_at_full_pace(dt, n[PACE], n[RECOVERY])
  n[PACE] = math.min(1, n[PACE] + n[RECOVERY] * dt)
  if n[PACE] == 1 then
    n[STRIKES] = 0
  end
  for at = HEAD, #n - 1, WIDTH do
    local moved = math.min(n[at + RATE] * full, n[at + BURST] - n[at + LEVEL])
    n[at + LEVEL] = n[at + LEVEL] + moved
    n[at + CLOCK] = n[at + CLOCK] + moved
    call_up(n, at)
  end
end

local function begin(key, now)
  local names, n = read_scope(key)
  if names then
    refill(n, instant(now))
    n[CALLS] = n[CALLS] + 1
  end
  return names, n
end
