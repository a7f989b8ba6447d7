-- A filter: keeps the records of one egress pool. Its configuration is a table: `pool` is the name of that pool.

local pool

return {
  -- Is called once, with the configuration. An error here is for the operator to see, before any record is read.
  init = function(config)
    if type(config) ~= 'table' or type(config.pool) ~= 'string' then
      error('the configuration must have `pool`, the name of an egress pool, as a string', 0)
    end
    pool = config.pool
  end,

  -- Is called for each record, and says whether to keep it. A field is looked up when it is used, so use only what you need.
  filter = function(record)
    return record.egress_pool == pool
  end,
}
