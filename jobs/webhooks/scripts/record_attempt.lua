-- record_attempt: record the result of one attempt, if the caller holds the delivery's lease.
-- uses: common, endpoint_queue
-- KEYS  1 outbox
-- ARGV  1 now, or ''  2 endpoint  3 delivery  4 claim  5 verdict: delivered, failed, gone
--       6 s until the next attempt, or '' for none  7 the attempt as JSON  8 its class, for metrics
--       9 s of nothing but failures after which an endpoint is disabled
-- returns {state of the delivery, reason for which the endpoint was disabled now, or ''}, or
--   {lost, ''}: the lease was over, or the endpoint was deleted

local now, ep, id, verdict = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[5]
local key, home = delivery_key(ep, id), endpoint_key(ep)

redis.call('HINCRBY', PW .. 'courier:counts', ARGV[8], 1)
if redis.call('HGET', key, 'claim') ~= ARGV[4] or not redis.call('ZSCORE', flight_key(ep), id) then
  return {'lost', ''}
end

local function disable(reason)
  redis.call('HSET', home, 'state', 'disabled', 'reason', reason, 'disabled_at', exact(now))
  redis.call('HINCRBY', PW .. 'courier:counts', 'disabled', 1)
  local e = redis.call('HMGET', home, 'tenant', 'url', 'failing_since')
  if redis.call('SISMEMBER', PW .. 'endpoints:' .. e[1] .. ':events', 'endpoint.disabled') == 1 then
    redis.call('RPUSH', KEYS[1], cjson.encode({
      id = 'msg_' .. string.format('%012x', math.floor(now * 1000)) .. string.sub(ep, -20) .. '00',
      type = 'endpoint.disabled', tenant = e[1], endpoint = ep, url = e[2], reason = reason,
      failing_since = e[3] or nil, at = exact(now)}))
    redis.call('EXPIRE', KEYS[1], OUTBOX_TTL)
  end
  return reason
end

land(ep, id)
redis.call('RPUSH', key .. ':attempts', ARGV[7])
redis.call('LTRIM', key .. ':attempts', -20, -1)
redis.call('HINCRBY', key, 'attempts', 1)
redis.call('HDEL', key, 'lapses')

local state, disabled = 'pending', ''
if verdict == 'delivered' then
  state = 'delivered'
  redis.call('HSET', home, 'proven', 1)
  redis.call('HDEL', home, 'failing_since')
else
  redis.call('HSET', home, 'proven', 0)
  redis.call('HSETNX', home, 'failing_since', exact(now))
  local since = tonumber(redis.call('HGET', home, 'failing_since'))
  if redis.call('HGET', home, 'state') == 'enabled' then
    if verdict == 'gone' then
      disabled = disable('gone')
    elseif now - since >= tonumber(ARGV[9]) then
      disabled = disable('failing')
    end
  end
  if ARGV[6] == '' then
    state = 'exhausted'
  else
    deliver_at(ep, id, now + tonumber(ARGV[6]))
  end
end
redis.call('HSET', key, 'state', state, 'ended_at', state == 'pending' and '' or exact(now))
local passing = redis.call('HGET', key, 'type') == 'job.progress'
keep(ep, id, now, passing and HOUR or state == 'delivered' and DELIVERED_TTL or PENDING_TTL)
rerank(ep)
return {state, disabled}
