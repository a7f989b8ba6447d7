-- A processor file for pipelines: turns each batch into one record with counts, which goes to the consumer's sink.
local kumo = require 'kumo'

return function(batch)
  local counts, domains = {}, {}
  for record in batch:iter_records() do
    counts[record.type] = (counts[record.type] or 0) + 1
    local recipient = record.recipient
    if type(recipient) == 'string' then
      local domain = recipient:match '@(.+)$' or '?'
      domains[domain] = (domains[domain] or 0) + 1
    end
  end
  return { kumo.serde.json_encode { batch = batch:id(), types = counts, domains = domains } }
end
