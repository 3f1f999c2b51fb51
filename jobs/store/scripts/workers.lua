-- workers: list live workers: the report of each, its number of leases, and whether it is to end.
--   Writes nothing.
-- uses: common
-- returns {report as JSON, executions, worker is to end: 1 or 0, ...} of workers with a live report

local out, names = {}, redis.call('SMEMBERS', RQ .. 'workers')
table.sort(names)
for _, key in ipairs(names) do
  local report = redis.call('GET', PW .. string.sub(key, #RQ + 1))
  if report then
    out[#out + 1] = report
    out[#out + 1] = redis.call('SCARD', key .. ':executions')
    out[#out + 1] = redis.call('HEXISTS', key, 'x_drain')
  end
end
return out
