-- The record of a place: lines of text. mode (H held, T taken, S settled), generation, epoch, booked_at, first_at,
-- asker, then limit, cost, due of each limit that is charged.

local OPEN_MS = 86400000
local SETTLED_MS = 600000

local function read_place(key)
  local raw = redis.call('GET', key)
  if not raw then
    return nil
  end
  local lines = {}
  for line in string.gmatch(raw, '([^\n]*)\n') do
    table.insert(lines, line)
  end
  local place = {
    mode = lines[1], generation = tonumber(lines[2]), epoch = tonumber(lines[3]), booked_at = tonumber(lines[4]),
    first_at = tonumber(lines[5]), asker = lines[6], names = {}, cost = {}, due = {}
  }
  for i = 7, #lines, 3 do
    table.insert(place.names, lines[i])
    place.cost[lines[i]] = tonumber(lines[i + 1])
    place.due[lines[i]] = tonumber(lines[i + 2])
  end
  return place
end

local function write_place(key, place)
  local lines = {
    place.mode, text(place.generation), text(place.epoch), text(place.booked_at), text(place.first_at), place.asker
  }
  for _, name in ipairs(place.names) do
    for _, value in ipairs({name, text(place.cost[name]), text(place.due[name])}) do
      table.insert(lines, value)
    end
  end
  local life = place.mode == 'S' and SETTLED_MS or OPEN_MS
  redis.call('SET', key, table.concat(lines, '\n') .. '\n', 'PX', life)
end

-- settle or cancel once; a permit of an earlier generation must not end the place of a later one
local function finish(n, done_key, place_key, generation, booked_at)
  if not redis.call('SET', done_key, '1', 'NX', 'PX', SETTLED_MS) then
    return 'again'
  end
  local place = place_key and read_place(place_key)
  if place and place.generation == generation then
    place.mode = 'S'
    write_place(place_key, place)
  end
  return booked_at < n[BORN] and 'lost' or 'done'
end
