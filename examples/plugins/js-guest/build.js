#!/usr/bin/env node
/**
 * Makes a component of a plug-in: `node build.js filter|processor plugin.js -o plugin.wasm`, with
 * `--wit DIR` for the folder of the interface, and `--root DIR` for the folder that holds all modules that it imports, its
 * own by default.
 *
 * @module
 */
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { chdir, cwd } from 'node:process';
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

/** Where it was started, from where files are named in errors. */
const begun = cwd();
const [sourcePath, wit, out] = [source, values.wit, values.out].map((path) => resolve(path));
try {
  await build();
} catch (error) {
  // What is wrong is in the plug-in's files or on the disk, hardly ever here: a stack of what is here would hide it.
  console.error(error.constructor === Error ? error.message : error.stack);
  process.exitCode = 1;
}

async function build() {
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
}

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

/**
 * The names of the host's interfaces that a module imports, itself or through modules that lie beside it. Throws an error that
 * names file and line if one of them is no JavaScript: the tool itself says no more than how many mistakes there are.
 */
async function interfacesOf(path, found = new Set(), seen = new Set()) {
  seen.add(path);
  const text = await readFile(path, 'utf8');
  const { module, errors } = parseSync(path, text, { showSemanticErrors: true });
  if (errors.length > 0) throw new Error(errors.map((error) => mistake(path, text, error)).join('\n'));
  const exported = module.staticExports.flatMap(({ entries }) => entries);
  for (const { moduleRequest } of [...module.staticImports, ...exported]) {
    const specifier = moduleRequest?.value ?? '';
    const name = /^tailweir:plugin\/([a-z-]+)/.exec(specifier)?.[1];
    if (name !== undefined) found.add(name);
    const beside = resolve(dirname(path), specifier);
    if (!/^\.{0,2}\//.test(specifier) || seen.has(beside)) continue;
    if (!existsSync(beside)) throw new Error(`${placeIn(path, text, moduleRequest.start)}: there is no file ${shownPath(beside)}`);
    await interfacesOf(beside, found, seen);
  }
  return found;
}

function shownPath(path) {
  return relative(begun, path);
}

/** `FILE:LINE:COLUMN`, counted from 1. */
function placeIn(path, text, offset) {
  const lines = text.slice(0, offset).split('\n');
  return `${shownPath(path)}:${lines.length}:${lines.at(-1).length + 1}`;
}

/** An error of the parser in words, with the line below it. */
function mistake(path, text, { message, labels, helpMessage }) {
  // Where there are several places, it is the last one that should not be there.
  const offset = Math.max(0, ...labels.map(({ start }) => start));
  const line = text.split('\n')[text.slice(0, offset).split('\n').length - 1];
  return `${placeIn(path, text, offset)}: ${message}${helpMessage ? ` (${helpMessage})` : ''}\n  ${line.trim()}`;
}
