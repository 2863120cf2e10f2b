// A client of trio-rt for browsers and Node: connections that outlive their links.
//
// docs/javascript.md is how it is used; docs/protocol.md is what travels. From the bottom up:
// `Session` (the books of one session, no I/O), `Outbox`, `Stream`, `Connection`.

const PLAIN = "trio-rt.plain";
const NUMBERED = "trio-rt.v1+json";
const TOKEN = "trio-rt.token.";

const ACK_MS = 100;
const BATCH_BYTES = 65_536;
const FRAMES = 4096;
const RANGES = 256;
const REQUESTS = 1024;
const BUFFERED_BYTES = 262_144;
const POLL_MS = 10;
const STATES = 64;
const TIMER_MS = 2 ** 31 - 1;

const PRIORITIES = ["low", "normal", "high", "critical"];
/** How much later something more urgent may come and still overtake. */
const PATIENCE_MS = { low: 30_000, normal: 10_000, high: 2_000, critical: -Infinity };

/** These close codes would come again: the connection has failed. */
const FATAL = { 1008: "refused", 3000: "refused", 4401: "refused", 4409: "taken_over" };

const DEFAULTS = {
  firstMs: 500, capMs: 30_000, minUptimeMs: 5_000, openMs: 10_000, closeMs: 5_000,
  beatMs: 15_000, beatTimeoutMs: 10_000, quietMs: Infinity,
  windowMessages: 256, windowBytes: 4_194_304, messageBytes: 1_048_576,
  outboxMessages: 1_000, outboxBytes: 4_194_304,
};

