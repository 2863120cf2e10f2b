// What the scripts here have in common: the class of sockets, and how they talk to the tests.

import { createRequire } from "node:module";

import { connect } from "../../../trio_rt/page/trio-rt.js";

const require = createRequire(new URL("../../net/peers/node/package.json", import.meta.url));

export const ws = require("ws");
export const { WebSocket } = ws;

/** Times that do not keep a test waiting. */
export const QUICK = { WebSocket, firstMs: 10, capMs: 50, beatMs: 200, beatTimeoutMs: 300 };

/** Tell the test: a line of JSON. */
export function say(fields) {
  process.stdout.write(`${JSON.stringify(fields)}\n`);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Connect, and note the states. */
export function open(url, options = {}) {
  const conn = connect(url, { ...QUICK, ...options });
  const states = [];
  const watch = async () => {
    for await (const state of conn.states()) states.push(state);
  };
  return { conn, states, watched: watch() };
}

/** Send; waits while the outbox is full. */
export async function sendPatiently(conn, ...message) {
  for (;;) {
    try {
      return conn.send(...message);
    } catch (error) {
      if (error.kind !== "outbox_full") throw error;
      await sleep(2);
    }
  }
}

/** How often each outcome came. */
export function tally(outcomes) {
  const counts = {};
  for (const { kind, reason } of outcomes) {
    const name = reason === null ? kind : `${kind} (${reason})`;
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

export const links = (states) => states.filter(({ phase }) => phase === "connected").length;

/** Run the scene that the first argument names, with the others. */
export async function play(scenes) {
  const [name, ...words] = process.argv.slice(2);
  await scenes[name](...words);
  say("end");
}
