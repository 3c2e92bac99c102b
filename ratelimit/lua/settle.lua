-- Purpose: replace a permit's estimate by the actual cost, once. Level and clock move forward by a refund, back by a debt.
-- KEYS[1]  the scope's hash
-- KEYS[2]  the marker of the permit
-- KEYS[3]  the place's record; absent for an anonymous permit
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  the permit's generation
-- ARGV[3]  when the permit's place was booked
-- ARGV[4..]  limit, estimate, actual of each limit that is settled
-- Returns: "done", "again" or "lost", and the reading; nil if the scope is not configured

--#include _scope.lua
--#include _clock.lua
--#include _place.lua

local scope = begin(KEYS[1], ARGV[1])
if not scope then
  return nil
end
local outcome = finish(scope, KEYS[2], KEYS[3], tonumber(ARGV[2]), tonumber(ARGV[3]))
if outcome == 'done' then
  for i = 4, #ARGV, 3 do
    local bucket = scope.buckets[ARGV[i]]
    if bucket then
      local refund = tonumber(ARGV[i + 1]) - tonumber(ARGV[i + 2])
      local moved = math.min(refund, bucket.burst - bucket.level)
      bucket.level = bucket.level + moved
      bucket.clock = bucket.clock + moved
      call_up(bucket)
    end
  end
end
write_scope(KEYS[1], scope)
return {outcome, reading(scope)}