const encoder = new TextEncoder();
const bytesOf = (text) => encoder.encode(text).length;
const now = () => performance.now();
const isNumber = (value) => Number.isSafeInteger(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isPair = (value) => Array.isArray(value) && value.length >= 2 && value.slice(0, 2).every(isNumber);

/** What this client throws; `kind` says what it is, and "refused" has a `code` of the handler. */
export class RealtimeError extends Error {
  constructor(kind, text, more = {}) {
    super(text);
    this.name = "RealtimeError";
    this.kind = kind;
    Object.assign(this, more);
  }
}

/** The other side broke the protocol; `code` is what the link is closed with. */
export class Breach extends Error {
  constructor(text, code = 1002, ends = true) {
    super(text);
    this.code = code;
    this.ends = ends;
  }
}

function insist(holds, rule) {
  if (!holds) throw new Breach(rule);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function toJson(value) {
  try {
    return JSON.stringify(value);
  } catch (error) {
    throw new RealtimeError("payload", `the payload must fit in JSON (${error.message})`);
  }
}

/** The message in an envelope, or null if it is none. */
function decode(envelope) {
  if (!isObject(envelope) || typeof envelope.type !== "string") return null;
  const { type, payload = null, id, timestamp, priority, key } = envelope;
  return {
    kind: "message", type, payload,
    id: typeof id === "string" ? id : "",
    timestamp: isNumber(timestamp) ? timestamp : null,
    priority: PRIORITIES.includes(priority) ? priority : "normal",
    key: typeof key === "string" ? key : null,
  };
}

/** The bytes of the envelope in the text of a "part": of the object that begins at its brace. */
function envelopeBytes(text) {
  const start = text.indexOf("{");
  let depth = 0;
  let quoted = false;
  for (let at = start; at < text.length; at += 1) {
    const letter = text[at];
    if (quoted && letter === "\\") at += 1;
    else if (letter === '"') quoted = !quoted;
    else if (!quoted && letter === "{") depth += 1;
    else if (!quoted && letter === "}" && (depth -= 1) === 0) return bytesOf(text.slice(start, at + 1));
  }
  return 0;
}

/** Well-formed ranges up to `last`, in order and apart. */
function checkDrops(drops, last) {
  insist(Array.isArray(drops), "drops are ranges");
  let before = 0;
  for (const range of drops) {
    insist(isPair(range) && range.length === 2, "a drop is a range");
    insist(range[0] > before && range[1] >= range[0] && range[1] <= last, "a drop out of order");
    before = range[1];
  }
}

/** One frame that goes out. `settle(kind, reason)` is told what became of it. */
export class Entry {
  number = 0;
  /** The outcome if it was taken back after it had been sent. */
  back = null;

  constructor(text, { window = false, numbered = true, settle = () => {}, ...more } = {}) {
    Object.assign(this, { text, window, numbered, settle, size: bytesOf(text) }, more);
  }
}

const note = (...items) => new Entry(JSON.stringify(items));

/** The books of one session at the client's side; does no I/O. */
export class Session {
  /** Notes that wait to be sent, our requests without an answer, and answers not received. */
  notes = [];
  requests = new Map();
  finals = 0;

  sent = 0;
  onLink = 0;
  kept = [];
  keptBytes = 0;
  unsettled = new Map();
  sentWindow = [0, 0];
  /** What the other side has said: its marks. */
  peer = { settled: 0, received: 0, consumed: 0, messages: 0, bytes: 0 };
  settled = 0;

  received = 0;
  receivedBytes = 0;
  got = [0, 0];
  credit = [0, 0];
  waiting = new Set();
  behind = [];
  drops = [];
  listed = 0;
  told = { received: 0, receivedBytes: 0, consumed: 0, credit: [0, 0] };

  /** `held` and `taken`: what lay here at the hello, and what of it has been taken since. */
  constructor(mine, [, id, token, , theirs], host, taken = [0, 0]) {
    Object.assign(this, { id, token, mine, theirs, host, credit: taken });
    const least = (one, other) => [Math.min(one[0], other[0]), Math.min(one[1], other[1])];
    this.outWindow = least(theirs.window, mine.replay);
    this.inWindow = least(mine.window, theirs.replay);
  }

  /** The hello for this session, or with null for a new one. */
  static hello(terms, session) {
    const zero = { settled: 0, received: 0, consumed: 0, messages: 0, bytes: 0, drops: [] };
    const said = session ? session.position() : zero;
    return JSON.stringify(["hello", session?.id ?? "", session?.token ?? "", terms, said]);
  }

  /** A welcome that is well-formed, and an answer to a hello with this session. */
  static readWelcome(text, session) {
    const welcome = typeof text === "string" ? parse(text) : null;
    insist(Array.isArray(welcome) && welcome[0] === "welcome", "no welcome");
    const [, id, token, resumed, terms, position] = welcome;
    insist(typeof id === "string" && typeof token === "string", "a welcome without a token");
    insist(typeof resumed === "boolean" && isObject(position), "a welcome that lacks something");
    const { window, held, replay, message_bytes: bytes } = isObject(terms) ? terms : {};
    insist(isPair(window) && isPair(held) && isPair(replay) && isNumber(bytes), "terms");
    insist(Math.min(...window.slice(0, 2), ...replay.slice(0, 2), bytes) > 0, "terms of 0");
    insist(!resumed || session?.id === id, "a resume that was not asked for");
    return welcome;
  }

  /** Number of the last of the other's frames up to which all are taken. */
  get consumed() {
    for (const number of this.waiting) return number - 1;
    return this.received;
  }

  position() {
    const { settled, received, consumed, credit } = this;
    this.#tell(consumed);
    const drops = this.#ranges(this.peer.settled, consumed);
    return { settled, received, consumed, messages: credit[0], bytes: credit[1], drops };
  }

  resume([, , token, , , position]) {
    const names = ["settled", "received", "consumed", "messages", "bytes"];
    for (const name of Object.keys(position)) insist([...names, "drops"].includes(name), "a position");
    const marks = names.map((name) => position[name] ?? 0);
    this.token = token;
    this.onLink = this.sent;
    this.#mark(marks, position.drops ?? [], true);
    this.onLink = this.peer.received;
    this.listed = this.peer.settled;
    for (const entry of this.kept) if (entry.back) this.#void(entry);
  }

  #void(entry) {
    const outcome = entry.back;
    this.keptBytes += 8 - entry.size;
    this.sentWindow[0] -= 1;
    this.sentWindow[1] -= entry.size;
    this.unsettled.delete(entry.number);
    this.requests.delete(entry.request?.id);
    Object.assign(entry, { text: '["void"]', size: 8, back: null, window: false });
    entry.settle(...outcome);
  }

  // What goes out

  get inFlight() {
    const [messages, bytes] = this.sentWindow;
    const [heldMessages, heldBytes] = this.theirs.held;
    return [messages + heldMessages - this.peer.messages, bytes + heldBytes - this.peer.bytes];
  }

  #mayNumber() {
    return this.kept.length < this.mine.replay[0] && this.keptBytes < this.mine.replay[1];
  }

  #mayGo(entry) {
    const [messages, bytes] = this.inFlight;
    if (!this.#mayNumber() || this.unsettled.size >= 16 * this.outWindow[0]) return false;
    return messages <= 0 || (messages < this.outWindow[0] && bytes + entry.size <= this.outWindow[1]);
  }

  #commit(entry) {
    if (!entry.numbered) return;
    this.sent += 1;
    this.onLink = this.sent;
    entry.number = this.sent;
    this.kept.push(entry);
    this.keptBytes += entry.size;
    if (!entry.window) return;
    this.unsettled.set(entry.number, entry);
    this.sentWindow[0] += 1;
    this.sentWindow[1] += entry.size;
    if (entry.request) this.requests.set(entry.request.id, entry.request);
  }

  /** What may go now: of the replay first, then notes, then from the outbox. */
  #next(outbox) {
    if (this.onLink < this.sent) return this.kept[this.onLink - this.peer.received];
    const [first] = this.notes;
    if (first) return !first.numbered || this.#mayNumber() ? first : null;
    let entry;
    while ((entry = outbox.peek()) && entry.size > this.theirs.message_bytes) {
      outbox.remove(entry);
      entry.settle("dropped", "oversize");
    }
    return entry && this.#mayGo(entry) ? entry : null;
  }

  /** The next batch, or null; with `ack` also one of a header alone if there is news. */
  batch(outbox, ack = false, bye = null) {
    const frames = [];
    const first = this.onLink + 1;
    let bytes = 0;
    let entry;
    while (frames.length < FRAMES && bytes < BATCH_BYTES && (entry = this.#next(outbox))) {
      if (frames.length > 0 && bytes + entry.size > BATCH_BYTES && entry.size <= BATCH_BYTES) break;
      if (this.onLink < this.sent) this.onLink += 1;
      else {
        if (entry === this.notes[0]) this.notes.shift();
        else outbox.remove(entry);
        this.#commit(entry);
      }
      frames.push(entry.text);
      bytes += entry.size;
    }
    if (bye !== null) frames.push(JSON.stringify(["bye", bye]));
    if (frames.length === 0 && !(ack && this.hasNews())) return null;
    return [this.#header(first, bye !== null), ...frames].join("\n");
  }

  #header(first, last) {
    const all = this.consumed;
    const from = last ? this.peer.settled : this.listed;
    let ranges = this.#ranges(from, all);
    if (ranges.length > RANGES && from < this.told.consumed) {
      ranges = this.#ranges(this.told.consumed, all);
    }
    const consumed = ranges.length > RANGES ? ranges[RANGES][0] - 1 : all;
    this.listed = consumed;
    this.#tell(consumed);
    const marks = [first, this.settled, this.received, consumed, ...this.credit];
    return JSON.stringify([...marks, ranges.slice(0, RANGES)]);
  }

  #ranges(from, to) {
    return this.drops
      .filter(([first, last]) => last > from && first <= to)
      .map(([first, last]) => [Math.max(first, from + 1), Math.min(last, to)]);
  }

  #tell(consumed) {
    const { received, receivedBytes } = this;
    this.told = { received, receivedBytes, consumed, credit: [...this.credit] };
  }

  hasNews() {
    const { told, credit } = this;
    return told.received < this.received || told.consumed < this.consumed || told.credit[0] < credit[0];
  }

  /** Whether an ack should go at once. */
  isUrgent() {
    const { told, credit, inWindow, theirs } = this;
    return (
      (credit[0] - told.credit[0]) * 4 >= inWindow[0] ||
      (credit[1] - told.credit[1]) * 4 >= inWindow[1] ||
      (this.received - told.received) * 4 >= theirs.replay[0] ||
      (this.receivedBytes - told.receivedBytes) * 4 >= theirs.replay[1]
    );
  }

  /** Make the other side say something within 200 ms: a void of a new number is to be acked. */
  probe() {
    if (this.kept.length === 0 && this.notes.length === 0) this.notes.push(note("void"));
  }

  // What comes in

  /** Take in a batch; throws `Breach`. */
  feed(text) {
    insist(typeof text === "string", "a binary message");
    const most = this.mine.message_bytes + 81_920;
    if (text.length * 3 > most && bytesOf(text) > most) throw new Breach("a large batch", 1009, false);
    const lines = text.split("\n");
    // JSON.parse takes 1.0 for 1: so the letters are looked at.
    const header = /^\[[\d\s,[\]]*$/.test(lines[0]) ? parse(lines[0]) : null;
    insist(Array.isArray(header) && header.length === 7, "no header");
    insist(lines.length <= FRAMES + 1, "too many frames");
    insist(Array.isArray(header[6]) && header[6].length <= RANGES, "too many drops");
    let [number] = header;
    insist(isNumber(number) && number > 0 && number <= this.received + 1, "a number that is not due");
    this.#mark(header.slice(1, 6), header[6], false);
    const waiting = this.#ranges(0, this.listed).reduce((sum, [from, to]) => sum + to - from + 1, 0);
    insist(waiting <= 32 * this.inWindow[0], "no drop is settled");
    for (const line of lines.slice(1)) number += this.#frame(line, number) ? 1 : 0;
  }

  #mark(marks, drops, isPosition) {
    insist(marks.every(isNumber), "a mark that is no number");
    const [settled, received, consumed, messages, bytes] = marks;
    const { peer, theirs, sentWindow } = this;
    insist(settled >= peer.settled && settled <= this.told.consumed, "settled");
    insist(received >= peer.received && received <= this.onLink, "received");
    insist((isPosition || consumed >= peer.consumed) && consumed <= received, "consumed");
    insist(messages >= peer.messages && messages <= sentWindow[0] + theirs.held[0], "messages");
    insist(bytes >= peer.bytes && bytes <= sentWindow[1] + theirs.held[1], "bytes");
    checkDrops(drops, consumed);
    this.peer = { settled, received, consumed, messages, bytes };
    this.drops = this.drops.filter(([, last]) => last > settled);
    this.#release(received);
    this.#settle(consumed, drops);
  }

  #release(received) {
    const count = this.kept.findIndex((entry) => entry.number > received);
    for (const entry of this.kept.splice(0, count < 0 ? this.kept.length : count)) {
      this.keptBytes -= entry.size;
      if (entry.final) this.finals -= 1;
    }
  }

  #settle(consumed, drops) {
    for (const [number, entry] of this.unsettled) {
      if (number > consumed) break;
      this.unsettled.delete(number);
      const dropped = drops.some(([first, last]) => first <= number && number <= last);
      entry.settle(...(dropped ? ["dropped", "receiver"] : ["acked", null]));
    }
    this.settled = Math.max(this.settled, consumed);
  }

  /** Take in one frame; whether it had a number. */
  #frame(text, number) {
    const size = bytesOf(text);
    if (size > this.mine.message_bytes) throw new Breach("a large frame", 1009);
    if (text[0] !== "[") {
      if (this.#admit(number, size)) this.#window(number, size) && this.#message(text, number, size);
      return true;
    }
    const frame = parse(text);
    insist(Array.isArray(frame), "a frame that cannot be read");
    const [kind, id, third, fourth] = frame;
    if (kind === "aside") {
      insist(isObject(id), "an aside");
      const message = decode(id);
      if (message) this.host.aside(message, size);
      return false;
    }
    if (kind === "bye") {
      insist(typeof id === "string", "a bye");
      this.host.bye(id);
      return false;
    }
    insist(kind === "void" || (FRAME[kind] && isNumber(id) && FRAME[kind](frame)), `a frame ${kind}`);
    if (!this.#admit(number, size)) return true;
    if (kind === "req") this.#window(number, size) && this.#asked(id, frame[5], number, size);
    else if (["part", "end", "fail"].includes(kind)) this.#answer(kind, id, third, fourth, text);
    return true;
  }

  /** Count a numbered frame; false if it is known. */
  #admit(number, size) {
    if (number <= this.received) return false;
    this.received = number;
    this.receivedBytes += size;
    return true;
  }

  #window(number, size) {
    const { got, credit, inWindow, mine, consumed } = this;
    const messages = got[0] + mine.held[0] - credit[0];
    const bytes = got[1] + mine.held[1] - credit[1];
    const fits = messages < inWindow[0] && bytes + size <= inWindow[1];
    insist(messages <= 0 || fits, "more than the window has");
    while (this.behind[0] <= consumed) this.behind.shift();
    insist(this.behind.push(number) <= 16 * inWindow[0], "more behind a message than 16 windows");
    this.got = [got[0] + 1, got[1] + size];
    this.waiting.add(number);
    return true;
  }

  #message(text, number, size) {
    const message = decode(parse(text));
    if (message) this.host.message(message, { session: this, number, size });
    else {
      this.take(number, size);
      this.host.unreadable();
    }
  }

  /** The program has taken a message; of number 0 are those of earlier sessions. */
  take(number, size) {
    this.waiting.delete(number);
    this.credit = [this.credit[0] + 1, this.credit[1] + size];
  }

  /** Nobody wants a message. */
  drop(number, size) {
    this.take(number, size);
    const last = this.drops.at(-1);
    if (last?.[1] === number - 1) last[1] = number;
    else this.drops.push([number, number]);
  }

  // Requests, ours first

  #answer(kind, id, third, fourth, text) {
    const request = this.requests.get(id);
    insist(request, "an answer to no request");
    if (kind === "fail") {
      this.requests.delete(id);
      request.fail(third, fourth);
      return;
    }
    const message = decode(third);
    insist(message, "an answer that cannot be read");
    if (kind === "end") {
      this.requests.delete(id);
      request.end(message);
      return;
    }
    const size = envelopeBytes(text);
    const { got, told, offered } = request;
    const waits = got[1] - told[1];
    const fits = waits + size <= offered[1] || waits * 4 < offered[1];
    insist(got[0] - told[0] < offered[0] && fits, "more parts than there is credit for");
    request.got = [got[0] + 1, got[1] + size];
    request.part(message, size);
  }

  /** The program has taken a part; `more` goes at each quarter. */
  takePart(request, size) {
    const { offered, told } = request;
    request.taken = [request.taken[0] + 1, request.taken[1] + size];
    const { taken } = request;
    const isDue = [0, 1].some((at) => (taken[at] - told[at]) * 4 >= offered[at]);
    if (!isDue || this.requests.get(request.id) !== request) return;
    request.told = taken;
    this.notes.push(note("more", request.id, taken));
  }

  cancel(request) {
    if (this.requests.get(request.id) === request) this.notes.push(note("cancel", request.id));
  }

  /** Nobody serves requests here. */
  #asked(id, envelope, number, size) {
    insist((this.finals += 1) <= REQUESTS, "too many requests");
    this.take(number, size);
    const isMessage = decode(envelope);
    if (!isMessage) this.host.unreadable();
    const fail = note("fail", id, isMessage ? "unserved" : "malformed", "");
    this.notes.push(Object.assign(fail, { final: true }));
  }
}

