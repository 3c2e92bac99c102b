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

-- functions that few scopes need are made only where they are: once, with the first use
local made = {}
local function windows()
  if not made.windows then
    --#include _window.lua
    made.windows = {of = window_of, start = window_start}
  end
  return made.windows
end
