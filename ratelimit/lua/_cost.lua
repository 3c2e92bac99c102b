-- Which limits a cost is charged to. Needs _scope.lua.

-- A limit counts the unit of its name: tokens_per_day and tokens_in_flight count tokens, in_flight counts requests.
local function unit_of(name)
  if name == 'in_flight' then
    return 'requests'
  end
  local unit, found = string.gsub(name, '_in_flight$', '', 1)
  return found == 1 and unit or (string.gsub(name, '_per_%w+$', '', 1))
end

-- for each scope of the chain the places of the limits that count something of given, and which of its words; or the
-- first word that nobody counts
local function plan_of(chain, given)
  if #chain == 1 and given == chain[1].names then
    local places, which = {}, {}
    for at = HEAD, #chain[1].n - 1, WIDTH do
      places[#places + 1], which[#which + 1] = at, #which + 1
    end
    return {{places = places, which = which}}
  end
  local index, counted, words, plan = {}, {}, {}, {}
  for word in string.gmatch(given, '[^ ]+') do
    words[#words + 1] = word
    index[word] = #words
  end
  for i, scope in ipairs(chain) do
    local at, places, which = HEAD, {}, {}
    for name in string.gmatch(scope.names, '[^ ]+') do
      local word = index[name] and name or unit_of(name)
      if index[word] then
        counted[word] = true
        places[#places + 1], which[#which + 1] = at, index[word]
      end
      at = at + WIDTH
    end
    plan[i] = {places = places, which = which}
  end
  for _, word in ipairs(words) do
    if not counted[word] then
      return nil, word
    end
  end
  return plan
end

-- the cost by the limit's place, for each scope; what is not spent from is left out. values from first on are the
-- units of each word
local function costs_of(plan, values, first)
  local costs = {}
  for i, part in ipairs(plan) do
    local cost = {}
    for j, at in ipairs(part.places) do
      local units = values[first - 1 + part.which[j]]
      if units > 0 then
        cost[at] = units
      end
    end
    costs[i] = cost
  end
  return costs
end

-- a limit of an outer scope is named with its scope
local function with_scope(chain, i, name)
  return i == 1 and name or name .. '@' .. string.match(chain[i].key, ':state:(.*)$')
end

-- the name of the first limit that could never grant so much
local function too_large(chain, costs)
  for i, scope in ipairs(chain) do
    local n = scope.n
    for at = HEAD, #n - 1, WIDTH do
      if n[at + KIND] ~= CONTINUOUS and n[at + SHADOW] == 0 and (costs[i][at] or 0) > n[at + BURST] then
        return with_scope(chain, i, name_at(scope.names, at))
      end
    end
  end
end

-- what each scope owes; a shadow limit never makes anybody wait
local function owed_by(chain, costs)
  local owed = {}
  for i, scope in ipairs(chain) do
    local n, lacking = scope.n, {}
    for at, units in pairs(costs[i]) do
      if n[at + SHADOW] == 0 then
        lacking[at] = math.max(0, units - n[at + LEVEL])
      end
    end
    owed[i] = lacking
  end
  return owed
end

-- the longest of the scopes' waits, and the name of the limit that makes it
local function wait_of(chain, owed)
  local longest, scope, binding = -1, 1, nil
  for i, one in ipairs(chain) do
    local wait, at = wait_for(one.n, owed[i])
    if wait > longest then
      longest, scope, binding = wait, i, at
    end
  end
  return longest, with_scope(chain, scope, bound_by(chain[scope].names, chain[scope].n, binding))
end
