// A client, and servers that do what none should; prints a line for each: what became of it.

import { createServer } from "node:http";

import { Entry, Outbox, Session } from "../../../trio_rt/page/trio-rt-session.js";
import { open, play, say, sleep, ws } from "./common.js";

const TERMS = { window: [4, 2048], held: [0, 0], replay: [8, 4096], message_bytes: 512 };
const ZERO = { settled: 0, received: 0, consumed: 0, messages: 0, bytes: 0, drops: [] };
const WELCOME = JSON.stringify(["welcome", "s", "t", false, TERMS, ZERO]);
const GOOD = '[1,0,0,0,0,0,[]]\n{"type":"good"}';

/** A server whose links do what `serve(socket, number of this link)` does with them. */
async function listen(serve, options = {}) {
  const server = new ws.WebSocketServer({ port: 0, host: "127.0.0.1", ...options });
  await new Promise((resolve) => server.once("listening", resolve));
  const seen = { offers: [], codes: [] };
  server.on("connection", (socket, request) => {
    const offer = request.headers["sec-websocket-protocol"] ?? "";
    const number = seen.offers.push(offer);
    socket.on("close", (code) => seen.codes.push(code));
    serve(socket, number);
  });
  return { server, seen, url: `ws://127.0.0.1:${server.address().port}` };
}

const pick = (offered) => (offered.has("trio-rt.v1+json") ? "trio-rt.v1+json" : false);

/** On its first link each server says one of these behind the welcome; on the second all is well. */
const SAID = {
  "no json": "hello",
  "an empty message": "",
  "no header": '{"type":"chat"}',
  "a float": "[1.0,0,0,0,0,0,[]]",
  "an exponent": "[1e0,0,0,0,0,0,[]]",
  "a gap": '[2,0,0,0,0,0,[]]\n{"type":"chat"}',
  "received what was not sent": "[1,0,1,0,0,0,[]]",
  "credit for nothing": "[1,0,0,0,1,1,[]]",
  "settled that was not said": "[1,1,0,0,0,0,[]]",
  "drops of nothing": "[1,0,0,0,0,0,[[1,1]]]",
  "an unknown frame": '[1,0,0,0,0,0,[]]\n["dance",1]',
  "a frame of the prototype": '[1,0,0,0,0,0,[]]\n["constructor",1]',
  "a frame that is cut": '[1,0,0,0,0,0,[]]\n["end",1',
  "no envelope": '[1,0,0,0,0,0,[]]\n["end",1,null]',
  "an answer to nothing": '[1,0,0,0,0,0,[]]\n["end",1,{"type":"x"}]',
  "an aside that is none": '[1,0,0,0,0,0,[]]\n["aside",7]',
  "a bye that is none": '[1,0,0,0,0,0,[]]\n["bye",null]',
  "more than the window": `[1,0,0,0,0,0,[]]${'\n{"type":"slow"}'.repeat(9)}`,
  "more frames than 4096": `[1,0,0,0,0,0,[]]${'\n["void"]'.repeat(4097)}`,
  "a second welcome": WELCOME,
  "binary": Buffer.from([1, 2, 3]),
};
const LARGE = {
  "a large frame": `[1,0,0,0,0,0,[]]\n"${"x".repeat(2000)}"`,
  "a large batch": "x".repeat(100_000),
};

async function one(name, said, more) {
  const serve = (socket, number) => {
    socket.once("message", () => {
      socket.send(WELCOME);
      socket.send(number === 1 ? said : GOOD);
    });
  };
  const { server, seen, url } = await listen(serve, { handleProtocols: pick });
  const limits = { windowMessages: 8, messageBytes: 1000 };
  const { conn } = open(url, { ...limits, ...more });
  const stream = conn.subscribe("good");
  const slow = conn.subscribe("slow");
  const items = [];
  try {
    while (items.at(-1) !== "good") {
      const { value } = await stream.next();
      items.push(value.type ?? value.kind);
      await slow.return();
    }
  } catch (error) {
    items.push(error.kind);
  }
  await conn.close();
  while (seen.codes.length === 0) await sleep(5);
  server.close();
  say({ name, code: seen.codes[0], items: [...new Set(items)] });
}

/** Illegal input closes the link, and a new session begins; what is too large ends it all. */
async function illegal() {
  for (const [name, said] of Object.entries({ ...SAID, ...LARGE })) await one(name, said);
}

/** As `WebSocket` is in a page: it may close with 1000 and from 3000 to 4999 only. */
async function page() {
  class PageSocket extends ws.WebSocket {
    terminate = undefined;
    close(code = 1000, reason = "") {
      if (code !== 1000 && (code < 3000 || code > 4999)) throw new TypeError("InvalidAccessError");
      super.close(code, reason);
    }
  }
  await one("page", SAID["a gap"], { WebSocket: PageSocket });
  await one("page, large", LARGE["a large frame"], { WebSocket: PageSocket });
}

