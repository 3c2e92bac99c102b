-- Refill. Needs _scope.lua, _pace.lua.

-- everything booked is paid for: whoever still stands behind a cancelled place may start
local function call_up(n, at)
  if n[at + LEVEL] >= 0 and n[at + CLOCK] < n[at + TAIL] then
    n[at + CLOCK] = n[at + TAIL]
  end
end

-- units that come, or are taken away: nothing overflows the burst
local function pour(n, at, units)
  local moved = math.min(units, n[at + BURST] - n[at + LEVEL])
  n[at + LEVEL] = n[at + LEVEL] + moved
  n[at + CLOCK] = n[at + CLOCK] + moved
  call_up(n, at)
end

local function refill(n, now)
  local last, start = n[AT], math.max(n[AT], n[COOLDOWN])
  -- an instant before the last one is a server's clock that was set back: time stands still until it has caught up
  n[AT] = math.max(n[AT], now)
  local dt, pace, full = n[AT] - start, n[PACE], 0
  if dt > 0 then
    full = seconds_at_full_pace(dt, pace, n[RECOVERY])
    n[PACE] = math.min(1, pace + n[RECOVERY] * dt)
    if n[PACE] == 1 then
      n[STRIKES] = 0
    end
  end
  for at = HEAD, #n - 1, WIDTH do
    local kind = n[at + KIND]
    if kind == CONTINUOUS then
      local open, shut = full, n[at + UNTIL] - start
      if shut > 0 then
        open = full - seconds_at_full_pace(math.min(shut, math.max(0, dt)), pace, n[RECOVERY])
      end
      if open > 0 then
        pour(n, at, n[at + RATE] * open)
      end
    elseif kind ~= IN_FLIGHT then
      local windows = windows().of(n, at, n[AT]) - windows().of(n, at, last)
      if windows > 0 then
        pour(n, at, windows * n[at + BURST])
      end
    end
  end
end
