-- rate: count one request of an API key in the current window, by Redis's clock only.
-- uses: common
-- KEYS  1 counter of the key
-- ARGV  1 window in s
-- returns {requests in this window, this one included; seconds until the next window}

local now, window = clock(), tonumber(ARGV[1])
local started = math.floor(now / window) * window
local counter = KEYS[1] .. ':' .. string.format('%d', started)
local count = redis.call('INCR', counter)
if count == 1 then redis.call('EXPIRE', counter, window * 2) end
return {count, math.ceil(started + window - now)}
