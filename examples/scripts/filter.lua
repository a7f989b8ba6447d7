-- A filter file for `tailweir tail --filter filter.lua --config '{"type":"Bounce"}'`, and for pipelines. It is given its
-- configuration and returns the function.
local config = ...

return function(record)
  return record.type == (config and config.type or 'Delivery')
end
