-- workers: what each says of itself, and what is so at this moment: how many jobs it has the lease of,
-- and whether it is to end. Writes nothing.
-- uses: common
-- returns {report as JSON, executions, it is to end: 1 or 0, ...} of those that spoke lately

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
