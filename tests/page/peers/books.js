// The books of a session alone, against a server that is played by hand; prints a line for each
// check: {"name", "error"}.

import { deepStrictEqual as equal, throws } from "node:assert";

import { Entry, Outbox, Session } from "../../../trio_rt/page/trio-rt-session.js";

const MANY = [1e9, 1e9];
const TERMS = { window: [4, 1e6], held: [0, 0], replay: [1000, 1e6], message_bytes: 1e6 };
const ZERO = { settled: 0, received: 0, consumed: 0, messages: 0, bytes: 0, drops: [] };

function begin(mine = {}, theirs = {}) {
  const welcome = ["welcome", "s", "t", false, { ...TERMS, ...theirs }, ZERO];
  const host = { message: (_, entry) => arrived.push(entry), malformed() {}, aside() {}, bye() {} };
  const arrived = [];
  const session = new Session({ ...TERMS, ...mine }, welcome, host);
  const outbox = new Outbox();
  const put = (size, more = {}) => {
    const entry = new Entry("x".repeat(size), { urgency: 1, at: 0, ...more });
    return outbox.put(entry, MANY) && entry;
  };
  /** The number of the first frame of the next batch, and how many it has; null for none. */
  const go = () => {
    const [header, ...frames] = session.batch(outbox)?.split("\n") ?? [];
    return header ? [JSON.parse(header)[0], frames.length] : null;
  };
  const header = (...more) => JSON.parse(session.batch(outbox, true, ...more).split("\n")[0]);
  return { session, outbox, arrived, put, go, header };
}

const messages = (count) => '\n{"type":"x"}'.repeat(count);

