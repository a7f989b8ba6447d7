import assert from 'node:assert/strict';
import { test } from 'node:test';

import { batchOf } from './guest/testing.js';
import { keep, lifecycle } from './plugin.js';

test('records of the pool are kept', async () => {
  const batch = await batchOf(
    '{"type":"Delivery","egress_pool":"pool-1"}',
    '{"type":"Delivery","egress_pool":"pool-2"}',
    '{"type":"Reception","egress_pool":null}',
    '{"type":"Reception"}',
  );
  assert.deepEqual(keep(batch, { pool: 'pool-1' }), [true, false, false, false]);
});

test('a configuration without a pool is refused', () => {
  for (const config of ['null', '{}', '{"pool":7}']) {
    assert.throws(() => lifecycle.init(config), (reason) => reason.includes('`pool`'));
  }
});
