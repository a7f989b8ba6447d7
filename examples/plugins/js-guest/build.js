#!/usr/bin/env node
/**
 * Makes a component of a plug-in: `node build.js filter|processor plugin.js -o plugin.wasm`, with
 * `--wit DIR` for the folder of the interface, and `--root DIR` for the folder that holds all modules that it imports, its
 * own by default.
 *
 * @module
 */
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { chdir } from 'node:process';
import { parseArgs } from 'node:util';

import { componentize } from '@bytecodealliance/componentize-js';

// The parser that componentize has, found from there: it is no tool of ours.
const { parseSync } = createRequire(import.meta.resolve('@bytecodealliance/componentize-js'))('oxc-parser');

const WORLDS = { filter: 'filter-plugin', processor: 'processor-plugin' };

/** Worlds that have besides what a plug-in need not import. */
const MORE = { state: 'state-processor-plugin', metrics: 'metrics-plugin' };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { out: { type: 'string', short: 'o' }, wit: { type: 'string' }, root: { type: 'string' } },
});
const [kind, source] = positionals;
if (!(kind in WORLDS) || source === undefined || !values.out || !values.wit) {
  console.error('usage: build.js filter|processor PLUGIN.js --wit DIR -o PLUGIN.wasm [--root DIR]');
  process.exit(2);
}

const [sourcePath, wit, out] = [source, values.wit, values.out].map((path) => resolve(path));
// It takes imports from the current folder and below.
chdir(values.root ?? dirname(sourcePath));
const { witPath, worldName } = await makeWorld();
const { component } = await componentize({
  sourcePath,
  witPath,
  worldName,
  // What is left is stdio: `console.log` goes to the host's log. A plug-in gets no clock, no random numbers and no network.
  disableFeatures: ['random', 'clocks', 'http', 'fetch-event'],
}).finally(() => rm(witPath, { recursive: true }));
await mkdir(dirname(out), { recursive: true });
await writeFile(out, component);
console.log(`${values.out}: ${component.length} bytes`);

/**
 * A folder with the interface and a world of what the plug-in imports. The component imports all that its world has, and what
 * imports state is kept to one instance and a checkpoint by the host: it must be in the world of those only that use it.
 */
async function makeWorld() {
  const interfaces = await interfacesOf(sourcePath);
  const worlds = [WORLDS[kind], ...Object.keys(MORE).filter((name) => interfaces.has(name)).map((name) => MORE[name])];
  const witPath = await mkdtemp(join(tmpdir(), 'tailweir-wit-'));
  await cp(wit, witPath, { recursive: true });
  await writeFile(join(witPath, 'guest.wit'), `world guest { ${worlds.map((world) => `include ${world};`).join(' ')} }\n`);
  return { witPath, worldName: 'guest' };
}

/** The names of the host's interfaces that a module imports, itself or through modules that lie beside it. */
async function interfacesOf(path, found = new Set(), seen = new Set()) {
  seen.add(path);
  const { module } = parseSync(path, await readFile(path, 'utf8'));
  const exported = module.staticExports.flatMap(({ entries }) => entries);
  for (const { moduleRequest } of [...module.staticImports, ...exported]) {
    const specifier = moduleRequest?.value ?? '';
    const name = /^tailweir:plugin\/([a-z-]+)/.exec(specifier)?.[1];
    if (name !== undefined) found.add(name);
    const beside = resolve(dirname(path), specifier);
    if (/^\.{0,2}\//.test(specifier) && !seen.has(beside)) await interfacesOf(beside, found, seen);
  }
  return found;
}
