-- redeliver: send a delivery again from the first attempt on, with the same ID and the same body.
-- uses: common, endpoint_queue
-- ARGV  1 now, or ''  2 endpoint  3 delivery
-- returns ok, missing, or sending (an attempt is under way: that attempt counts)

local now, ep, id = clock(ARGV[1]), ARGV[2], ARGV[3]
local key = delivery_key(ep, id)
if redis.call('EXISTS', key) == 0 then return 'missing' end
if redis.call('ZSCORE', flight_key(ep), id) then return 'sending' end
redis.call('HSET', key, 'state', 'pending', 'attempts', 0, 'ended_at', '')
redis.call('HDEL', key, 'lapses')
deliver_at(ep, id, now)
keep(ep, id, now, PENDING_TTL)
rerank(ep)
return 'ok'
