import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { state } from '../js-guest/state.js';
import { batchOf, recorded, reset } from '../js-guest/testing.js';
import { handle, lifecycle } from './plugin.js';

beforeEach(reset);

/** A batch of these records is answered with this one. */
async function check(records, expected) {
  assert.deepEqual(handle(await batchOf(...records), { field: '/type' }), [expected]);
}

test('counts go on from batch to batch', async () => {
  await check(['{"type":"Bounce"}', '{"type":"Delivery"}', '{"type":"7"}'], '{"records":3,"by":{"7":1,"Bounce":1,"Delivery":1}}');
  await check(['{"type":"Bounce"}', '{"x":1}'], '{"records":5,"by":{"7":1,"Bounce":2,"Delivery":1}}');
});

test('metrics tell what was done', async () => {
  await check(['{"type":"Bounce"}', '{"type":"Bounce"}', '{"type":"OOB"}'], '{"records":3,"by":{"Bounce":2,"OOB":1}}');
  assert.equal(recorded('counted_total', { type: 'Bounce' }), 2);
  assert.deepEqual(recorded('batch_types'), [2]);
});

test('a type of any length is counted', async () => {
  await check([`{"type":"x${'é'.repeat(1000)}"}`], `{"records":1,"by":{"x${'é'.repeat(99)}":1}}`);
});

test('state that is no number is not written over', async () => {
  const batch = await batchOf('1');
  state.set('records', 'many');
  assert.throws(() => handle(batch, { field: '/type' }), /the state has no number under `records`/);
  assert.equal(state.getText('records'), 'many');
});

test('a configuration with a field that is no pointer is refused', () => {
  for (const config of ['{"field":7}', '{"field":"type"}']) {
    assert.throws(() => lifecycle.init(config), (reason) => reason.includes('`field`'));
  }
  lifecycle.init('null');
});