const CHECKS = {
  "what is kept for a replay has a bound in frames"() {
    const { session, put, go } = begin({ replay: [3, 1e6] }, { window: [100, 1e6] });
    for (let count = 0; count < 5; count += 1) put(10);
    equal(session.window[0], 3);
    equal(go(), [1, 3]);
    equal(go(), null);
    session.feed("[1,0,2,2,2,20,[]]");
    equal(go(), [4, 2]);
  },

  "and in bytes, for ever"() {
    const { session, put, go } = begin({ replay: [100, 25] }, { window: [100, 100] });
    for (let number = 1; number < 50; number += 2) {
      put(20);
      put(20);
      equal(go(), [number, 1]);
      session.feed(`[1,0,${number},${number},${number},${20 * number},[]]`);
      equal(go(), [number + 1, 1]);
      session.feed(`[1,0,${number + 1},${number + 1},${number + 1},${20 * (number + 1)},[]]`);
    }
  },

  "notes have that bound, too"() {
    const { session, go } = begin({ replay: [2, 1e6] });
    for (let id = 1; id < 4; id += 1) {
      session.requests.set(id, { id });
      session.cancel(session.requests.get(id));
    }
    equal(go(), [1, 2]);
    session.feed("[1,0,1,1,0,0,[]]");
    equal(go(), [3, 1]);
  },

  "no more than 16 windows are not settled"() {
    const { session, put, go } = begin();
    for (let count = 0; count < 100; count += 1) put(1);
    for (let sent = 0; sent < 64; sent += 4) {
      equal(go(), [sent + 1, 4]);
      session.feed(`[1,0,${sent + 4},0,${sent + 4},${sent + 4},[]]`);
    }
    equal(go(), null);
    session.feed("[1,0,64,1,64,64,[]]");
    equal(go(), [65, 1]);
  },

  "a batch has 64 KiB, or one larger frame behind less"() {
    const { put, go } = begin();
    for (const size of [40_000, 40_000, 100_000, 10]) put(size);
    equal(go(), [1, 1]);
    equal(go(), [2, 2]);
    equal(go(), [4, 1]);
  },

  "what takes the place of another one goes when that would have gone"() {
    const { outbox, put } = begin();
    put(1, { at: 1 });
    const old = put(2, { at: 0, key: "k" });
    const young = put(3, { at: 9, key: "k" });
    equal([outbox.peek(), outbox.bytes, outbox.entries.length], [young, 4, 2]);
    return old.outcome.then((outcome) => equal(outcome, { kind: "dropped", reason: "replaced" }));
  },

  "the least urgent goes for what is more urgent, and the oldest of these"() {
    const outbox = new Outbox();
    const put = (text, urgency) => outbox.put(new Entry(text, { urgency, at: 0 }), [4, 10]);
    const left = () => outbox.entries.map(({ text }) => text).join(" ");
    equal(["n1", "l1", "l2", "h1"].map((text, at) => put(text, [1, 0, 0, 2][at])), [true, true, true, true]);
    equal([put("l3", 0), left()], [false, "n1 l1 l2 h1"]);
    equal([put("n2", 1), left()], [true, "n1 l2 h1 n2"]);
    equal([put("h2", 2), left()], [true, "n1 h1 n2 h2"]);
    equal([put("largest", 3), left()], [true, "h2 largest"]);
    equal([put("too large ", 3), left(), outbox.bytes], [false, "h2 largest", 9]);
  },

  "drops are listed once on a link, again after it, and again with a bye"() {
    const { session, arrived, header } = begin();
    session.feed(`[1,0,0,0,0,0,[]]${messages(3)}`);
    session.take(arrived[0], true);
    session.take(arrived[1]);
    session.take(arrived[2], true);
    equal(header(), [1, 0, 3, 3, 3, 36, [[1, 1], [3, 3]]]);
    session.feed(`[4,0,0,0,0,0,[]]${messages(1)}`);
    session.take(arrived[3], true);
    equal(header(), [1, 0, 4, 4, 4, 48, [[4, 4]]]);
    const [, , , , position] = JSON.parse(Session.hello(TERMS, session));
    equal(position, { settled: 0, received: 4, consumed: 4, messages: 4, bytes: 48, drops: [[1, 1], [3, 4]] });
    session.resume(["welcome", "s", "t2", true, TERMS, { ...ZERO, settled: 3 }]);
    session.feed(`[5,3,0,0,0,0,[]]${messages(1)}`);
    session.take(arrived[4]);
    equal(header(), [1, 0, 5, 5, 5, 60, [[4, 4]]]);
    equal(header(""), [1, 0, 5, 5, 5, 60, [[4, 4]]]);
  },

  "a header has 256 ranges, and the next one the others"() {
    const { session, arrived, header } = begin({ window: [1000, 1e6] });
    session.feed(`[1,0,0,0,0,0,[]]${messages(600)}`);
    for (const entry of arrived) session.take(entry, entry.number % 2 === 0);
    const first = header();
    equal([first[3], first[6].length, first[6].at(-1)], [513, 256, [512, 512]]);
    const second = header();
    equal([second[3], second[6].length, second[6][0]], [600, 44, [514, 514]]);
  },

  "no more than 1024 requests are without an answer"() {
    const { session } = begin({ window: [5000, 1e6] }, { replay: [5000, 1e6] });
    const ask = (first, last) => {
      const ids = Array.from({ length: last - first + 1 }, (_, at) => first + at);
      const lines = ids.map((id) => `["req",${id},null,[0,0],null,{"type":"x"}]`);
      session.feed([`[${first},0,0,0,0,0,[]]`, ...lines].join("\n"));
    };
    ask(1, 1024);
    throws(() => ask(1025, 1025), { code: 1002 });
  },

  "what was taken back becomes a void in the replay, if it has not arrived"() {
    const { session, outbox, put, go } = begin();
    const entries = [put(5), put(5), put(5)];
    equal(go(), [1, 3]);
    for (const entry of entries.slice(0, 2)) entry.back = ["withdrawn", null];
    session.resume(["welcome", "s", "t2", true, TERMS, { ...ZERO, received: 1 }]);
    equal(session.inFlight, [2, 10]);
    equal(session.batch(outbox).split("\n").slice(1), ['["void"]', "xxxxx"]);
    return entries[1].outcome.then(({ kind }) => equal(kind, "withdrawn"));
  },

  "a void takes no room, and its request gets no answer"() {
    const { session, put, go } = begin({ replay: [100, 30] }, { window: [100, 1000] });
    const asked = put(40, { request: { id: 7 } });
    equal(go(), [1, 1]);
    put(10);
    equal(go(), null);
    asked.back = ["withdrawn", null];
    session.resume(["welcome", "s", "t2", true, TERMS, ZERO]);
    equal(go(), [1, 2]);
    throws(() => session.feed('[1,0,1,1,0,0,[]]\n["end",7,{"type":"x"}]'), { code: 1002 });
  },

  "a position may be behind in what is consumed, and what is settled stays"() {
    const { session, put, go, header } = begin();
    put(1);
    put(1);
    go();
    session.feed("[1,0,2,2,0,0,[]]");
    session.resume(["welcome", "s", "t2", true, TERMS, { ...ZERO, received: 2, consumed: 1 }]);
    session.probe();
    equal(header().slice(0, 4), [3, 2, 0, 0]);
    throws(() => session.feed("[1,0,1,1,0,0,[]]"), { code: 1002 });
    const more = begin();
    more.put(1);
    throws(() => more.session.resume(["welcome", "s", "t2", true, TERMS, { ...ZERO, more: 1 }]), { code: 1002 });
  },

  "what a hello says is told"() {
    const { session, arrived, header } = begin({ window: [2000, 1e6] }, { replay: [2000, 1e6] });
    session.feed(`[1,0,0,0,0,0,[]]${messages(600)}`);
    for (const entry of arrived) session.take(entry, entry.number % 2 === 0);
    Session.hello(TERMS, session);
    session.resume(["welcome", "s", "t2", true, TERMS, { ...ZERO, settled: 2 }]);
    session.feed(`[601,2,0,0,0,0,[]]${messages(1)}`);
    session.take(arrived[600], true);
    equal(header().slice(3), [601, 601, 7212, [[601, 601]]]);
  },

  "a header may have 256 ranges"() {
    const ranges = (count) => JSON.stringify(Array.from({ length: count }, (_, at) => [2 * at + 1, 2 * at + 1]));
    for (const count of [256, 257]) {
      const { session, put, go } = begin({}, { window: [1000, 1e6] });
      for (let each = 0; each < 600; each += 1) put(1);
      equal(go(), [1, 600]);
      const feed = () => session.feed(`[1,0,600,600,600,600,${ranges(count)}]`);
      if (count === 256) feed();
      else throws(feed, { code: 1002 });
    }
  },

  "parts have a bound in bytes, and one may cross a quarter of it"() {
    const part = '["part",7,{"type":"x"}]';
    const asked = (bytes) => {
      const { session } = begin();
      const request = { id: 7, offered: [9, bytes], got: [0, 0], taken: [0, 0], told: [0, 0], part() {}, answer() {} };
      session.requests.set(7, request);
      return { session, request };
    };
    throws(() => asked(20).session.feed(`[1,0,0,0,0,0,[]]\n${part}\n${part}`), { code: 1002 });
    const { session, request } = asked(49);
    session.feed(`[1,0,0,0,0,0,[]]${`\n${part}`.repeat(4)}`);
    equal(request.got, [4, 48]);
    session.takePart(request, 12);
    equal(session.notes.length, 0);
    session.takePart(request, 12);
    equal(session.notes.map(({ text }) => text), ['["more",7,[2,24]]']);
    session.feed('[5,0,0,0,0,0,[]]\n["end",7,{"type":"x"}]');
    session.takePart(request, 24);
    equal(session.notes.length, 1);
  },

  "the window is the smaller one of both sides' memories"() {
    const { session } = begin({}, { replay: [2, 1e6] });
    throws(() => session.feed(`[1,0,0,0,0,0,[]]${messages(3)}`), { code: 1002 });
  },

  "what is larger than the other takes is not sent"() {
    const { put, go } = begin({}, { message_bytes: 100 });
    const large = put(200);
    put(10);
    equal(go(), [1, 1]);
    return large.outcome.then((outcome) => equal(outcome, { kind: "dropped", reason: "oversize" }));
  },

  "a message of an earlier session is credit, and has no number in this one"() {
    const { session, arrived, header } = begin({ held: [1, 12] });
    session.feed(`[1,0,0,0,0,0,[]]${messages(1)}`);
    session.take({ ...arrived[0], session: null });
    equal(header(), [1, 0, 1, 0, 1, 12, []]);
  },

  "what came, what is consumed and credit alone are news"() {
    const { session, arrived, outbox, header } = begin();
    session.feed(`[1,0,0,0,0,0,[]]${messages(2)}`);
    equal(header(), [1, 0, 2, 0, 0, 0, []]);
    session.take(arrived[1]);
    equal(header(), [1, 0, 2, 0, 1, 12, []]);
    session.take(arrived[0]);
    equal(header(), [1, 0, 2, 2, 2, 24, []]);
    equal(session.batch(outbox, true), null);
  },

  "terms of 0 are none"() {
    for (const terms of [{ window: [0, 1] }, { replay: [1, 0] }, { message_bytes: 0 }]) {
      const welcome = ["welcome", "s", "t", false, { ...TERMS, ...terms }, ZERO];
      throws(() => Session.readWelcome(JSON.stringify(welcome), null), { code: 1002 });
    }
  },

  "nothing is said when there is nothing to say"() {
    const { session, outbox } = begin();
    equal(session.batch(outbox, true), null);
  },

  "only a side whose frames have all been received asks for a sign of life"() {
    const { session, put, go } = begin();
    put(1);
    equal(go(), [1, 1]);
    session.probe();
    equal(go(), null);
    session.feed("[1,0,1,1,1,1,[]]");
    session.probe();
    session.probe();
    equal(go(), [2, 1]);
  },
};

for (const [name, check] of Object.entries(CHECKS)) {
  let error = null;
  try {
    await check();
  } catch (problem) {
    error = problem.stack;
  }
  process.stdout.write(`${JSON.stringify({ name, error })}\n`);
}
process.stdout.write('"end"\n');