/** Servers without sessions, each in its way. */
async function unable() {
  const echo = (socket) => socket.on("message", (data) => socket.send(data.toString()));
  const servers = {
    "picks nothing": [echo, { handleProtocols: () => false }],
    "picks the plain one": [echo, { handleProtocols: () => "trio-rt.plain" }],
    "refuses with 400": [echo, { verifyClient: (_, answer) => answer(false, 400) }],
    "sends no welcome": [echo, { handleProtocols: pick }],
    "is silent": [() => {}, { handleProtocols: pick }],
  };
  for (const [name, [serve, options]] of Object.entries(servers)) {
    const { server, seen, url } = await listen(serve, options);
    const { conn } = open(url, { openMs: 100 });
    const { outcome } = conn.send("say", name);
    const failed = await conn.subscribe().next().catch(({ kind }) => kind);
    const { kind } = await outcome;
    server.close();
    say({ name, failed, kind, offers: [...new Set(seen.offers)], links: seen.offers.length });
  }
}

/** A server that has welcomed is dialled again, also when it refuses or has no sessions for a while. */
async function welcomed() {
  const offers = [];
  const verifyClient = ({ req }, answer) => {
    const number = offers.push(req.headers["sec-websocket-protocol"] ?? "");
    answer(![2, 3].includes(number), 400);
  };
  const pickLate = (offered) => (offers.length === 4 ? "trio-rt.plain" : pick(offered));
  const serve = (socket, number) =>
    socket.once("message", () => {
      socket.send(WELCOME);
      socket.send(GOOD);
      if (number < 6) setTimeout(() => socket.terminate(), 20);
    });
  const { server, url } = await listen(serve, { handleProtocols: pickLate, verifyClient });
  const { conn } = open(url);
  const stream = conn.subscribe("good");
  const lazy = conn.subscribe("nothing");
  const items = [];
  while (items.length < 5) {
    const { value } = await stream.next();
    items.push(value.type ?? value.kind);
  }
  await conn.close();
  server.close();
  const resets = [];
  for await (const { kind } of lazy) resets.push(kind);
  say({ offers, items, resets });
}

