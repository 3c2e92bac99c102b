-- Fixed windows: days, months. Needs _scope.lua. The twin of windows.py.

--#define DAY_S 86400
-- days from 1 March of the year 0 to 1 January 1970
--#define EPOCH_DAY 719468
--#define QUADRICENTENNIAL 146097

-- calendar months since March of the year 0, so that a leap day ends a year
local function month_of(t)
  local day = math.floor(t / DAY_S) + EPOCH_DAY
  local era = math.floor(day / QUADRICENTENNIAL)
  local rest = day - era * QUADRICENTENNIAL
  local leaps = math.floor(rest / 1460) - math.floor(rest / 36524) + math.floor(rest / 146096)
  local year = math.floor((rest - leaps) / 365)
  local of_year = rest - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (era * 400 + year) * 12 + math.floor((5 * of_year + 2) / 153)
end

local function month_start(month)
  local years = math.floor(month / 12)
  local era = math.floor(years / 400)
  local year = years - era * 400
  local days = year * 365 + math.floor(year / 4) - math.floor(year / 100)
  local of_year = math.floor((153 * (month - years * 12) + 2) / 5)
  return (era * QUADRICENTENNIAL + days + of_year - EPOCH_DAY) * DAY_S
end

-- which window an instant lies in, by the limit's place
local function window_of(n, at, t)
  if n[at + KIND] == MONTHS then
    return month_of(t - n[at + ANCHOR])
  end
  return math.floor((t - n[at + ANCHOR]) / n[at + PERIOD])
end

local function window_start(n, at, window)
  if n[at + KIND] == MONTHS then
    return month_start(window) + n[at + ANCHOR]
  end
  return n[at + ANCHOR] + window * n[at + PERIOD]
end
