-- Setting a quota, and ending one that was set for a while. Needs _scope.lua, _clock.lua and _lease.lua.
-- A quota travels as names, a zero byte, and doubles: pace regained per second, 1 for a passing scope, then rate, burst,
-- kind, period, anchor, shadow of each limit.

--#define GIVEN 6
--#define PIECES 16

local function spec_of(names, n)
  local numbers = {n[RECOVERY], n[PASSING]}
  for at = HEAD, #n - 1, WIDTH do
    for _, field in ipairs({RATE, BURST, KIND, PERIOD, ANCHOR, SHADOW}) do
      numbers[#numbers + 1] = n[at + field]
    end
  end
  return names .. '\0' .. pack(numbers)
end

-- nobody knows what is in flight: as much as can be is taken to be, and to end one after the other
local function presume(key, n, at, name)
  local pieces = math.ceil(math.min(n[at + BURST], PIECES))
  for i = 1, pieces do
    n[LEASED] = n[LEASED] + 1
    local ends = n[AT] + n[at + PERIOD] * i / pieces
    leases().write(key, text(n[LEASED]), ends, '-', {name, text(n[at + BURST] / pieces), text(n[at + CLOCK])})
  end
end

-- the share of a window that is left, taken to have been used evenly
local function rest_of_window(n, at)
  local window = windows().of(n, at, n[AT])
  local start, ends = windows().start(n, at, window), windows().start(n, at, window + 1)
  return n[at + BURST] * ((ends - n[AT]) / (ends - start))
end

-- a limit that stays keeps its state
local function keep(n, at, old, from)
  for _, field in ipairs({LEVEL, CLOCK, TAIL, UNTIL, SHADOWED}) do
    n[at + field] = old[from + field]
  end
  if n[at + KIND] == IN_FLIGHT then
    -- what is in flight stays; the mean time that it is held, too
    n[at + RATE] = n[at + BURST] / (old[from + BURST] / old[from + RATE])
    n[at + LEVEL] = n[at + LEVEL] + (n[at + BURST] - old[from + BURST])
    n[at + CLOCK] = n[at + CLOCK] + (n[at + BURST] - old[from + BURST])
  else
    n[at + LEVEL] = math.min(n[at + LEVEL], n[at + BURST])
  end
  call_up(n, at)
end

-- the numbers of a scope under another quota. names, n: as they are; full: how limits start that are new
local function set_limits(key, names, n, spec, full)
  local given, from = struct.unpack('s', spec)
  local numbers, places, fresh = unpack_all(spec, from), names and places_of(names) or {}, {}
  for i = 1, HEAD do
    fresh[i] = n[i]
  end
  fresh[RECOVERY], fresh[PASSING], fresh[VERSION] = numbers[1], numbers[2], n[VERSION] + 1
  local i = 2
  for name in string.gmatch(given, '[^ ]+') do
    local at, old = #fresh, places[name]
    for field, value in ipairs({numbers[i + 1], numbers[i + 2], 0, 0, 0, 0, numbers[i + 3], numbers[i + 4]}) do
      fresh[at + field] = value
    end
    fresh[at + ANCHOR], fresh[at + SHADOW], fresh[at + SHADOWED] = numbers[i + 5], numbers[i + 6], 0
    if old and n[old + KIND] == fresh[at + KIND] then
      keep(fresh, at, n, old)
    elseif full or fresh[at + SHADOW] == 1 then
      fresh[at + LEVEL] = fresh[at + BURST]
    elseif fresh[at + KIND] == IN_FLIGHT then
      presume(key, fresh, at, name)
    elseif fresh[at + KIND] ~= CONTINUOUS then
      fresh[at + LEVEL] = rest_of_window(fresh, at)
    end
    i = i + GIVEN
  end
  return given, fresh
end

local function note_change(key, n, document, note)
  redis.call('SET', sibling(key, 'quota'), document)
  local changes = sibling(key, 'changes')
  redis.call('LPUSH', changes, text(n[AT]) .. ' ' .. text(n[VERSION]) .. ' ' .. note .. '\n' .. document)
  redis.call('LTRIM', changes, 0, 999)
end

-- a quota that was set for a while ends on its instant, not with the first call after it
local function revert(key, names, n)
  refill(n, n[ENDS])
  n[ENDS] = 0
  local before = redis.call('GET', sibling(key, 'before'))
  if not before then
    return names, n
  end
  redis.call('DEL', sibling(key, 'before'))
  local document, from = struct.unpack('s', before)
  names, n = set_limits(key, names, n, string.sub(before, from), false)
  note_change(key, n, document, '{"by": "", "reason": "", "action": "end"}')
  return names, n
end
