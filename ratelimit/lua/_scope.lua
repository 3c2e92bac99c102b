-- A scope's hash as a table, and back. The arithmetic is the twin of model.py: the same operations in the same order.

local GRACE_S = 0.5
local SLOWEST_PACE = 0.05
local EPSILON = 1e-9
local COUNTERS = {'calls', 'grants', 'denials', 'rebooked', 'rejections'}
local NUMBERS = {
  'recovery', 'born', 'at', 'cooldown_until', 'pace', 'epoch', 'strikes', 'calls', 'grants', 'denials', 'rebooked',
  'rejections'
}
local PARTS = {'rate', 'burst', 'level', 'clock', 'tail'}

-- 17 digits bring every double back unchanged
local function text(number)
  return string.format('%.17g', number)
end

local function instant(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- doubles as they are, little-endian
local function pack(numbers)
  return struct.pack('<' .. string.rep('d', #numbers), unpack(numbers))
end

local function read_scope(key)
  local found = redis.call('HMGET', key, 'names', 'state')
  if not found[1] then
    return nil
  end
  local numbers = {struct.unpack('<' .. string.rep('d', #found[2] / 8), found[2])}
  local scope = {names = {}, buckets = {}, joined = found[1]}
  for i, field in ipairs(NUMBERS) do
    scope[field] = numbers[i]
  end
  local i = #NUMBERS
  for name in string.gmatch(found[1], '[^ ]+') do
    table.insert(scope.names, name)
    scope.buckets[name] = {
      rate = numbers[i + 1], burst = numbers[i + 2], level = numbers[i + 3], clock = numbers[i + 4],
      tail = numbers[i + 5]
    }
    i = i + 5
  end
  return scope
end

local function write_scope(key, scope)
  local numbers = {}
  for i, field in ipairs(NUMBERS) do
    numbers[i] = scope[field]
  end
  for _, name in ipairs(scope.names) do
    for _, part in ipairs(PARTS) do
      numbers[#numbers + 1] = scope.buckets[name][part]
    end
  end
  redis.call('HSET', key, 'names', scope.joined, 'state', pack(numbers))
end
