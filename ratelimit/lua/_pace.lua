-- The pace as formulas. The twin of arithmetic.py.

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