/** What the numbered control frames must have behind their id. */
const FRAME = {
  req: ([, , deadline, parts, trace, envelope]) =>
    (deadline === null || isNumber(deadline)) && isPair(parts) &&
    (trace === null || typeof trace === "string") && isObject(envelope),
  part: ([, , envelope]) => isObject(envelope),
  end: ([, , envelope]) => isObject(envelope),
  fail: ([, , code, text]) => typeof code === "string" && typeof text === "string",
  cancel: () => true,
  more: ([, , taken]) => isPair(taken),
};

/** What waits to be sent: a lane for each priority. */
export class Outbox {
  #lanes = Object.fromEntries(PRIORITIES.map((priority) => [priority, []]));
  messages = 0;
  bytes = 0;

  all() {
    return PRIORITIES.flatMap((priority) => this.#lanes[priority]);
  }

  put(entry) {
    this.#lanes[entry.priority].push(entry);
    this.messages += 1;
    this.bytes += entry.size;
  }

  /** Put `entry` where `old` is, if that is in its lane and order. */
  replace(old, entry) {
    const lane = this.#lanes[old.priority];
    const place = lane.indexOf(old);
    this.remove(old);
    this.put(entry);
    if (old.priority !== entry.priority || old.order !== entry.order) return;
    lane.pop();
    lane.splice(place, 0, Object.assign(entry, { at: old.at }));
  }

  remove(entry) {
    const lane = this.#lanes[entry.priority];
    const place = lane.indexOf(entry);
    if (place < 0) return false;
    lane.splice(place, 1);
    this.messages -= 1;
    this.bytes -= entry.size;
    return true;
  }

  /** The one that goes next. Of an order it is always the first. */
  peek() {
    const due = (entry) => entry.at + PATIENCE_MS[entry.priority];
    const heads = PRIORITIES.map((priority) => this.#lanes[priority][0]).filter(Boolean);
    if (heads.length === 0) return undefined;
    const next = heads.reduce((one, other) => (due(other) <= due(one) ? other : one));
    if (next.order === undefined) return next;
    const same = this.all().filter((entry) => entry.order === next.order);
    return same.reduce((one, other) => (other.count < one.count ? other : one));
  }

  /** What has to go so that there is room for `entry`: less urgent ones, or null. */
  victims(entry, messages, bytes) {
    const found = [];
    let size = this.bytes + entry.size;
    for (const other of this.all()) {
      if (this.messages - found.length < messages && size <= bytes) return found;
      if (PRIORITIES.indexOf(other.priority) >= PRIORITIES.indexOf(entry.priority)) return null;
      found.push(other);
      size -= other.size;
    }
    return size <= bytes ? found : null;
  }
}

/** Items as they come: an async iterator. `taken(item)` is called when one is taken or discarded. */
class Stream {
  #items = [];
  #waiters = [];
  #error = null;
  isOver = false;
  bytes = 0;

  constructor(types, taken, closed = () => {}) {
    Object.assign(this, { types, taken, closed });
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  get length() {
    return this.#items.length;
  }

  wants(type) {
    return this.types.length ? this.types.includes(type) : type !== "heartbeat";
  }

  push(item, entry = null) {
    const last = this.#items.at(-1)?.item;
    if (item.kind === "gap" && last?.kind === "gap") last.count += item.count;
    else if (item.kind !== "reset" || last?.kind !== "reset") this.#items.push({ item, entry });
    this.bytes += entry?.size ?? 0;
    if (this.#waiters.length) this.#waiters.shift()[0](this.#take());
  }

  #take() {
    const { item, entry } = this.#items.shift();
    this.bytes -= entry?.size ?? 0;
    if (entry) this.taken(entry);
    return { value: item, done: false };
  }

  /** The next item; several calls may wait. */
  async next() {
    if (this.#items.length) return this.#take();
    if (this.#error) throw this.#error;
    if (this.isOver) return { value: undefined, done: true };
    return new Promise((...waiter) => this.#waiters.push(waiter));
  }

  /** Stop receiving; what it holds is discarded. */
  async return() {
    this.finish();
    for (const { entry } of this.drain()) if (entry) this.taken(entry);
    return { value: undefined, done: true };
  }

  drain() {
    this.bytes = 0;
    return this.#items.splice(0);
  }

  /** No more will come; what it holds can still be taken. */
  finish(error = null) {
    if (this.isOver) return;
    this.isOver = true;
    this.#error = error;
    for (const [resolve, reject] of this.#waiters.splice(0)) {
      if (error) reject(error);
      else resolve({ value: undefined, done: true });
    }
    this.closed(this);
  }
}

/** `await` this many ms, or less if `wake()` is called. */
function pause(ms) {
  let wake;
  const over = new Promise((resolve) => (wake = resolve));
  const timer = setTimeout(wake, Math.min(ms, TIMER_MS));
  return { over: over.finally(() => clearTimeout(timer)), wake };
}

const advice = (...reasons) => {
  const found = reasons.map((reason) => /retry-after=(\d+(\.\d+)?)/.exec(reason ?? "")).find(Boolean);
  return found ? Number(found[1]) * 1000 : 0;
};

/** End a link of which no answer is expected. */
const cut = (socket) => socket.terminate?.();

/** End a link with this close code, or what a page may say in its place. */
function hangUp(socket, code) {
  try {
    socket.close(code);
  } catch {
    socket.close(code + 3000);
  }
  if (socket.terminate) setTimeout(() => socket.terminate(), 2000).unref?.();
}

const plus = (pair, messages, bytes) => [pair[0] + messages, pair[1] + bytes];
const noSession = () => new RealtimeError("no_session", "requests need a session");
const undelivered = (outcome) =>
  new RealtimeError("undelivered", `the request is ${outcome.kind}`, { outcome });

/** A connection; `connect()` makes one. */
class Connection {
  #url;
  #options;
  #outbox = new Outbox();
  /** Sends without an outcome, requests without an answer, and messages on their way to the kernel. */
  #open = new Set();
  #requests = new Set();
  #writing = [];
  #drains = [];
  #streams = new Set();
  #watchers = new Set();
  /** What comes before the first stream is opened. */
  #lobby = new Stream([], (entry) => this.#taken(entry));
  /** Messages and bytes that lie here, and how many were taken since the last hello. */
  #untaken = [0, 0];
  #since = [0, 0];
  #session = null;
  #dialled = null;
  #link = null;
  #wait = null;
  /** Whether a link was up, a session was welcomed, and the server cannot bear the offer. */
  #hadLink = false;
  #wasWelcomed = false;
  #offers = true;
  #triesPlain = false;
  #isClosing = false;
  #isOver = false;
  #onlineMs = 0;
  #count = 0;
  #prefix = Math.random().toString(36).slice(2, 8);
  #flushing = false;
  #wantsAck = false;
  #ackTimer = null;
  #pollTimer = null;
  #finish;
  /** The state now: `{phase, attempt, retryAt, cause, resumed}`. */
  state = { phase: "connecting", attempt: 0, retryAt: null, cause: null, resumed: false };
  /** How many messages came that could not be read. */
  malformed = 0;
  /** Resolves with the last state when the connection is over. */
  ended = new Promise((resolve) => (this.#finish = resolve));

  constructor(url, options) {
    this.#url = url;
    this.#options = options;
    this.#lobby.wants = () => true;
    const { signal } = options;
    const online = () => this.retryNow();
    const abort = () => this.#end("disconnected", "aborted");
    globalThis.addEventListener?.("online", online);
    signal?.addEventListener("abort", abort);
    this.ended.then(() => {
      globalThis.removeEventListener?.("online", online);
      signal?.removeEventListener("abort", abort);
    });
    if (signal?.aborted) abort();
    else this.#run();
  }

  // The program's side

  /** Queue a message. Throws if it cannot be accepted: nothing is sent then. */
  send(type, payload = null, options = {}) {
    const entry = this.#entry(type, payload, options);
    const outcome = this.#accept(entry, options);
    return { id: entry.id, outcome, withdraw: () => this.#takeBack(entry, "withdrawn", null) };
  }

  /** Ask, and wait for the reply: a message. */
  async request(type, payload = null, options = {}) {
    return this.#ask(type, payload, options, [0, 0]).reply;
  }

  /** Ask for a reply in parts: an async iterator of messages. */
  exchange(type, payload = null, options = {}) {
    return this.#ask(type, payload, options, [256, 262_144]).stream;
  }

  /** What comes of these types, or of all but `heartbeat`. */
  subscribe(...types) {
    const forget = () => this.#streams.delete(stream);
    const stream = new Stream(types, (entry) => this.#taken(entry), forget);
    if (this.#isOver) stream.finish();
    else this.#streams.add(stream);
    if (this.#lobby) queueMicrotask(() => this.#leaveLobby());
    return stream;
  }

  /** The states from the current one on; the last 64 that were not taken are kept. */
  states() {
    const stream = new Stream([], () => {}, () => this.#watchers.delete(stream));
    stream.push(this.state);
    if (this.#isOver) stream.finish();
    else this.#watchers.add(stream);
    return stream;
  }

  /** Cut short the wait before the next dial. */
  retryNow() {
    this.#wait?.wake();
  }

  /** Resolves when every accepted send has its outcome. */
  async drain() {
    if (this.#open.size) await new Promise((resolve) => this.#drains.push(resolve));
  }

  /** Take no more sends, let those that were accepted go, and end; resolves with the last state. */
  async close(timeoutMs = this.#options.closeMs) {
    this.#isClosing = true;
    const limit = pause(timeoutMs);
    await Promise.race([this.drain(), limit.over, this.ended]);
    limit.wake();
    this.#end("disconnected", null);
    return this.ended;
  }

  // Sends

  #entry(type, payload, { priority = "normal", key, order }) {
    if (typeof type !== "string") throw new RealtimeError("payload", "the type must be a string");
    if (!PRIORITIES.includes(priority)) throw new RealtimeError("payload", `no priority: ${priority}`);
    const id = `${this.#prefix}-${(this.#count += 1)}`;
    const text = toJson({ id, type, payload, timestamp: Date.now(), priority, key });
    const at = this.#onlineMs + (this.#link ? now() - this.#link.up : 0);
    return new Entry(text, { id, priority, key, order, at, count: this.#count, window: true });
  }

  /** Put it into the outbox, or throw; a promise of its outcome. */
  #accept(entry, { ttlMs = Infinity, whenOffline = "queue" }) {
    const { messageBytes, outboxMessages, outboxBytes } = this.#options;
    if (this.#isClosing) throw new RealtimeError("closed", "the connection is over");
    if (entry.size > messageBytes) throw new RealtimeError("payload", `more than ${messageBytes} bytes`);
    const isOffline = !this.#link && whenOffline !== "queue";
    if (isOffline && whenOffline === "fail") throw new RealtimeError("offline", "there is no link");
    if (isOffline) return Promise.resolve({ kind: "dropped", reason: "offline" });
    const old = entry.key !== undefined && this.#outbox.all().find((each) => each.key === entry.key);
    const victims = old ? [] : this.#outbox.victims(entry, outboxMessages, outboxBytes);
    if (!victims) throw new RealtimeError("outbox_full", "the outbox is full");
    for (const victim of victims) this.#takeBack(victim, "dropped", "evicted");
    const outcome = new Promise((resolve) => {
      entry.settle = (kind, reason) => this.#settled(entry, { kind, reason }, resolve);
    });
    entry.isFleeting = whenOffline !== "queue";
    if (ttlMs <= TIMER_MS) {
      entry.timer = setTimeout(() => this.#takeBack(entry, "dropped", "expired"), ttlMs);
    }
    this.#open.add(entry);
    if (old) {
      this.#outbox.replace(old, entry);
      old.settle("dropped", "replaced");
    } else this.#outbox.put(entry);
    this.#flushSoon();
    return outcome;
  }

  #settled(entry, outcome, resolve) {
    if (!this.#open.delete(entry)) return;
    clearTimeout(entry.timer);
    resolve(outcome);
    entry.request?.settled(outcome);
    if (this.#open.size === 0) for (const drained of this.#drains.splice(0)) drained();
  }

  /** True if it was still queued. Else, in a session, it is not sent again. */
  #takeBack(entry, ...outcome) {
    const isQueued = this.#outbox.remove(entry);
    if (isQueued) entry.settle(...outcome);
    else entry.back ??= outcome;
    return isQueued;
  }

  // Requests

  #ask(type, payload, { timeoutMs = null, signal, priority }, offered) {
    if (this.#requests.size >= REQUESTS) throw new RealtimeError("outbox_full", "too many requests");
    if (this.#link && !this.#session) throw noSession();
    if (signal?.aborted) throw new RealtimeError("cancelled", "the request was aborted");
    const inner = this.#entry(type, payload, { priority });
    const deadline = timeoutMs === null ? null : Math.ceil(timeoutMs);
    const text = `["req",${inner.count},${deadline},[${offered}],null,${inner.text}]`;
    const entry = Object.assign(inner, { text, size: bytesOf(text) });
    const request = { id: inner.count, offered, got: [0, 0], taken: [0, 0], told: [0, 0] };
    const giveUp = () => over(new RealtimeError("cancelled", "the request was aborted"));
    const stream = new Stream([], ({ size }) => this.#session?.takePart(request, size), giveUp);
    let timer = null;
    let over;
    const reply = new Promise((resolve, reject) => {
      over = (error, message = null) => {
        if (!this.#requests.delete(request)) return;
        clearTimeout(timer);
        signal?.removeEventListener("abort", giveUp);
        if (message && message.payload !== null) stream.push(message);
        stream.finish(error);
        if (error) reject(error);
        else resolve(message);
        this.#takeBack(entry, "withdrawn", null);
        this.#session?.cancel(request);
        this.#flushSoon();
      };
    });
    reply.catch(() => {});
    Object.assign(request, {
      over,
      part: (message, size) => this.#requests.has(request) && stream.push(message, { size }),
      end: (message) => over(null, message),
      fail: (code, words) => over(new RealtimeError("refused", words || code, { code })),
      settled: (outcome) => {
        if (outcome.kind !== "acked" && outcome.reason !== "receiver") over(undelivered(outcome));
      },
    });
    this.#requests.add(request);
    try {
      this.#accept(Object.assign(entry, { request }), {});
    } catch (error) {
      over(error);
      throw error;
    }
    signal?.addEventListener("abort", giveUp);
    const late = () => over(new RealtimeError("deadline", "no reply in time"));
    if (timeoutMs !== null) timer = setTimeout(late, Math.min(timeoutMs, TIMER_MS));
    return { reply, stream };
  }

  // What comes in

  message(message, entry) {
    this.#untaken = plus(this.#untaken, 1, entry.size);
    this.#route(message, entry);
  }

  aside(message, size) {
    this.#route(message, { session: null, size, isAside: true });
  }

  bye(reason) {
    this.#dialled.bye = reason;
    this.#loseSession();
  }

  unreadable() {
    this.malformed += 1;
  }

  #route(message, entry) {
    const wanting = this.#lobby ? [this.#lobby] : [...this.#streams];
    const streams = wanting.filter((stream) => stream.wants(message.type));
    const { windowMessages, windowBytes } = this.#options;
    entry.uses = 1;
    for (const stream of streams) {
      const isFull = stream.length >= windowMessages || stream.bytes + entry.size > windowBytes;
      if (entry.session || !isFull || stream.length === 0) {
        entry.uses += 1;
        stream.push(message, entry);
      } else if (!entry.isAside) stream.push({ kind: "gap", count: 1 });
    }
    this.#taken(entry, streams.length === 0);
  }

  /** One of those that have it has taken it; the last one gives credit. */
  #taken(entry, isDrop = false) {
    entry.uses -= 1;
    if (entry.uses > 0 || entry.isAside) return;
    this.#untaken = plus(this.#untaken, -1, -entry.size);
    this.#since = plus(this.#since, 1, entry.size);
    if (entry.session !== this.#session) this.#session?.take(0, entry.size);
    else if (isDrop) this.#session?.drop(entry.number, entry.size);
    else this.#session?.take(entry.number, entry.size);
    this.#ackSoon();
  }

  #leaveLobby() {
    const waiting = this.#lobby?.drain() ?? [];
    this.#lobby = null;
    for (const { item, entry } of waiting) {
      if (entry) this.#route(item, entry);
      else this.#mark(item);
    }
  }

  #mark(item) {
    for (const stream of this.#lobby ? [this.#lobby] : this.#streams) stream.push({ ...item });
  }

  // What goes out

  #flushSoon(ack = false) {
    this.#wantsAck ||= ack;
    if (this.#flushing || !this.#link) return;
    this.#flushing = true;
    queueMicrotask(() => this.#flush());
  }

  #ackSoon() {
    if (!this.#session || !this.#link) return;
    // The timers of a page that is hidden are late, up to a minute.
    const isHidden = globalThis.document?.visibilityState === "hidden";
    if (isHidden || this.#session.isUrgent()) this.#flushSoon(true);
    else this.#ackTimer ??= setTimeout(() => this.#flushSoon(true), ACK_MS);
  }

  #flush() {
    const link = this.#link;
    const ack = this.#wantsAck;
    this.#flushing = this.#wantsAck = false;
    clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    if (!link || link.bye !== null) return;
    const { socket } = link;
    try {
      while (socket.readyState === 1 && socket.bufferedAmount < BUFFERED_BYTES) {
        const text = this.#session ? this.#session.batch(this.#outbox, ack) : this.#plain(link);
        if (text === null) break;
        socket.send(text);
      }
    } catch (error) {
      link.lose(1011, `the link cannot be written to (${error.message})`);
      return;
    }
    this.#written(link);
    const isWaiting = this.#writing.length || socket.bufferedAmount >= BUFFERED_BYTES;
    clearTimeout(this.#pollTimer);
    if (isWaiting) this.#pollTimer = setTimeout(() => this.#flushSoon(ack), POLL_MS);
    else if (this.#session?.hasNews()) this.#ackSoon();
  }

  /** The next message of a plain link; it is in flight until the kernel has it. */
  #plain(link) {
    const entry = this.#outbox.peek();
    if (!entry) return null;
    this.#outbox.remove(entry);
    entry.end = link.said += entry.size;
    this.#writing.push(entry);
    return entry.text;
  }

  #written(link) {
    const taken = link.said - link.socket.bufferedAmount;
    while (this.#writing[0]?.end <= taken) this.#writing.shift().settle("written", null);
  }

  // Links

  async #run() {
    let tries = 0;
    let delayMs = 0;
    let cause = null;
    while (!this.#isOver) {
      const phase = this.#hadLink ? "reconnecting" : "connecting";
      const attempt = tries + 1;
      if (delayMs > 0) {
        this.#show({ phase, attempt, retryAt: Date.now() + delayMs, cause });
        this.#wait = pause(delayMs);
        await this.#wait.over;
        this.#wait = null;
        if (this.#isOver) return;
      }
      this.#show({ phase, attempt, cause });
      const end = await this.#dial();
      if (this.#isOver) return;
      if (end.fatal) {
        this.#end("failed", end.cause, new RealtimeError(end.fatal, end.cause));
        return;
      }
      cause = end.cause;
      tries = end.lasted >= this.#options.minUptimeMs ? 1 : tries + 1;
      const { firstMs, capMs } = this.#options;
      const jitterMs = Math.random() * Math.min(capMs, firstMs * 2 ** (tries - 1));
      delayMs = end.isAgain ? 0 : Math.max(advice(end.reason, end.bye), jitterMs);
    }
  }

  #show(state) {
    this.state = { attempt: 0, retryAt: null, cause: null, resumed: false, ...state };
    for (const stream of this.#watchers) {
      if (stream.length >= STATES) stream.drop();
      stream.push(this.state);
    }
  }

  /** Whether this dial offers a session, and the subprotocols. */
  async #protocols() {
    const { session, protocols, token } = this.#options;
    const told = typeof token === "function" ? await token() : token;
    const offers = session !== "off" && this.#offers && !this.#triesPlain;
    const own = offers || (told && protocols.length === 0) ? [...protocols, PLAIN] : [...protocols];
    if (offers) own.push(NUMBERED);
    if (told) own.push(TOKEN + told);
    return { offers, names: own };
  }

  /** One link, from the dial to its end: `{cause, reason, bye, lasted, isAgain, fatal}`. */
  async #dial() {
    const { openMs, session } = this.#options;
    const link = { socket: null, up: 0, heard: now(), probed: 0, bye: null, said: 0, hello: null };
    this.#dialled = link;
    let names;
    try {
      ({ offers: link.offers, names } = await this.#protocols());
      if (this.#isOver) return {};
      link.socket = new this.#options.WebSocket(this.#url, names);
    } catch (error) {
      return { cause: error.message, lasted: 0, fatal: error.name === "SyntaxError" && "usage" };
    }
    return new Promise((resolve) => {
      const { socket } = link;
      let timer = setTimeout(() => link.lose(1000, "no handshake in time"), openMs);
      let told = "";
      const over = (end) => {
        for (const name of ["onopen", "onmessage", "onclose"]) socket[name] = null;
        socket.onerror = () => {};
        clearTimeout(timer);
        clearTimeout(link.timer);
        const lasted = link.up ? now() - link.up : 0;
        if (this.#link === link) this.#unlink(link);
        resolve({ lasted, bye: link.bye, ...end });
      };
      link.lose = (code, cause, more = {}) => {
        hangUp(socket, code);
        over({ cause, ...more });
      };
      socket.onopen = () => {
        clearTimeout(timer);
        this.#triesPlain = false;
        if (socket.protocol !== NUMBERED) {
          if (session === "require") link.lose(1000, "the server has no sessions", { fatal: "no_session" });
          else this.#up(link, false);
          return;
        }
        timer = setTimeout(() => this.#unwelcome(link, "no welcome in time"), openMs / 2);
        link.hello = this.#hello();
        socket.send(Session.hello(link.hello, this.#session));
      };
      socket.onmessage = ({ data }) => {
        link.heard = now();
        link.probed = 0;
        try {
          if (link.up) this.#heard(link, data);
          else {
            this.#welcome(link, data);
            clearTimeout(timer);
          }
        } catch (error) {
          if (link.up || this.#wasWelcomed) this.#breach(link, error);
          else this.#unwelcome(link, error.message);
        }
      };
      socket.onerror = (event) => (told = event.message || told);
      socket.onclose = ({ code, reason }) => {
        const status = Number(/response: (\d{3})/.exec(told)?.[1] ?? 0);
        over({ ...this.#judge(link, code, status, told), reason });
      };
    });
  }

  /** What the end of a link or a dial means. */
  #judge(link, code, status, told) {
    if (link.up || link.hello) {
      const cause = `the link was closed (${code})`;
      return { cause, fatal: FATAL[code] };
    }
    const cause = `the dial failed (${told || code})`;
    // A page is not told why a handshake fails: perhaps since the server picks no subprotocol.
    const isBlind = !told || /subprotocol|non-101/.test(told);
    if (!link.offers || this.#wasWelcomed || !(isBlind || status === 400)) {
      this.#triesPlain = false;
      return { cause };
    }
    if (told) this.#offers = false;
    this.#triesPlain = true;
    return this.#options.session === "require" ? { cause } : { cause, isAgain: true };
  }

  /** The server picked a session and has none. */
  #unwelcome(link, cause) {
    if (!this.#wasWelcomed) this.#offers = false;
    link.lose(1002, cause, { isAgain: !this.#wasWelcomed });
  }

  #breach(link, error) {
    if (error.ends !== false) this.#loseSession();
    link.lose(error.code ?? 1002, error.message);
  }

  #hello() {
    const { windowMessages, windowBytes, outboxMessages, outboxBytes, messageBytes } = this.#options;
    this.#since = [0, 0];
    return {
      window: [windowMessages, windowBytes],
      held: this.#untaken,
      replay: [outboxMessages, outboxBytes],
      message_bytes: messageBytes,
    };
  }

  #welcome(link, data) {
    const welcome = Session.readWelcome(data, this.#session);
    this.#wasWelcomed = true;
    if (welcome[3]) this.#session.resume(welcome);
    else {
      this.#loseSession();
      this.#session = new Session(link.hello, welcome, this, this.#since);
    }
    this.#up(link, welcome[3]);
  }

  #up(link, resumed) {
    const isPlain = link.hello === null;
    if (isPlain) {
      this.#loseSession();
      for (const request of [...this.#requests]) request.over(noSession());
    }
    if (this.#hadLink && !resumed) this.#mark({ kind: "reset", cause: this.state.cause });
    this.#hadLink = true;
    this.#link = link;
    link.up = now();
    this.#show({ phase: "connected", resumed });
    this.#flushSoon();
    this.#watch(link);
  }

  #heard(link, data) {
    if (link.bye !== null) return;
    if (link.hello) {
      this.#session.feed(data);
      this.#ackSoon();
      this.#flushSoon();
      return;
    }
    const message = typeof data === "string" ? decode(parse(data)) : null;
    if (message) this.message(message, { session: null, number: 0, size: bytesOf(data) });
    else this.unreadable();
  }

  /** A page cannot ping: in a session a void asks for an ack; a plain link is only listened to. */
  #watch(link) {
    const { beatMs, beatTimeoutMs, quietMs } = this.#options;
    const quiet = now() - link.heard;
    const isDead = link.hello ? link.probed && now() - link.probed >= beatTimeoutMs : quiet >= quietMs;
    if (isDead) {
      cut(link.socket);
      link.lose(1000, `nothing was heard for ${Math.round(quiet)} ms`);
      return;
    }
    if (link.hello && !link.probed && quiet >= beatMs && link.bye === null) {
      link.probed = now();
      this.#session.probe();
      this.#flushSoon();
    }
    const next = link.hello ? (link.probed ? beatTimeoutMs : beatMs - quiet) : quietMs - quiet;
    link.timer = setTimeout(() => this.#watch(link), Math.min(Math.max(next, POLL_MS), TIMER_MS));
  }

  /** A link that was up is gone. */
  #unlink(link) {
    this.#link = null;
    this.#onlineMs += now() - link.up;
    for (const entry of this.#writing.splice(0)) entry.settle("indeterminate", null);
    for (const entry of [...this.#open]) if (entry.isFleeting) this.#takeBack(entry, "dropped", "offline");
  }

  #loseSession() {
    const session = this.#session;
    this.#session = null;
    for (const entry of session?.unsettled.values() ?? []) entry.settle("indeterminate", null);
    const outcome = { kind: "indeterminate", reason: null };
    for (const request of [...(session?.requests.values() ?? [])]) request.over(undelivered(outcome));
  }

  /** The end of the connection. */
  #end(phase, cause, error = null) {
    if (this.#isOver) return;
    this.#isOver = this.#isClosing = true;
    const { socket, bye } = this.#dialled ?? {};
    if (socket) {
      const last = this.#link && this.#session?.batch(new Outbox(), true, "");
      if (last && bye === null && socket.readyState === 1) socket.send(last);
      hangUp(socket, 1000);
    }
    if (this.#link) this.#unlink(this.#link);
    this.#loseSession();
    for (const entry of this.#outbox.all()) this.#takeBack(entry, "withdrawn", null);
    for (const request of [...this.#requests]) request.over(undelivered({ kind: "withdrawn", reason: null }));
    for (const timer of [this.#ackTimer, this.#pollTimer, this.#dialled?.timer]) clearTimeout(timer);
    this.#wait?.wake();
    for (const stream of this.#streams) stream.finish(error);
    this.#show({ phase, cause });
    for (const stream of this.#watchers) stream.finish();
    this.#finish(this.state);
  }
}

/**
 * Connect to `url` (`ws:` or `wss:`), and again whenever a link is lost. Returns at once.
 *
 * Options, beside the times and limits in `DEFAULTS`: `token` (a string, or a function that is
 * asked before each dial), `protocols`, `session` ("offer", "require" or "off"), `WebSocket`
 * (the class to use), `signal` (ends the connection at once).
 */
export function connect(url, options = {}) {
  const known = { token: "", protocols: [], session: "offer", signal: undefined, ...DEFAULTS };
  const all = { ...known, WebSocket: globalThis.WebSocket, ...options };
  for (const [name, value] of Object.entries(all)) {
    const isKnown = name === "WebSocket" || name in known;
    const fits = !(name in DEFAULTS) || (typeof value === "number" && value > 0);
    if (!isKnown || !fits) throw new RealtimeError("usage", `${name} cannot be ${value}`);
  }
  if (!["offer", "require", "off"].includes(all.session)) {
    throw new RealtimeError("usage", `session cannot be ${all.session}`);
  }
  if (!all.WebSocket) throw new RealtimeError("usage", "there is no WebSocket here");
  return new Connection(url, all);
}
