-- A scope as flat numbers, and back. The arithmetic is the twin of model.py: the same operations in the same order.
-- The key's string is the names of the limits, a zero byte, and little-endian doubles: HEAD numbers of the scope, then
-- WIDTH numbers of each limit, in the order of the names. codec.py reads the same string.

local RECOVERY, BORN, AT, COOLDOWN, PACE, EPOCH, STRIKES = 1, 2, 3, 4, 5, 6, 7
local CALLS, GRANTS, DENIALS, REBOOKED, REJECTIONS, VERSION = 8, 9, 10, 11, 12, 13
local HEAD, WIDTH = 13, 5
-- of the limit whose numbers follow n[at]
local RATE, BURST, LEVEL, CLOCK, TAIL = 1, 2, 3, 4, 5

local GRACE_S = 0.5
local SLOWEST_PACE = 0.05
local EPSILON = 1e-9

-- 17 digits bring every double back unchanged
local function text(number)
  return string.format('%.17g', number)
end

local function pack(numbers)
  return struct.pack('<' .. string.rep('d', #numbers), unpack(numbers))
end

local function instant(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

-- the names in one string, and the numbers; nothing if the scope is not configured
local function read_scope(key)
  local raw = redis.call('GET', key)
  if not raw then
    return nil
  end
  local names, at = struct.unpack('s', raw)
  local n = {struct.unpack('<' .. string.rep('d', (#raw - at + 1) / 8), raw, at)}
  n[#n] = nil
  return names, n
end

local function state(names, n)
  return names .. '\0' .. pack(n)
end

local function write_scope(key, names, n)
  local raw = state(names, n)
  redis.call('SET', key, raw)
  return raw
end

-- each name's place: n[places[name] + LEVEL] is its level
local function places_of(names)
  local places, at = {}, HEAD
  for name in string.gmatch(names, '[^ ]+') do
    places[name] = at
    at = at + WIDTH
  end
  return places
end
