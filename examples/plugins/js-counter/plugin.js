/**
 * A processor that counts records by type, and emits after each batch what it has counted so far. The counts are in its state,
 * so they are exact: no record is counted twice, whatever crashes. What it has done since it was started, batches that came
 * again included, it tells in metrics.
 *
 * @module
 */
import { counter, histogram } from '../js-guest/metrics.js';
import { state } from '../js-guest/state.js';
import { Stop, makeProcessor } from '../js-guest/tailweir.js';

const configSchema = {
  type: ['object', 'null'],
  properties: {
    field: {
      type: 'string',
      default: '/type',
      pattern: '^/([^~]|~[01])*$',
      description: 'JSON pointer to the text that records are counted by.',
    },
  },
  additionalProperties: false,
};

const counted = counter('counted_total', 'Records counted, by type');
const types = histogram('batch_types', 'How many different types a batch had', [1, 2, 5, 10, 20, 50]);

/** The key of the number of all records, and what the keys of the other numbers begin with. */
const RECORDS = 'records';
const BY = 'by/';

/** Room for the bytes of a type that count: a key of state has a limit. */
const room = new Uint8Array(200);
const utf8 = new TextEncoder();

function configure(config) {
  const field = config?.field ?? '/type';
  if (!String(field).startsWith('/')) throw new Error('`field` in the configuration must be a JSON pointer such as "/type"');
  return { field };
}

/** What is left of a type: the characters for which there is room. */
const clip = (type) => type.slice(0, utf8.encodeInto(type, room).read);

/** The number under a key. */
function count(key) {
  const text = state.getText(key) ?? '0';
  if (!/^\d+$/.test(text)) throw new Stop(`the state has no number under \`${key}\`: another program wrote it`);
  return Number(text);
}

const add = (key, more) => state.set(key, String(count(key) + more));

/** What the state has, as JSON with the types in order: an object would put those that look like numbers first. */
function summary() {
  const by = [...state.list(BY)].map((key) => `${JSON.stringify(key.slice(BY.length))}:${count(key)}`);
  return `{"records":${count(RECORDS)},"by":{${by.join(',')}}}`;
}

export function handle(batch, { field }) {
  const counts = new Map();
  for (const type of batch.strings(field)) {
    if (type === undefined) continue;
    const key = clip(type);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  add(RECORDS, batch.length);
  for (const [type, more] of counts) {
    add(BY + type, more);
    counted.labelled({ type }).add(more);
  }
  types.observe([counts.size]);
  return [summary()];
}

export const { lifecycle, process } = makeProcessor({
  name: 'js-counter',
  version: '0.1.0',
  configSchema,
  configure,
  handle,
});
