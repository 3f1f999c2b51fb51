-- listing: return a page of one endpoint's deliveries, newest job first. Removes expired entries.
-- uses: common, endpoint_queue
-- ARGV  1 endpoint  2 start: '+', or '(' and the last ID of the page before  3 maximum of deliveries
--       4 maximum of entries to read  5 state wanted, or ''
-- returns {cursor or '', {id, {field, value, ...}, due or '', id, ...}}; bodies are left out

local FIELDS = {'event', 'type', 'job', 'state', 'attempts', 'made_at', 'ended_at', 'url'}
local ep, most, looked = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local ids = redis.call('ZREVRANGEBYLEX', listing_key(ep), ARGV[2], '-', 'LIMIT', 0, looked + 1)
local out, taken, last = {}, 0, nil
for i = 1, math.min(#ids, looked) do
  if taken == most then break end
  last = ids[i]
  local f = redis.call('HMGET', delivery_key(ep, last), unpack(FIELDS))
  if not f[4] then
    redis.call('ZREM', listing_key(ep), last)
    redis.call('ZREM', kept_key(ep), last)
  elseif ARGV[5] == '' or f[4] == ARGV[5] then
    taken = taken + 1
    out[#out + 1] = last
    out[#out + 1] = f
    out[#out + 1] = redis.call('ZSCORE', due_key(ep), last) or ''
  end
end
return {(last and last ~= ids[#ids]) and last or '', out}
