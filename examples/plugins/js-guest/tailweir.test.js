import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Reject, Retry, Stop, makeFilter, makeProcessor } from './tailweir.js';
import { batchOf } from './testing.js';

const raw = { id: () => 'x', len: () => 1 };
const plugin = { name: 'test', version: '0.1.0' };

/** What is thrown, whatever it is. */
function thrown(call) {
  try {
    call();
  } catch (error) {
    return error;
  }
  assert.fail('nothing was thrown');
}

test('columns have one entry per record', async () => {
  const batch = await batchOf('{"s":"Grüße","n":1.5,"b":true,"i":7}', '{"s":null,"n":"1","b":0,"i":7.5}', '{"s":"你好","v":[1]}');
  assert.deepEqual(batch.strings('/s'), ['Grüße', undefined, '你好']);
  assert.deepEqual(batch.numbers('/n'), [1.5, undefined, undefined]);
  assert.deepEqual(batch.booleans('/b'), [true, undefined, undefined]);
  assert.deepEqual(batch.integers('/i'), [7n, undefined, undefined]);
  assert.deepEqual(batch.values('/v'), [undefined, undefined, [1]]);
  assert.deepEqual(batch.values('/v/0'), [undefined, undefined, 1]);
  assert.throws(() => batch.strings('s'), /no JSON pointer/);
});

test('records are there as texts and as values', async () => {
  const batch = await batchOf('{"a":"ü"}', '[1, 2]');
  assert.equal(batch.length, 2);
  assert.deepEqual(batch.texts(), ['{"a":"ü"}', '[1, 2]']);
  assert.deepEqual(batch.records(), [{ a: 'ü' }, [1, 2]]);
  assert.deepEqual(batch.record(1), [1, 2]);
  assert.deepEqual(batch.position(1), { segment: 'segment', line: 2n, offset: 11n });
});

test('a filter answers with a verdict, or with a reason', () => {
  const answer = (keep) => {
    const { lifecycle, filter } = makeFilter({ ...plugin, keep });
    lifecycle.init('null');
    return filter.evaluate(raw);
  };
  assert.deepEqual(answer(() => true), { tag: 'all' });
  assert.deepEqual(answer(() => false), { tag: 'none' });
  assert.deepEqual(answer(() => [true]), { tag: 'keep', val: [true] });
  assert.match(thrown(() => answer(() => 7)), /^TypeError: keep returned number/);
  assert.match(thrown(() => answer((batch) => batch.nothing.at)), /^TypeError: .*tailweir\.test\.js:\d+/);
});

test('a processor answers with what it has done', () => {
  const answer = (handle) => {
    const { lifecycle, process } = makeProcessor({ ...plugin, handle });
    lifecycle.init('null');
    return process.process(raw);
  };
  assert.deepEqual(answer(() => {}), { tag: 'done' });
  assert.deepEqual(answer(() => ['{}', { a: 1 }]), { tag: 'emit', val: ['{}', '{"a":1}'] });
  const failure = (error) => thrown(() => answer(() => { throw error; }));
  assert.deepEqual(failure(new Retry('busy')), { tag: 'retry', val: { afterMs: undefined, reason: 'busy' } });
  assert.deepEqual(failure(new Retry('busy', { afterMs: 5 })), { tag: 'retry', val: { afterMs: 5n, reason: 'busy' } });
  assert.deepEqual(failure(new Reject([1], 'bad')), { tag: 'reject', val: { indices: Uint32Array.of(1), reason: 'bad' } });
  assert.deepEqual(failure(new Stop('no')), { tag: 'stop', val: 'no' });
  assert.ok(failure(new TypeError('a mistake')) instanceof TypeError);
});

test('a configuration is made by the plug-in, and refused in words', () => {
  const configure = (config) => {
    if (config === null) throw new Error('`pool` is missing');
    return config.pool.toUpperCase();
  };
  const { lifecycle, filter } = makeFilter({ ...plugin, configSchema: {}, configure, keep: (_, config) => config === 'A' });
  assert.equal(lifecycle.describe().configSchema, '{}');
  assert.equal(thrown(() => lifecycle.init('null')), '`pool` is missing');
  lifecycle.init('{"pool":"a"}');
  assert.deepEqual(filter.evaluate(raw), { tag: 'all' });
});
