-- Purpose: give a place back unused, once. The cost returns to the level only: those behind must not start early.
-- KEYS[1]  the scope's hash
-- KEYS[2]  the marker of the permit
-- KEYS[3]  the place's record; absent for an anonymous place
-- ARGV[1]  now in seconds; empty: the server's time
-- ARGV[2]  the place's generation
-- ARGV[3]  when the place was booked
-- ARGV[4..]  limit, cost of each limit that was charged
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
  for i = 4, #ARGV, 2 do
    local bucket = scope.buckets[ARGV[i]]
    if bucket then
      bucket.level = math.min(bucket.burst, bucket.level + tonumber(ARGV[i + 1]))
      call_up(bucket)
    end
  end
end
write_scope(KEYS[1], scope)
return {outcome, reading(scope)}
