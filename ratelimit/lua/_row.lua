-- The limits that equal reservations are charged to, in one row. Needs _begin.lua.

-- the limits that are charged, in one row: of which scope, at which place, how many units
local function row_of(chain, costs)
  local row = {}
  for i, scope in ipairs(chain) do
    for at = HEAD, #scope.n - 1, WIDTH do
      if costs[i][at] then
        row[#row + 1] = {i = i, n = scope.n, at = at, units = costs[i][at], shadow = scope.n[at + SHADOW] == 1}
      end
    end
  end
  return row
end

-- charges one; the waits' units are in owed
local function charge_row(row, owed)
  for _, x in ipairs(row) do
    local n, at = x.n, x.at
    if x.shadow and x.units > n[at + LEVEL] then
      n[at + SHADOWED] = n[at + SHADOWED] + 1
    else
      local due = n[at + CLOCK] + (owed[x.i][at] or 0)
      n[at + LEVEL] = n[at + LEVEL] - x.units
      if due > n[at + TAIL] then
        n[at + TAIL] = due
      end
    end
  end
end

local function lease_row(chain, costs, owed, wait)
  for i, scope in ipairs(chain) do
    if scope.lease_s then
      local n, held, due = scope.n, {}, {}
      for at, units in pairs(costs[i]) do
        if not (n[at + SHADOW] == 1 and units > n[at + LEVEL]) then
          held[at], due[at] = units, n[at + CLOCK] + (owed[i][at] or 0)
        end
      end
      leases().take(scope.key, scope.names, n, wait, held, due)
    end
  end
end

-- nothing but plain limits, and enough for all of them, whatever the rounding errors of so many subtractions
local function plenty(row, count)
  for _, x in ipairs(row) do
    local n, at = x.n, x.at
    if n[at + KIND] == IN_FLIGHT or x.shadow or n[at + UNTIL] > n[AT] then
      return false
    end
    if n[at + LEVEL] * (1 - 1e-12) < x.units * count then
      return false
    end
  end
  return true
end

local function charge_all(row, count)
  for _, x in ipairs(row) do
    local level, units, clock = x.n[x.at + LEVEL], x.units, x.n[x.at + CLOCK]
    for _ = 1, count do
      level = level - units
    end
    x.n[x.at + LEVEL] = level
    if clock > x.n[x.at + TAIL] then
      x.n[x.at + TAIL] = clock
    end
  end
end
