-- A scope as flat numbers, and back. The arithmetic is the twin of flow.py: the same operations in the same order.
-- The key's string is the names of the limits, a zero byte, and little-endian doubles: HEAD numbers of the scope, then
-- WIDTH numbers of each limit, in the order of the names. codec.py reads the same string.

local RECOVERY, BORN, AT, COOLDOWN, PACE, EPOCH, STRIKES, CLOSED = 1, 2, 3, 4, 5, 6, 7, 8
local CALLS, GRANTS, DENIALS, REBOOKED, REJECTIONS = 9, 10, 11, 12, 13
local VERSION, ENDS, LEASED, PASSING = 14, 15, 16, 17
local HEAD, WIDTH = 17, 11
-- of the limit whose numbers follow n[at]
local RATE, BURST, LEVEL, CLOCK, TAIL, UNTIL = 1, 2, 3, 4, 5, 6
local KIND, PERIOD, ANCHOR, SHADOW, SHADOWED = 7, 8, 9, 10, 11
-- kinds
local CONTINUOUS, IN_FLIGHT, FIXED, MONTHS = 0, 1, 2, 3

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

local function unpack_all(raw, at)
  local numbers = {struct.unpack('<' .. string.rep('d', (#raw - at + 1) / 8), raw, at)}
  numbers[#numbers] = nil
  return numbers
end

local function instant(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

-- another key of the same scope; all keys of a provider live in one slot
local function sibling(key, kind)
  return (string.gsub(key, ':state:', ':' .. kind .. ':', 1))
end

-- the names in one string, and the numbers; nothing if the scope is not configured
local function read_scope(key)
  local raw = redis.call('GET', key)
  if not raw then
    return nil
  end
  local names, at = struct.unpack('s', raw)
  return names, unpack_all(raw, at)
end

local function state(names, n)
  return names .. '\0' .. pack(n)
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