/** What ends a connection, and what does not. */
async function ends() {
  for (const code of [1000, 1002, 1003, 1008, 1011, 3500, 4000, 4401, 4409, 4500]) {
    const { server, seen, url } = await listen((socket) => socket.close(code), { handleProtocols: pick });
    const { conn, states } = open(url);
    const failing = conn.subscribe().next().then(() => null, ({ kind }) => kind);
    const failed = await Promise.race([failing, sleep(250)]);
    await conn.close(1);
    server.close();
    say({ code, failed: failed ?? null, links: seen.offers.length, phase: states.at(-1).phase });
  }
  for (const status of [401, 404, 503]) {
    const server = createServer();
    let count = 0;
    server.on("upgrade", (_, socket) => {
      count += 1;
      socket.end(`HTTP/1.1 ${status} No\r\nContent-Length: 0\r\n\r\n`);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { conn, states } = open(`ws://127.0.0.1:${server.address().port}`);
    const failing = conn.subscribe().next().then(() => null, ({ kind }) => kind);
    const failed = await Promise.race([failing, sleep(250)]);
    await conn.close(1);
    server.close();
    say({ status, failed: failed ?? null, phase: states.at(-1).phase, isRetried: count > 1 });
  }
}

/** A server that says nothing of its own, and acknowledges voids; behind the third it is good. */
async function idle() {
  let voids = 0;
  const serve = (socket) => {
    socket.once("message", () => {
      socket.send(WELCOME);
      socket.on("message", (data) => {
        const [header, ...frames] = data.toString().split("\n");
        if (frames.length === 0) return;
        const [first] = JSON.parse(header);
        voids += frames.filter((frame) => frame === '["void"]').length;
        socket.send(`[1,0,${first},${first},0,0,[]]${voids === 3 ? '\n{"type":"good"}' : ""}`);
      });
    });
  };
  const { server, seen, url } = await listen(serve, { handleProtocols: pick });
  const { conn } = open(url, { beatMs: 100, beatTimeoutMs: 250 });
  await conn.subscribe("good").next();
  await conn.close();
  server.close();
  say({ voids, links: seen.offers.length });
}

/** Two messages lie there while the session is lost; one is taken before the next welcome, one behind it. */
async function held() {
  const hellos = [];
  const credits = [];
  let done;
  const taken = new Promise((resolve) => (done = resolve));
  let stream;
  const serve = (socket, number) => {
    socket.once("message", async (data) => {
      hellos.push(JSON.parse(data));
      if (number === 2) await stream.next();
      socket.send(WELCOME);
      if (number === 1) socket.send('[1,0,0,0,0,0,[]]\n{"type":"slow"}\n{"type":"slow"}\n{"type":"good"}');
      else stream.next();
      socket.on("message", (batch) => {
        if (number === 1) return;
        const [, , , , messages, bytes] = JSON.parse(batch.toString().split("\n")[0]);
        credits.push([messages, bytes]);
        if (messages === 2) done();
      });
    });
  };
  const { server, url } = await listen(serve, { handleProtocols: pick });
  const { conn } = open(url);
  stream = conn.subscribe("slow");
  await conn.subscribe("good").next();
  for (const socket of server.clients) socket.terminate();
  await taken;
  await conn.close();
  server.close();
  say({ held: hellos.map(([, , , terms]) => terms.held), credit: credits.at(-1) });
}

/** What comes behind a bye is passed over, also if it is nonsense; then a new session is asked for. */
async function bye() {
  const serve = (socket, number) => {
    socket.once("message", () => {
      socket.send(WELCOME);
      if (number > 1) socket.send(GOOD);
      else {
        socket.send('[1,0,0,0,0,0,[]]\n["bye","for now"]');
        socket.send("nonsense");
        socket.close(1000);
      }
    });
  };
  const { server, seen, url } = await listen(serve, { handleProtocols: pick });
  const { conn, states } = open(url);
  const stream = conn.subscribe("good");
  const kinds = [(await stream.next()).value.kind, (await stream.next()).value.kind];
  await conn.close();
  server.close();
  const { cause } = states.find((state) => state.cause !== null);
  say({ kinds, cause, links: seen.offers.length });
}

/** When to come back, in the reason of a close or of a bye: more than the cap, and at most ten of it. */
async function advice() {
  const waits = {};
  for (const reason of ["retry-after=0.2", "later; retry-after=1000", "no-retry-after=1000", "bye"]) {
    const serve = (socket) => {
      socket.once("message", () => {
        socket.send(WELCOME);
        if (reason === "bye") socket.send('[1,0,0,0,0,0,[]]\n["bye","retry-after=1000"]');
        socket.close(1012, reason);
      });
    };
    const { server, url } = await listen(serve, { handleProtocols: pick });
    const { conn } = open(url, { capMs: 50 });
    for await (const { retryAt } of conn.states()) {
      if (retryAt === null) continue;
      waits[reason] = retryAt - Date.now();
      break;
    }
    await conn.close(1);
    server.close();
  }
  say(waits);
}

/** A quarter of the window is acknowledged at once: it does not take the timer. */
async function urgent() {
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (act, ms) => setTimeout(act, ms === 100 ? 1e9 : ms);
  const acks = [];
  const said = [];
  const serve = (socket) => {
    socket.once("message", () => {
      socket.send(WELCOME);
      socket.on("message", (data) => {
        const [header, ...frames] = data.toString().split("\n");
        said.push(...frames);
        if (acks.at(-1) === 4) return;
        acks.push(JSON.parse(header)[4]);
        if (acks.at(-1) < 4) socket.send(`[${acks.at(-1) + 1},0,0,0,0,0,[]]\n{"type":"good"}`);
        else conn.close();
      });
      socket.send(GOOD);
    });
  };
  const { server, seen, url } = await listen(serve, { handleProtocols: pick });
  const { conn } = open(url, { windowMessages: 4, beatMs: 60_000 });
  for await (const _ of conn.subscribe("good"));
  const { phase } = await conn.ended;
  while (seen.codes.length === 0) await sleep(5);
  server.close();
  globalThis.setTimeout = setTimeout;
  say({ phase, acks, said });
}

/** Legal batches in which letters were changed: whatever is thrown is a breach of the protocol. */
async function noise() {
  const batches = [
    '[1,0,0,0,0,0,[]]\n{"type":"chat","payload":{"a":[1,2]}}\n["void"]',
    '[1,0,1,1,1,20,[[1,1]]]\n["req",1,null,[0,0],null,{"type":"x"}]',
    '[1,0,1,0,0,0,[]]\n["end",7,{"type":"x"}]\n["fail",7,"a","b"]\n["part",7,{"type":"x"}]',
    '[1,0,0,0,0,0,[]]\n["aside",{"type":"x"}]\n["more",1,[1,1]]\n["cancel",1]\n["bye","x"]',
  ];
  const letters = '[]{},:"0123456789.-e\n\\ntrue';
  const host = { message: () => {}, aside: () => {}, malformed: () => {}, bye: () => {} };
  const outbox = new Outbox();
  let seed = 1;
  const draw = (limit) => (seed = (seed * 48_271) % 2_147_483_647) % limit;
  const counts = { taken: 0, breaches: 0, others: [] };
  for (let round = 0; round < 20_000; round += 1) {
    const session = new Session(TERMS, JSON.parse(WELCOME), host);
    session.notes.push(new Entry('["cancel",7]'));
    session.batch(outbox);
    session.requests.set(7, { id: 7, offered: [1, 10], got: [0, 0], told: [0, 0], part() {}, answer() {} });
    const said = [...batches[draw(batches.length)]];
    for (let change = draw(3); change > 0; change -= 1) {
      said.splice(draw(said.length), draw(2), letters[draw(letters.length)]);
    }
    try {
      session.feed(said.join(""));
      session.batch(outbox, true);
      counts.taken += 1;
    } catch (error) {
      if (error.code === 1002 || error.code === 1009) counts.breaches += 1;
      else counts.others.push(`${error.stack} ${said.join("")}`);
    }
  }
  say(counts);
}

await play({ noise, illegal, page, unable, welcomed, idle, held, bye, advice, urgent, ends });
