-- common: the prelude of every script: Redis's clock, times as text, and the prefixes of key names.
-- Included; the scripts of jobs/webhooks share it. Invariant: no other clock than Redis's own.

local RQ, PW = '@RQ@:', 'pw:'
local OUTBOX_TTL = @OUTBOX_TTL_S@

local function clock(given)  -- Unix time in s, with microseconds; `given`: a test's own, or '' or nil
  if given and given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1e6
end

local function exact(seconds)  -- Lua's own tostring keeps only 14 digits
  return string.format('%.6f', seconds)
end

local function iso(seconds)  -- as RQ writes times; days to a date after H. Hinnant
  local whole = math.floor(seconds)
  local micro = math.min(999999, math.floor((seconds - whole) * 1e6))
  local z = math.floor(whole / 86400) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524)
    - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local s = whole % 86400
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day,
    math.floor(s / 3600), math.floor(s % 3600 / 60), s % 60, micro)
end
