// A client in Node for a server of the test; each scene prints what it saw.

import { Entry, Outbox, PRIORITIES } from "../../../trio_rt/page/trio-rt-session.js";
import { links, open, play, say, sendPatiently, sleep, tally } from "./common.js";

/** Numbers in both directions; the server's end with a message "end". */
async function talk(url, count) {
  const { conn, states } = open(url, { windowMessages: 64 });
  const stream = conn.subscribe("down", "end");
  const speak = async () => {
    const sent = [];
    for (let number = 0; number < Number(count); number += 1) {
      sent.push(await sendPatiently(conn, "up", number));
    }
    return Promise.all(sent.map(({ outcome }) => outcome));
  };
  const speaking = speak();
  let due = 0;
  const wrong = [];
  for await (const item of stream) {
    if (item.type === "end") break;
    if (item.payload !== due) wrong.push(item);
    due += 1;
  }
  const outcomes = tally(await speaking);
  const { phase } = await conn.close();
  const resumed = states.filter((state) => state.resumed).length;
  say({ heard: due, wrong, outcomes, links: links(states), resumed, phase });
}

/** Requests, eight at a time, and replies in parts. */
async function ask(url, count, exchanges, parts) {
  const { conn, states } = open(url);
  let next = 0;
  const replies = [];
  const worker = async () => {
    while (next < Number(count)) {
      const number = (next += 1) - 1;
      replies[number] = (await conn.request("double", number)).payload;
    }
  };
  const told = [];
  const teller = async () => {
    for (let round = 0; round < Number(exchanges); round += 1) {
      const words = [];
      for await (const { payload } of conn.exchange("story", Number(parts))) words.push(payload);
      told.push(words);
    }
  };
  await Promise.all([...Array.from({ length: 8 }, worker), teller()]);
  const refused = await conn.request("nobody").catch(({ kind, code }) => [kind, code]);
  const failed = await conn.request("fail").catch(({ kind, code }) => [kind, code]);
  const late = await conn.request("sleep", null, { timeoutMs: 50 }).catch(({ kind }) => kind);
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 50);
  const { signal } = controller;
  const aborted = await conn.request("sleep", null, { signal }).catch(({ kind }) => kind);
  const early = [];
  for await (const { payload } of conn.exchange("story", 1000)) if (early.push(payload) === 3) break;
  const asleep = (await conn.request("asleep")).payload;
  await conn.close();
  say({ replies, told, refused, failed, late, aborted, early, asleep, links: links(states) });
}

/** What is taken back while nobody hears it, and what is done with it offline. */
async function regret(url) {
  const { conn } = open(url, { outboxMessages: 4, beatMs: 500 });
  const stream = conn.subscribe("deaf", "offline", "mended");
  conn.send("ready");
  await stream.next();
  await sleep(250); // the ack has arrived, and then nothing arrives any more
  const told = {};
  const withdrawn = conn.send("say", "withdrawn");
  const expired = conn.send("say", "expired", { ttlMs: 20 });
  const fleeting = conn.send("say", "fleeting", { whenOffline: "drop" });
  const kept = conn.send("say", "kept");
  await sleep(50);
  told.early = withdrawn.withdraw();
  for await (const { phase } of conn.states()) if (phase === "reconnecting") break;
  const offline = {
    drop: conn.send("say", "drop", { whenOffline: "drop" }),
    evicted: conn.send("say", "evicted", { priority: "low" }),
    taken: conn.send("say", "taken"),
    old: conn.send("say", "old", { key: "k" }),
    young: conn.send("say", "young", { key: "k" }),
    late: conn.send("say", "late", { ttlMs: 20 }),
    urgent: conn.send("say", "urgent", { priority: "critical" }),
  };
  told.queued = offline.taken.withdraw();
  told.fails = [{ whenOffline: "fail" }, {}].map((options, number) => {
    try {
      for (;;) conn.send("say", "more", { ...options, priority: "low" });
    } catch ({ kind }) {
      return `${number} ${kind}`;
    }
  });
  await offline.late.outcome;
  say({ mend: true });
  for (const [name, { outcome }] of Object.entries({ withdrawn, expired, fleeting, kept, ...offline })) {
    const { kind, reason } = await outcome;
    told[name] = reason ?? kind;
  }
  await conn.drain();
  await conn.close();
  say(told);
}

/** One message is never taken by the first server; the second one takes all. */
async function outlive(url) {
  const { conn, states } = open(url);
  const stream = conn.subscribe("hello");
  const items = [(await stream.next()).value];
  const lost = conn.send("say", "lost");
  const request = conn.request("forget").catch(({ kind, outcome }) => [kind, outcome.kind]);
  await conn.request("restart").catch(() => {});
  items.push((await stream.next()).value, (await stream.next()).value);
  const found = await conn.send("say", "found").outcome;
  const outcomes = [(await lost.outcome).kind, await request, found.kind];
  await conn.close();
  say({ items: items.map(({ kind, payload }) => payload ?? kind), outcomes, links: links(states) });
}

