/** A processor that turns each batch into one record: how many records it has, and how many of each type. @module */
import { makeProcessor } from '../js-guest/tailweir.js';

const configSchema = {
  type: ['object', 'null'],
  properties: {
    field: {
      type: 'string',
      default: '/type',
      pattern: '^/([^~]|~[01])*$',
      description: 'The field whose values are counted, as a JSON pointer.',
    },
  },
  additionalProperties: false,
};

function configure(config) {
  const field = config?.field ?? '/type';
  if (!String(field).startsWith('/')) throw new Error('`field` in the configuration must be a JSON pointer such as "/type"');
  return { field };
}

export function handle(batch, { field }) {
  const counts = new Map();
  for (const type of batch.strings(field)) {
    if (type !== undefined) counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  const types = Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1)));
  return [{ batch: batch.id, records: batch.length, types }];
}

export const { lifecycle, process } = makeProcessor({
  name: 'js-summary',
  version: '0.1.0',
  configSchema,
  configure,
  handle,
});
