/** A processor: counts the records of each batch by their `type`, and emits one record with the counts. @module */
import { makeProcessor } from './guest/tailweir.js';

const configSchema = {
  type: ['object', 'null'],
  properties: {
    name: { type: 'string', default: 'summary', description: 'The `type` of the records that are emitted.' },
  },
  additionalProperties: false,
};

function configure(config) {
  const name = config?.name ?? 'summary';
  if (typeof name !== 'string') throw new Error('`name` in the configuration must be a string');
  return { name };
}

/**
 * Is called once per batch. What it returns is written to the consumer's sink, and then the batch is done; it may also ask for
 * the batch again, or have records put in quarantine: see `Retry` and `Reject`. A batch can come more than once, with the same id.
 */
export function handle(batch, { name }) {
  const counts = new Map();
  for (const type of batch.strings('/type')) {
    const key = type ?? 'none';
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return [{ counts: Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1))), type: name }];
}

export const { lifecycle, process } = makeProcessor({
  name: '{{name}}',
  version: '0.1.0',
  configSchema,
  configure,
  handle,
});
