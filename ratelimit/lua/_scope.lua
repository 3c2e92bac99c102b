-- A scope as flat numbers, and back. The arithmetic is the twin of flow.py: the same operations in the same order.
-- The key's string is the names of the limits, a zero byte, and little-endian doubles: HEAD numbers of the scope, then
-- WIDTH numbers of each limit, in the order of the names. codec.py reads the same string.

-- of a scope
--#define RECOVERY 1
--#define BORN 2
--#define AT 3
--#define COOLDOWN 4
--#define PACE 5
--#define EPOCH 6
--#define STRIKES 7
--#define CLOSED 8
--#define CALLS 9
--#define GRANTS 10
--#define DENIALS 11
--#define REBOOKED 12
--#define REJECTIONS 13
--#define VERSION 14
--#define ENDS 15
--#define LEASED 16
--#define PASSING 17
--#define WAITED 18
--#define HEAD 18
-- of the limit whose numbers follow n[at]
--#define RATE 1
--#define BURST 2
--#define LEVEL 3
--#define CLOCK 4
--#define TAIL 5
--#define UNTIL 6
--#define KIND 7
--#define PERIOD 8
--#define ANCHOR 9
--#define SHADOW 10
--#define SHADOWED 11
--#define WIDTH 11
-- kinds
--#define CONTINUOUS 0
--#define IN_FLIGHT 1
--#define FIXED 2
--#define MONTHS 3

--#define GRACE_S 0.5
--#define SLOWEST_PACE 0.05
--#define EPSILON 1e-9

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
