/** A filter that keeps the records whose `egress_pool` is the one in its configuration. @module */
import { makeFilter } from '../js-guest/tailweir.js';

const configSchema = {
  type: 'object',
  properties: { pool: { type: 'string', description: 'The egress pool whose records are kept.' } },
  required: ['pool'],
  additionalProperties: false,
};

function configure(config) {
  if (typeof config?.pool !== 'string') throw new Error('the configuration needs `pool`, a string');
  return config;
}

export function keep(batch, { pool }) {
  return batch.strings('/egress_pool').map((of) => of === pool);
}

export const { lifecycle, filter } = makeFilter({
  name: 'js-pool-filter',
  version: '0.1.0',
  configSchema,
  configure,
  keep,
});
