-- workers: what each says of itself, and how many jobs it has the lease of at this moment.
-- Writes nothing.
-- uses: common
-- returns {report as JSON, executions, report, executions, ...}, of those that spoke lately

local out, names = {}, redis.call('SMEMBERS', RQ .. 'workers')
table.sort(names)
for _, key in ipairs(names) do
  local report = redis.call('GET', PW .. string.sub(key, #RQ + 1))
  if report then
    out[#out + 1] = report
    out[#out + 1] = redis.call('SCARD', key .. ':executions')
  end
end
return out
