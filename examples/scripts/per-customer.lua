-- One process per customer, each with its own checkpoint and its own endpoint:
--
--   tailweir script per-customer.lua -- /var/log/kumomta customer-a
--   tailweir script per-customer.lua -- /var/log/kumomta customer-b
--
-- A customer whose endpoint is down holds up nobody else. WEBHOOK_BASE is where the endpoints are.
local kumo = require 'kumo'

local base = os.getenv 'WEBHOOK_BASE' or 'http://127.0.0.1:4242'

-- Each customer (egress pool) and its webhook.
local endpoints = {
  ['customer-a'] = base .. '/customer-a',
  ['customer-b'] = base .. '/customer-b',
  ['customer-c'] = base .. '/customer-c',
}

kumo.on('main', function(directory, pool)
  local url = assert(endpoints[pool], string.format("unknown pool '%s'", pool))
  local client <close> = kumo.http.build_client { timeout = '30s' }

  local tailer <close> = kumo.jsonl.new_tailer({
    directory = directory,
    max_batch_size = 100,
    max_batch_latency = '1s',
    checkpoint_name = 'webhook-' .. pool,
    -- Ours: ends when everything is delivered, for use from cron.
    follow = os.getenv 'ONCE' == nil,
  }, function(record)
    return record.egress_pool == pool
  end)

  for batch in tailer:batches() do
    local response = client
      :post(url)
      :header('Content-Type', 'application/json')
      -- The same batch has the same id when it comes again, so the receiver can tell.
      :header('Idempotency-Key', batch:id())
      :body(kumo.serde.json_encode(batch:records()))
      :send()
    if not response:status_is_success() then
      -- Not committed: the next run delivers it. A supervisor restarts us.
      error(string.format('%s answered %d', url, response:status_code()))
    end
    batch:commit()
  end
end)
