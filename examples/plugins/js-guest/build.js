#!/usr/bin/env node
/**
 * Makes a component of a plug-in: `node build.js filter|processor plugin.js -o plugin.wasm`, with
 * `--wit DIR` for the folder of the interface, and `--root DIR` for the folder that holds all modules that it imports, its
 * own by default.
 *
 * @module
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { chdir } from 'node:process';
import { parseArgs } from 'node:util';

import { componentize } from '@bytecodealliance/componentize-js';

const WORLDS = { filter: 'filter-plugin', processor: 'processor-plugin' };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { out: { type: 'string', short: 'o' }, wit: { type: 'string' }, root: { type: 'string' } },
});
const [kind, source] = positionals;
if (!(kind in WORLDS) || source === undefined || !values.out || !values.wit) {
  console.error('usage: build.js filter|processor PLUGIN.js --wit DIR -o PLUGIN.wasm [--root DIR]');
  process.exit(2);
}

const [sourcePath, witPath, out] = [source, values.wit, values.out].map((path) => resolve(path));
// It takes imports from the current folder and below.
chdir(values.root ?? dirname(sourcePath));
const { component } = await componentize({
  sourcePath,
  witPath,
  worldName: WORLDS[kind],
  // What is left is stdio: `console.log` goes to the host's log. A plug-in gets no clock, no random numbers and no network.
  disableFeatures: ['random', 'clocks', 'http', 'fetch-event'],
});
await mkdir(dirname(out), { recursive: true });
await writeFile(out, component);
console.log(`${values.out}: ${component.length} bytes`);
