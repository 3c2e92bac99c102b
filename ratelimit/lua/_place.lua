-- The record of a place: lines of text. mode (H held, T taken, S settled), generation, booked_at, first_at, asker, then
-- of each scope, innermost first: epoch, lease (0: none), how many limits are charged, and limit, cost, due of each.

--#define OPEN_MS 86400000
--#define SETTLED_MS 600000

local function read_place(key)
  local raw = redis.call('GET', key)
  if not raw then
    return nil
  end
  local lines = {}
  for line in string.gmatch(raw, '([^\n]*)\n') do
    lines[#lines + 1] = line
  end
  local place = {
    mode = lines[1], generation = tonumber(lines[2]), booked_at = tonumber(lines[3]), first_at = tonumber(lines[4]),
    asker = lines[5], parts = {}
  }
  local i = 6
  while lines[i] do
    local part = {epoch = tonumber(lines[i]), lease = tonumber(lines[i + 1]), names = {}, cost = {}, due = {}}
    local count = tonumber(lines[i + 2])
    i = i + 3
    for _ = 1, count do
      local name = lines[i]
      part.names[#part.names + 1] = name
      part.cost[name], part.due[name] = tonumber(lines[i + 1]), tonumber(lines[i + 2])
      i = i + 3
    end
    place.parts[#place.parts + 1] = part
  end
  return place
end

local function write_place(key, place)
  local lines = {place.mode, text(place.generation), text(place.booked_at), text(place.first_at), place.asker}
  local function add(line)
    lines[#lines + 1] = line
  end
  for _, part in ipairs(place.parts) do
    add(text(part.epoch))
    add(text(part.lease))
    add(text(#part.names))
    for _, name in ipairs(part.names) do
      add(name)
      add(text(part.cost[name]))
      add(text(part.due[name]))
    end
  end
  local life = place.mode == 'S' and SETTLED_MS or OPEN_MS
  redis.call('SET', key, table.concat(lines, '\n') .. '\n', 'PX', life)
end

-- a permit of an earlier generation: its place has been booked anew
local function superseded(place_key, generation)
  local place = place_key and read_place(place_key)
  return place and place.generation > generation
end

-- settle or cancel once: "done", or "again"; "stale" if the place has been booked anew since
local function finish(done_key, place_key, generation)
  if not redis.call('SET', done_key, '1', 'NX', 'PX', SETTLED_MS) then
    return 'again'
  end
  local place = place_key and read_place(place_key)
  if place and place.generation > generation then
    return 'stale'
  end
  if place and place.generation == generation then
    place.mode = 'S'
    write_place(place_key, place)
  end
  return 'done'
end
