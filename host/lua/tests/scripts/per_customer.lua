-- An example of KumoMTA's documentation of kumo.jsonl.new_tailer; only the indentation is ours.
local kumo = require 'kumo'
-- Map each customer (egress pool name) to their webhook endpoint.
local endpoints = {
  ['customer-a'] = 'http://customer-a.example.com/log',
  ['customer-b'] = 'http://customer-b.example.com/log',
  ['customer-c'] = 'http://customer-c.example.com/log',
}
kumo.on('main', function(pool_name)
  local url = assert(
  endpoints[pool_name],
    string.format("unknown pool '%s'", pool_name)
  )
  local client = kumo.http.build_client {}
  local max_retries = 5
  local retry_delay_seconds = 2
  local function post_batch(payload)
    return client
    :post(url)
    :header('Content-Type', 'application/json')
    :body(payload)
    :send()
  end
  -- Returns only if the post succeeded; raises an error otherwise,
  -- leaving the batch uncommitted so the next run will retry it.
  local function process_batch(records)
    local payload = kumo.serde.json_encode(records)
    for attempt = 1, max_retries do
      local response = post_batch(payload)
      if response:status_is_success() then
        return
      end
      local status = response:status_code()
      local disposition = string.format(
        '%d %s: %s',
        status,
        response:status_reason(),
        response:text()
      )
      local retryable = status == 429 or status >= 500
      if not retryable or attempt == max_retries then
        kumo.log_error(
          string.format(
            'webhook post to %s failed (attempt %d/%d), giving up: %s',
            url,
            attempt,
            max_retries,
            disposition
          )
        )
        kumo.time.sleep(5)
        error('webhook post failed: ' .. disposition)
      end
      kumo.log_error(
        string.format(
          'webhook post to %s failed (attempt %d/%d), retrying in %ds: %s',
          url,
          attempt,
          max_retries,
          retry_delay_seconds,
          disposition
        )
      )
      kumo.time.sleep(retry_delay_seconds)
    end
  end
  local tailer = kumo.jsonl.new_tailer(
    {
      directory = '/var/log/kumomta',
      max_batch_size = 100,
      max_batch_latency = '1s',
      -- Each customer has its own independent checkpoint.
      checkpoint_name = 'webhook-' .. pool_name,
    },
    -- Only process records belonging to this customer's egress pool.
    function(record)
      return record.egress_pool == pool_name
    end
  )
  for batch in tailer:batches() do
    process_batch(batch:records())
    batch:commit()
  end
  tailer:close()
  client:close()
end)
