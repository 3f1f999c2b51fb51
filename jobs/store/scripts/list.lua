-- list: return a page of a tenant's jobs, newest first. Removes the entries of expired records.
-- uses: common, job_queue, snapshot
-- KEYS  1 tenant's listing
-- ARGV  1 start: '+', or '(' and the last ID of the page before  2 maximum of jobs
--       3 maximum of entries to read  4 model, or ''  5... RQ statuses wanted, 'expired' being one
-- returns {cursor or '', {id, snapshot, id, snapshot, ...}}

local wanted, out, taken = {}, {}, 0
for i = 5, #ARGV do wanted[ARGV[i]] = true end
local most, model = tonumber(ARGV[2]), ARGV[4]
local ids = redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[1], '-', 'LIMIT', 0, tonumber(ARGV[3]) + 1)
local looked = math.min(#ids, tonumber(ARGV[3]))
local last = nil

for i = 1, looked do
  if taken == most then break end
  local id = ids[i]
  last = id
  local f = redis.call('HMGET', job_key(id), 'status', 'origin', 'x_end')
  if not f[1] then
    redis.call('ZREM', KEYS[1], id)
  elseif (wanted[f[3] or f[1]] or #ARGV < 5) and (model == '' or model_of(f[2] or '') == model) then
    taken = taken + 1
    out[#out + 1] = id
    out[#out + 1] = snapshot(id, nil)  -- no place: it would cost a search of the line for each
  end
end
return {(last and last ~= ids[#ids]) and last or '', out}
