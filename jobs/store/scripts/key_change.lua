-- key_change: compare and set API keys, all or none. A revocation and a rotation that read the same
--   key cannot both write it: the second has to read again.
-- KEYS  1 hash of API keys
-- ARGV  by threes: ID, text that was read ('': none), text to keep
-- returns 1 if all are kept, 0 if one of them has changed since it was read

for i = 1, #ARGV, 3 do
  local now = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  -- equal to what is to be kept: this call was sent twice, since its answer was lost
  if now ~= ARGV[i + 1] and now ~= ARGV[i + 2] then return 0 end
end
for i = 1, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
end
return 1