/** A stream that is not read until the other has had all that is for it. */
async function dawdle(url, count) {
  const { conn } = open(url, { windowMessages: 16 });
  const slow = conn.subscribe("slow");
  const fast = conn.subscribe("fast");
  const both = conn.subscribe("fast", "slow");
  const all = [];
  const readAll = async () => {
    for await (const { payload } of both) if (all.push(payload) === Number(count) + 8) return;
  };
  const reading = readAll();
  const heard = [];
  for await (const { payload } of fast) if (heard.push(payload) === Number(count)) break;
  const late = [];
  for (let number = 0; number < 8; number += 1) late.push((await slow.next()).value.payload);
  await reading;
  say({ heard, late, all: all.length });
  await conn.close();
}

/** The server drains, and another one is there later. */
async function drain(url) {
  const { conn, states } = open(url);
  const stream = conn.subscribe("hello");
  const kinds = [];
  for await (const { kind } of stream) {
    kinds.push(kind);
    say({ kinds, at: Date.now() });
    if (kinds.length === 3) break;
  }
  const { phase } = await conn.close();
  const { retryAt, cause } = states.find((state) => state.retryAt !== null);
  say({ retryAt, cause, phase });
}

/** Nothing to say: beats are answered. */
async function idle(url) {
  const { conn, states } = open(url, { beatMs: 10, beatTimeoutMs: 600 });
  await conn.subscribe("tick").next();
  await conn.close();
  say({ links: links(states) });
}

/** A token, which the server looks for among the subprotocols, and what is refused. */
async function knock(url, token) {
  const asked = [];
  const give = ({ length } = asked) => (asked.push(length), length === 0 ? "stale" : token);
  const { conn, states } = open(url, { token: give });
  await conn.subscribe("hello").next();
  const { kind } = await conn.send("say").outcome;
  await conn.close();
  const wrong = open(url, { token: "wrong" }).conn;
  const error = await wrong.subscribe().next().catch((refused) => refused.kind);
  const { phase } = await wrong.ended;
  say({ asked: asked.length, kind, links: links(states), error, phase });
}

/** What comes before the first stream is opened is for all that are opened together. */
async function lobby(url) {
  const { conn } = open(url);
  while (conn.state.phase !== "connected") await sleep(5);
  await sleep(100);
  const streams = ["one", "two"].map((type) => conn.subscribe(type));
  const heard = [];
  for (const stream of streams) heard.push((await stream.next()).value.payload);
  await conn.close();
  say({ heard });
}

/** In which order messages leave, of each priority and order. */
async function lanes() {
  const outbox = new Outbox();
  const put = (name, priority, at, order) =>
    outbox.put(new Entry(name, { urgency: PRIORITIES.indexOf(priority), at, order }), [10, 100]);
  put("low", "low", 0);
  put("first", "low", 1, "o");
  put("normal", "normal", 2);
  put("second", "high", 3, "o");
  put("high", "high", 4);
  put("late", "high", 30_500);
  put("urgent", "critical", 40_000);
  const order = [];
  for (let next; (next = outbox.peek()); outbox.remove(next)) order.push(next.text);
  say({ order, bytes: outbox.bytes });
}

/** A page that comes online dials at once. */
async function online() {
  const page = new EventTarget();
  globalThis.addEventListener = page.addEventListener.bind(page);
  globalThis.removeEventListener = page.removeEventListener.bind(page);
  const { conn } = open("ws://127.0.0.1:9", { firstMs: 1e9, capMs: 1e9 });
  const attempts = [];
  for await (const { retryAt, attempt } of conn.states()) {
    if (retryAt !== null) page.dispatchEvent(new Event("online"));
    else if (attempts.push(attempt) === 3) break;
  }
  await conn.close(0.1);
  say({ attempts });
}

/** Options and sends that cannot be, and a signal. */
async function misuse(url) {
  const kinds = [{ colour: "red" }, { capMs: 0 }, { token: 7 }].map((options) => {
    try {
      open(url, options);
      return "none";
    } catch ({ kind }) {
      return kind;
    }
  });
  const controller = new AbortController();
  const { conn } = open(url, { signal: controller.signal, messageBytes: 1000 });
  const circle = {};
  circle.self = circle;
  for (const args of [["a", circle], ["a", "x".repeat(2000)], [7], ["a", 1, { priority: "most" }]]) {
    try {
      conn.send(...args);
    } catch ({ kind }) {
      kinds.push(kind);
    }
  }
  const { outcome } = conn.send("held");
  const waiting = conn.subscribe("nothing").next();
  const asked = conn.request("nothing").catch(({ kind }) => kind);
  controller.abort();
  const { phase, cause } = await conn.ended;
  const { done } = await waiting;
  try {
    conn.send("late");
  } catch ({ kind }) {
    kinds.push(kind);
  }
  say({ kinds, phase, cause, done, asked: await asked, outcome: (await outcome).kind });
}

await play({ talk, ask, regret, outlive, dawdle, drain, idle, knock, lanes, lobby, online, misuse });
