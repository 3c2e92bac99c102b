-- A scope's hash as a table, and back. The arithmetic is the twin of model.py: the same operations in the same order.

local GRACE_S = 0.5
local SLOWEST_PACE = 0.05
local EPSILON = 1e-9
local COUNTERS = {'calls', 'grants', 'denials', 'rebooked', 'rejections'}
local NUMBERS = {'recovery', 'born', 'at', 'cooldown_until', 'pace', 'epoch', 'strikes'}
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

local function read_scope(key)
  local flat = redis.call('HGETALL', key)
  if #flat == 0 then
    return nil
  end
  local raw = {}
  for i = 1, #flat, 2 do
    raw[flat[i]] = flat[i + 1]
  end
  local scope = {names = {}, buckets = {}}
  for _, field in ipairs(NUMBERS) do
    scope[field] = tonumber(raw[field])
  end
  for _, field in ipairs(COUNTERS) do
    scope[field] = tonumber(raw[field])
  end
  for name in string.gmatch(raw.names, '[^ ]+') do
    local bucket = {}
    for _, part in ipairs(PARTS) do
      bucket[part] = tonumber(raw[part .. ':' .. name])
    end
    table.insert(scope.names, name)
    scope.buckets[name] = bucket
  end
  return scope
end

local function write_scope(key, scope)
  local flat = {'names', table.concat(scope.names, ' ')}
  for _, fields in ipairs({NUMBERS, COUNTERS}) do
    for _, field in ipairs(fields) do
      table.insert(flat, field)
      table.insert(flat, text(scope[field]))
    end
  end
  for _, name in ipairs(scope.names) do
    for _, part in ipairs(PARTS) do
      table.insert(flat, part .. ':' .. name)
      table.insert(flat, text(scope.buckets[name][part]))
    end
  end
  redis.call('HSET', key, unpack(flat))
end
