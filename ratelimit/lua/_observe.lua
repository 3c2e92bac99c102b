-- What the provider says is left. Needs _scope.lua.

-- A count below ours lowers ours, never raises it. The clock goes back with it: everybody in line starts later by the
-- same amount. pairs: name, remaining in ARGV from first on. Answers whether anything was lowered.
local function observe(names, n, first)
  local places, lowered = places_of(names), false
  for i = first, #ARGV, 2 do
    local at = places[ARGV[i]]
    if at and n[at + KIND] ~= IN_FLIGHT then
      local moved = math.min(0, tonumber(ARGV[i + 1]) - n[at + LEVEL])
      n[at + LEVEL] = n[at + LEVEL] + moved
      n[at + CLOCK] = n[at + CLOCK] + moved
      lowered = lowered or moved < 0
    end
  end
  return lowered
end
