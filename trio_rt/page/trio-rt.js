// trio-rt for browsers and Node: connections that outlive their links, with sessions.
//
// docs/javascript.md says how it is used, docs/protocol.md what travels. From the bottom up:
// Session (the books of one session, without I/O), Outbox, Stream, Connection.

const PLAIN = "trio-rt.plain";
const NUMBERED = "trio-rt.v1+json";
const TOKEN = "trio-rt.token.";

const ACK_MS = 100;
const POLL_MS = 10;
const TIMER_MS = 2 ** 31 - 1;
const BATCH_BYTES = 65_536;
const BUFFERED_BYTES = 262_144;
const FRAMES = 4096;
const RANGES = 256;
const REQUESTS = 1024;
const PARTS = [256, 262_144];
const STATES = 64;

/** From the least urgent on, and how much later something more urgent may come and overtake. */
const PATIENCE_MS = { low: 30_000, normal: 10_000, high: 2_000, critical: -Infinity };
const URGENCY = Object.keys(PATIENCE_MS);

/** Close codes, and HTTP statuses, that end the connection: at the n-th in a row. */
const ENDS = [
	[401, 401, "refused", 2], [408, 408], [425, 425], [429, 429], [100, 499, "unwanted", 1],
	[1002, 1002, "broken", 3], [1003, 1003, "illegal", 1], [1007, 1007, "broken", 3],
	[1008, 1008, "refused", 2], [1009, 1010, "illegal", 1], [3000, 3000, "refused", 2],
	[3500, 3999, "unwanted", 1], [4401, 4401, "refused", 2], [4409, 4409, "taken_over", 1],
	[4500, 4999, "unwanted", 1],
];

const LIMITS = {
	firstMs: 500, capMs: 30_000, minUptimeMs: 5_000, openMs: 10_000, closeMs: 5_000,
	beatMs: 15_000, beatTimeoutMs: 10_000, quietMs: Infinity,
	windowMessages: 256, windowBytes: 4_194_304, messageBytes: 1_048_576,
	outboxMessages: 1_000, outboxBytes: 4_194_304,
};

const ADVICE = /(?<!\S)retry-after=(\d{1,9}(?:\.\d{1,9})?)(?![^\s;,])/;

const encoder = new TextEncoder();
const bytesOf = (text) => encoder.encode(text).length;
const now = () => performance.now();
const plus = (pair, messages, bytes) => [pair[0] + messages, pair[1] + bytes];
const isNumber = (value) => Number.isSafeInteger(value) && value >= 0;
const isString = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isPair = (value) => Array.isArray(value) && value.length > 1 && value.slice(0, 2).every(isNumber);

/** What is thrown here. `kind` says what it is; a refusal has the `code` of the other side. */
export class RealtimeError extends Error {
	constructor(kind, text, more = {}) {
		super(text);
		Object.assign(this, { name: "RealtimeError", kind }, more);
	}
}

/** The other side broke the protocol: the link is closed with `code`, and mostly the session ends. */
class Breach extends Error {
	constructor(text, code = 1002, isEnd = true) {
		super(text);
		Object.assign(this, { code, isEnd });
	}
}

function insist(holds, what) {
	if (!holds) throw new Breach(`illegal: ${what}`);
}

function parse(text) {
	try {
		return JSON.parse(text);
	} catch {
		return undefined;
	}
}

/** The message of an envelope, or null if it is none. */
function decode(envelope) {
	if (!isObject(envelope) || !isString(envelope.type)) return null;
	const { type, payload = null, id, timestamp, priority, key } = envelope;
	return {
		kind: "message", type, payload,
		id: isString(id) ? id : "",
		timestamp: isNumber(timestamp) ? timestamp : null,
		priority: URGENCY.includes(priority) ? priority : "normal",
		key: isString(key) ? key : null,
	};
}

/** How many bytes the envelope has in the text of a part: from its first brace to that one's end. */
function envelopeBytes(text) {
	const start = text.indexOf("{");
	let depth = 0;
	for (const { 0: token, index } of text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}]/g)) {
		depth += token === "{" ? 1 : token === "}" ? -1 : 0;
		if (depth === 0 && index > start) return bytesOf(text.slice(start, index + 1));
	}
	return 0;
}

/** A frame that goes out; `settle(kind, reason)` is told what became of it. */
export class Entry {
	number = 0;
	/** Its outcome, if it was taken back after it had been sent and has not arrived. */
	back = null;

	constructor(text, more = {}) {
		const size = bytesOf(text);
		Object.assign(this, { text, size, isMessage: false, isNumbered: true, settle: () => {} }, more);
	}
}

const note = (...items) => new Entry(JSON.stringify(items));

/** What the numbered control frames have behind their id. */
const CONTROL = {
	req: ([, , deadline, parts, trace, envelope]) =>
		(deadline === null || isNumber(deadline)) && isPair(parts) &&
		(trace === null || isString(trace)) && isObject(envelope),
	part: ([, , envelope]) => isObject(envelope),
	end: ([, , envelope]) => isObject(envelope),
	fail: ([, , code, text]) => isString(code) && isString(text),
	cancel: () => true,
	more: ([, , taken]) => isPair(taken),
};

/** A position at the beginning. */
const ZERO = { settled: 0, received: 0, consumed: 0, messages: 0, bytes: 0, drops: [] };

/** The books of one session at its client; does no I/O. `host` is told what comes in. */
export class Session {
	// What goes out: notes that wait, frames that were not received, messages that are not settled.
	notes = [];
	kept = [];
	unsettled = new Map();
	requests = new Map();
	sent = 0;
	#onLink = 0;
	#keptBytes = 0;
	#volume = [0, 0];
	#peer = { settled: 0, received: 0, consumed: 0, messages: 0, bytes: 0 };
	#settled = 0;
	// What comes in: messages that are not taken, those behind one, what nobody wanted.
	received = 0;
	#bytes = 0;
	#volumeIn = [0, 0];
	#credit;
	#waiting = new Set();
	#behind = [];
	#drops = [];
	#listed = 0;
	#finals = 0;
	#told = { received: 0, bytes: 0, consumed: 0, credit: [0, 0] };

	/** `taken`: how much of what lay here at the hello has been taken since. */
	constructor(mine, [, id, token, , theirs], host, taken = [0, 0]) {
		Object.assign(this, { id, token, mine, theirs, host });
		this.#credit = taken;
		const least = (one, other) => [Math.min(one[0], other[0]), Math.min(one[1], other[1])];
		this.window = least(theirs.window, mine.replay);
		this.windowIn = least(mine.window, theirs.replay);
	}

	/** The hello with which `session` is resumed; a new one for null. */
	static hello(terms, session) {
		const position = session ? session.#position() : ZERO;
		return JSON.stringify(["hello", session?.id ?? "", session?.token ?? "", terms, position]);
	}

	/** What the server answers to that, or a `Breach`. */
	static readWelcome(text, session) {
		const welcome = isString(text) && parse(text);
		insist(Array.isArray(welcome) && welcome[0] === "welcome", "no welcome");
		const [, id, token, isResumed, terms, position] = welcome;
		insist(isString(id) && isString(token) && isObject(terms) && isObject(position), "this welcome");
		const { window, held, replay, message_bytes: bytes } = terms;
		insist(isPair(window) && isPair(held) && isPair(replay) && isNumber(bytes), "these terms");
		insist(window[0] && window[1] && replay[0] && replay[1] && bytes, "terms of 0");
		insist(isResumed === false || (isResumed === true && session?.id === id), "resumed");
		return welcome;
	}

	/** Take up the session where the server stands; what was taken back and is not there is voided. */
	resume([, , token, , , position]) {
		const { drops, ...marks } = { ...ZERO, ...position };
		insist(Object.keys(position).every((name) => name in ZERO), "a position");
		this.token = token;
		this.#onLink = this.sent;
		this.#mark(Object.values(marks), drops, true);
		this.#onLink = marks.received;
		this.#listed = marks.settled;
		for (const entry of this.kept) if (entry.back) this.#void(entry);
	}

	#void(entry) {
		const { text, size } = note("void");
		this.#keptBytes += size - entry.size;
		this.#volume = plus(this.#volume, -1, -entry.size);
		this.unsettled.delete(entry.number);
		this.requests.delete(entry.request?.id);
		entry.settle(...entry.back);
		Object.assign(entry, { text, size, isMessage: false, back: null });
	}

	#position() {
		const { received, consumed } = this;
		const [messages, bytes] = this.#credit;
		this.#tell(consumed);
		const drops = this.#ranges(this.#peer.settled, consumed);
		return { settled: this.#settled, received, consumed, messages, bytes, drops };
	}

	// What goes out

	get inFlight() {
		const [messages, bytes] = plus(this.#volume, ...this.theirs.held);
		return [messages - this.#peer.messages, bytes - this.#peer.bytes];
	}

	#mayGo({ isNumbered, isMessage, size }) {
		const [frames, limit] = this.mine.replay;
		if (!isNumbered) return true;
		if (this.kept.length >= frames || this.#keptBytes >= limit) return false;
		if (!isMessage) return true;
		const [messages, bytes] = this.inFlight;
		const fits = messages < this.window[0] && bytes + size <= this.window[1];
		return (messages === 0 || fits) && this.unsettled.size < 16 * this.window[0];
	}

	/** What goes next: of the replay, then the notes, then from the outbox. */
	#next(outbox) {
		if (this.#onLink < this.sent) return this.kept[this.#onLink - this.#peer.received];
		let entry = this.notes[0] ?? outbox.peek();
		while (entry?.isMessage && entry.size > this.theirs.message_bytes) {
			outbox.remove(entry);
			entry.settle("dropped", "oversize");
			entry = outbox.peek();
		}
		return entry && this.#mayGo(entry) ? entry : null;
	}

	#commit(entry, outbox) {
		if (this.#onLink < this.sent) {
			this.#onLink += 1;
			return;
		}
		if (entry === this.notes[0]) this.notes.shift();
		else outbox.remove(entry);
		if (!entry.isNumbered) return;
		entry.number = this.#onLink = this.sent += 1;
		this.kept.push(entry);
		this.#keptBytes += entry.size;
		if (!entry.isMessage) return;
		this.unsettled.set(entry.number, entry);
		this.#volume = plus(this.#volume, 1, entry.size);
		if (entry.request) this.requests.set(entry.request.id, entry.request);
	}

	/** The next batch, or null. With `ack` it may be a header alone; `bye` ends the session. */
	batch(outbox, ack = false, bye = null) {
		const first = this.#onLink + 1;
		const frames = [];
		let bytes = 0;
		let entry;
		while (frames.length < FRAMES - 1 && bytes < BATCH_BYTES && (entry = this.#next(outbox))) {
			const { text, size } = entry;
			if (bytes && size <= BATCH_BYTES && bytes + size > BATCH_BYTES) break;
			this.#commit(entry, outbox);
			frames.push(text);
			bytes += size;
		}
		if (bye !== null) frames.push(JSON.stringify(["bye", bye]));
		if (frames.length === 0 && !(ack && this.hasNews)) return null;
		return [this.#header(first, bye !== null), ...frames].join("\n");
	}

	#header(first, isLast) {
		let ranges = this.#ranges(isLast ? this.#peer.settled : this.#listed, this.consumed);
		if (ranges.length > RANGES) ranges = this.#ranges(this.#told.consumed, this.consumed);
		const consumed = ranges.length > RANGES ? ranges[RANGES][0] - 1 : this.consumed;
		this.#listed = consumed;
		this.#tell(consumed);
		const marks = [first, this.#settled, this.received, consumed, ...this.#credit];
		return JSON.stringify([...marks, ranges.slice(0, RANGES)]);
	}

	/** What was dropped behind `from`, up to `to`. */
	#ranges(from, to) {
		const found = this.#drops.filter(([first, last]) => last > from && first <= to);
		return found.map(([first, last]) => [Math.max(first, from + 1), Math.min(last, to)]);
	}

	#tell(consumed) {
		this.#told = { received: this.received, bytes: this.#bytes, consumed, credit: this.#credit };
	}

	/** Whether there is something to acknowledge, and whether that should go at once. */
	get hasNews() {
		const { received, consumed, credit } = this.#told;
		return received < this.received || consumed < this.consumed || credit[0] < this.#credit[0];
	}

	get isUrgent() {
		const { received, bytes, credit } = this.#told;
		const news = [this.#credit[0] - credit[0], this.#credit[1] - credit[1], this.received - received];
		const limits = [...this.windowIn, ...this.theirs.replay];
		return [...news, this.#bytes - bytes].some((count, place) => count * 4 >= limits[place]);
	}

	/** Make the other side say something within 200 ms: a void under a new number. */
	probe() {
		if (this.kept.length + this.notes.length === 0) this.notes.push(note("void"));
	}

	// What comes in

	/** Take in a batch, or throw a `Breach`. */
	feed(text) {
		insist(isString(text), "a binary message");
		const most = this.mine.message_bytes + 81_920;
		if (text.length * 3 > most && bytesOf(text) > most) throw new Breach("a batch too large", 1009, false);
		const [head, ...lines] = text.split("\n");
		// JSON.parse takes 1.0 for 1, so the letters are looked at.
		const header = /^\[[\d\s,[\]]*$/.test(head) && parse(head);
		insist(Array.isArray(header) && header.length === 7 && Array.isArray(header[6]), "no header");
		insist(lines.length <= FRAMES && header[6].length <= RANGES, "more than a batch may have");
		let [number] = header;
		insist(isNumber(number) && number > 0 && number <= this.received + 1, "a number that is not due");
		const { settled } = this.#peer;
		this.#mark(header.slice(1, 6), header[6], false);
		const waiting = this.#ranges(0, this.#listed).reduce((sum, [from, to]) => sum + to - from + 1, 0);
		insist(this.#peer.settled > settled || waiting <= 32 * this.windowIn[0], "no drop is settled");
		for (const line of lines) number += this.#frame(line, number) ? 1 : 0;
	}

	/** Take in the marks of a header or a position. */
	#mark(marks, drops, isPosition) {
		const [settled, received, consumed, messages, bytes] = marks;
		const before = this.#peer;
		const most = plus(this.#volume, ...this.theirs.held);
		insist(marks.every(isNumber) && Array.isArray(drops), "a mark");
		insist(settled >= before.settled && settled <= this.#told.consumed, "settled");
		insist(received >= before.received && received <= this.#onLink, "received");
		insist((isPosition || consumed >= before.consumed) && consumed <= received, "consumed");
		insist(messages >= before.messages && messages <= most[0], "messages");
		insist(bytes >= before.bytes && bytes <= most[1], "bytes");
		drops.reduce((end, range) => {
			insist(isPair(range) && range.length === 2 && range[0] > end && range[1] >= range[0], "drops");
			return range[1];
		}, 0);
		insist(drops.length === 0 || drops.at(-1)[1] <= consumed, "drops");
		this.#peer = { settled, received, consumed, messages, bytes };
		this.#drops = this.#drops.filter(([, last]) => last > settled);
		this.#forget(received);
		this.#settle(consumed, drops);
	}

	#forget(received) {
		const count = this.kept.findIndex(({ number }) => number > received);
		for (const entry of this.kept.splice(0, count < 0 ? this.kept.length : count)) {
			this.#keptBytes -= entry.size;
			if (entry.isFinal) this.#finals -= 1;
		}
	}

	#settle(consumed, drops) {
		this.#settled = Math.max(this.#settled, consumed);
		for (const [number, entry] of this.unsettled) {
			if (number > consumed) return;
			this.unsettled.delete(number);
			const isDrop = drops.some(([first, last]) => first <= number && number <= last);
			entry.settle(...(isDrop ? ["dropped", "receiver"] : ["acked", null]));
		}
	}

	/** Take in a frame; whether it has a number. */
	#frame(text, number) {
		const size = bytesOf(text);
		if (size > this.mine.message_bytes) throw new Breach("a frame too large", 1009);
		const frame = text[0] === "[" ? parse(text) : ["message"];
		insist(Array.isArray(frame), "a frame that cannot be read");
		const [kind, id] = frame;
		if (kind === "aside" || kind === "bye") {
			insist(kind === "aside" ? isObject(id) : isString(id), kind);
			if (kind === "bye") this.host.bye(id);
			else if (decode(id)) this.host.aside(decode(id), size);
			return false;
		}
		const isKnown = Object.hasOwn(CONTROL, kind) && isNumber(id) && CONTROL[kind](frame);
		insist(isKnown || kind === "void" || text[0] !== "[", "a control frame");
		if (number <= this.received) return true;
		this.received = number;
		this.#bytes += size;
		if (kind === "message" || kind === "req") this.#admit(number, size);
		if (kind === "message") this.#message(text, number, size);
		else if (kind === "req") this.#refuse(frame, number, size);
		else if (["part", "end", "fail"].includes(kind)) this.#answer(frame, text);
		return true;
	}

	/** Count a message or a request, if there was room for it in the window. */
	#admit(number, size) {
		const [messages, bytes] = plus(this.#volumeIn, ...this.mine.held);
		const inFlight = [messages - this.#credit[0], bytes - this.#credit[1]];
		const fits = inFlight[0] < this.windowIn[0] && inFlight[1] + size <= this.windowIn[1];
		insist(inFlight[0] <= 0 || fits, "more than the window has");
		const { consumed } = this;
		while (this.#behind[0] <= consumed) this.#behind.shift();
		insist(this.#behind.push(number) <= 16 * this.windowIn[0], "more than 16 windows");
		this.#volumeIn = plus(this.#volumeIn, 1, size);
		this.#waiting.add(number);
	}

	#message(text, number, size) {
		const message = decode(parse(text));
		if (message) this.host.message(message, { session: this, number, size });
		else this.take(number, size);
		if (!message) this.host.malformed();
	}

	/** The number up to which all of the other's frames were taken. */
	get consumed() {
		for (const number of this.#waiting) return number - 1;
		return this.received;
	}

	/** The program has taken a message; those of earlier sessions have the number 0. */
	take(number, size) {
		this.#waiting.delete(number);
		this.#credit = plus(this.#credit, 1, size);
	}

	/** Nobody wants a message. */
	drop(number, size) {
		this.take(number, size);
		const last = this.#drops.at(-1);
		if (last?.[1] === number - 1) last[1] = number;
		else this.#drops.push([number, number]);
	}

	// Requests

	/** Nobody serves requests here. */
	#refuse([, id, , , , envelope], number, size) {
		insist((this.#finals += 1) <= REQUESTS, "too many requests");
		this.take(number, size);
		const isReadable = decode(envelope) !== null;
		if (!isReadable) this.host.malformed();
		const fail = note("fail", id, isReadable ? "unserved" : "malformed", "");
		this.notes.push(Object.assign(fail, { isFinal: true }));
	}

	#answer([kind, id, third, fourth], text) {
		const request = this.requests.get(id);
		insist(request, "an answer to no request");
		const message = kind === "fail" ? null : decode(third);
		insist(message || kind === "fail", "an answer that cannot be read");
		if (kind !== "part") {
			this.requests.delete(id);
			request.answer(message, third, fourth);
			return;
		}
		const size = envelopeBytes(text);
		const [limit, limitBytes] = request.offered;
		const waiting = [request.got[0] - request.told[0], request.got[1] - request.told[1]];
		const fits = waiting[1] + size <= limitBytes || waiting[1] * 4 < limitBytes;
		insist(waiting[0] < limit && fits, "more parts than there is credit for");
		request.got = plus(request.got, 1, size);
		request.part(message, size);
	}

	/** The program has taken a part; `more` goes at each quarter. */
	takePart(request, size) {
		const { offered, told } = request;
		const taken = (request.taken = plus(request.taken, 1, size));
		const isDue = taken.some((count, place) => (count - told[place]) * 4 >= offered[place]);
		if (!isDue || this.requests.get(request.id) !== request) return;
		request.told = taken;
		this.notes.push(note("more", request.id, taken));
	}

	cancel(request) {
		if (this.requests.get(request.id) === request) this.notes.push(note("cancel", request.id));
	}
}

/** What waits to be sent, in the order in which it came. */
export class Outbox {
	entries = [];
	bytes = 0;

	put(entry) {
		this.entries.push(entry);
		this.bytes += entry.size;
	}

	remove(entry, ...instead) {
		const place = this.entries.indexOf(entry);
		if (place < 0) return false;
		this.entries.splice(place, 1, ...instead);
		this.bytes -= entry.size;
		return true;
	}

	/** Put `entry` in the place of `old`. */
	replace(old, entry) {
		this.remove(old, Object.assign(entry, { at: old.at }));
		this.bytes += entry.size;
	}

	/** The one that goes next: the most urgent, but an order is kept. */
	peek() {
		const due = ({ at, priority }) => at + PATIENCE_MS[priority];
		let next = this.entries[0];
		for (const entry of this.entries) if (due(entry) < due(next)) next = entry;
		if (next?.order === undefined) return next;
		return this.entries.find(({ order }) => order === next.order);
	}

	/** What has to go for `entry` in the place of `old`, the least urgent first; null: no room. */
	victims({ priority, size }, old, messages, bytes) {
		const lower = URGENCY.slice(0, URGENCY.indexOf(priority));
		const others = this.entries.filter((each) => each !== old && lower.includes(each.priority));
		others.sort((one, other) => URGENCY.indexOf(one.priority) - URGENCY.indexOf(other.priority));
		let count = this.entries.length + (old ? 0 : 1);
		let sum = this.bytes + size - (old?.size ?? 0);
		const found = [];
		while (count > messages || sum > bytes) {
			if (found.length === others.length) return null;
			const victim = others[found.length];
			found.push(victim);
			count -= 1;
			sum -= victim.size;
		}
		return found;
	}
}

/** An async iterator of what comes. `taken(entry)` is called for what is taken or discarded. */
class Stream {
	#items = [];
	#waiters = [];
	#end = null;
	bytes = 0;

	constructor(types, taken = () => {}, closed = () => {}) {
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
		else return;
		this.bytes += entry?.size ?? 0;
		if (this.#waiters.length) this.#waiters.shift().resolve(this.next());
	}

	async next() {
		if (this.#items.length === 0) {
			if (this.#end === null) return new Promise((resolve) => this.#waiters.push({ resolve }));
			return this.#end();
		}
		const { item, entry } = this.#items.shift();
		this.bytes -= entry?.size ?? 0;
		if (entry) this.taken(entry);
		return { value: item, done: false };
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

	/** No more will come; what it holds can still be taken, and then an error is thrown. */
	finish(error = null) {
		if (this.#end !== null) return;
		this.#end = async () => {
			if (error) throw error;
			return { value: undefined, done: true };
		};
		for (const { resolve } of this.#waiters.splice(0)) resolve(this.#end());
		this.closed();
	}
}

/** `over` resolves after so many ms, or when `wake()` is called. */
function pause(ms) {
	let wake;
	const woken = new Promise((resolve) => (wake = resolve));
	const timer = setTimeout(wake, Math.min(ms, TIMER_MS));
	return { over: woken.then(() => clearTimeout(timer)), wake };
}

/** End a link. A page may not say every code: it says 4002 for 1002, and so on. */
function hangUp(socket, code) {
	try {
		socket.close(code);
	} catch {
		socket.close(code + 3000);
	}
	if (socket.terminate) setTimeout(() => socket.terminate(), 1000).unref?.();
}

const undelivered = (kind, reason = null) =>
	new RealtimeError("undelivered", `the request is ${kind}`, { outcome: { kind, reason } });

class Connection {
	#url;
	#options;
	#outbox = new Outbox();
	/** Sends without an outcome, requests without an answer, what the kernel has not taken. */
	#open = new Set();
	#requests = new Set();
	#writing = [];
	#drained = [];
	#streams = new Set();
	#watchers = new Set();
	/** What comes before the first stream is opened. */
	#lobby = new Stream([], (entry) => this.#taken(entry));
	/** Messages, and bytes of messages, that lie here, and that were taken since the last hello. */
	#untaken = [0, 0];
	#since = [0, 0];
	#session = null;
	/** The link from its dial on, and the one that is up. */
	#dialled = null;
	#link = null;
	#wait = null;
	#hadLink = false;
	#wasWelcomed = false;
	#offers = true;
	#triesPlain = false;
	/** How the last links ended, and how many of them in a row. */
	#repeated = { kind: null, count: 0 };
	#isClosing = false;
	#isOver = false;
	#onlineMs = 0;
	#count = 0;
	#prefix = Math.random().toString(36).slice(2, 8);
	#isFlushing = false;
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
		const retry = () => this.retryNow();
		const abort = () => this.#end("disconnected", "aborted");
		globalThis.addEventListener?.("online", retry);
		signal?.addEventListener("abort", abort);
		this.ended.then(() => {
			globalThis.removeEventListener?.("online", retry);
			signal?.removeEventListener("abort", abort);
		});
		if (signal?.aborted) abort();
		else this.#run();
	}

	// The program's side

	/** Queue a message: `{id, outcome, withdraw()}`. What it throws was not accepted. */
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
		return this.#ask(type, payload, options, PARTS).stream;
	}

	/** What comes of these types, or of all but `heartbeat`: an async iterator of items. */
	subscribe(...types) {
		const forget = () => this.#streams.delete(stream);
		const stream = new Stream(types, (entry) => this.#taken(entry), forget);
		if (this.#isOver) stream.finish();
		else this.#streams.add(stream);
		if (this.#lobby) queueMicrotask(() => this.#leaveLobby());
		return stream;
	}

	/** The states from the current one on: an async iterator. */
	states() {
		const stream = new Stream([], undefined, () => this.#watchers.delete(stream));
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
		if (this.#open.size) await new Promise((resolve) => this.#drained.push(resolve));
	}

	/** Take no more sends, give the accepted ones this time, and end; resolves with the last state. */
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
		if (!isString(type) || !URGENCY.includes(priority)) {
			throw new RealtimeError("usage", `no type, or no priority: ${type}, ${priority}`);
		}
		const count = (this.#count += 1);
		const id = `${this.#prefix}-${count}`;
		let text;
		try {
			text = JSON.stringify({ id, type, payload, timestamp: Date.now(), priority, key });
		} catch (error) {
			throw new RealtimeError("payload", `the payload must fit in JSON: ${error.message}`);
		}
		const at = this.#onlineMs + (this.#link ? now() - this.#link.up : 0);
		return new Entry(text, { id, count, priority, key, order, at, isMessage: true });
	}

	/** Put it into the outbox; a promise of its outcome. */
	#accept(entry, { ttlMs = Infinity, whenOffline = "queue" }) {
		const { messageBytes, outboxMessages, outboxBytes } = this.#options;
		if (this.#isClosing) throw new RealtimeError("closed", "the connection is over");
		if (entry.size > messageBytes) throw new RealtimeError("payload", `more than ${messageBytes} bytes`);
		entry.isFleeting = whenOffline !== "queue";
		if (entry.isFleeting && !this.#link) {
			if (whenOffline === "fail") throw new RealtimeError("offline", "there is no link");
			return Promise.resolve({ kind: "dropped", reason: "offline" });
		}
		const { entries } = this.#outbox;
		const old = entry.key === undefined ? undefined : entries.find(({ key }) => key === entry.key);
		const victims = this.#outbox.victims(entry, old, outboxMessages, outboxBytes);
		if (!victims) throw new RealtimeError("outbox_full", "the outbox is full");
		for (const victim of victims) this.#takeBack(victim, "dropped", "evicted");
		if (old) this.#outbox.replace(old, entry);
		else this.#outbox.put(entry);
		old?.settle("dropped", "replaced");
		const expire = () => this.#takeBack(entry, "dropped", "expired");
		const timer = ttlMs <= TIMER_MS ? setTimeout(expire, ttlMs) : null;
		this.#open.add(entry);
		this.#flushSoon();
		return new Promise((resolve) => {
			entry.settle = (kind, reason) => {
				if (!this.#open.delete(entry)) return;
				clearTimeout(timer);
				resolve({ kind, reason });
				entry.request?.settled(kind, reason);
				if (this.#open.size === 0) for (const drained of this.#drained.splice(0)) drained();
			};
		});
	}

	/** Whether it was still queued; if not, it is at least not sent again. */
	#takeBack(entry, ...outcome) {
		const wasQueued = this.#outbox.remove(entry);
		if (wasQueued) entry.settle(...outcome);
		else entry.back ??= outcome;
		return wasQueued;
	}

	// Requests

	#ask(type, payload, { timeoutMs = null, priority, signal }, offered) {
		if (this.#requests.size >= REQUESTS) throw new RealtimeError("outbox_full", "too many requests");
		if (this.#link && !this.#session) throw new RealtimeError("no_session", "the server has no sessions");
		const entry = this.#entry(type, payload, { priority });
		const { count: id } = entry;
		const deadline = timeoutMs === null ? null : Math.ceil(timeoutMs);
		entry.text = `["req",${id},${deadline},[${offered}],null,${entry.text}]`;
		entry.size = bytesOf(entry.text);
		const request = (entry.request = { id, offered, got: [0, 0], taken: [0, 0], told: [0, 0] });
		let resolve;
		let reject;
		const reply = new Promise((...both) => ([resolve, reject] = both));
		reply.catch(() => {});
		const timers = [];
		const over = (error, message) => {
			if (!this.#requests.delete(request)) return;
			timers.forEach(clearTimeout);
			signal?.removeEventListener("abort", abort);
			if (message && message.payload !== null) stream.push(message);
			stream.finish(error);
			if (error) reject(error);
			else resolve(message);
			this.#takeBack(entry, "withdrawn", null);
			this.#session?.cancel(request);
			this.#flushSoon();
		};
		const abort = () => over(new RealtimeError("cancelled", "the request was given up"));
		const taken = ({ size }) => {
			this.#session?.takePart(request, size);
			this.#flushSoon();
		};
		const stream = new Stream([], taken, abort);
		request.over = over;
		request.part = (message, size) => this.#requests.has(request) && stream.push(message, { size });
		request.answer = (message, code, text) => {
			const kind = code === "deadline" && deadline !== null ? code : "refused";
			over(message ? null : new RealtimeError(kind, text || code, { code }), message);
		};
		request.settled = (kind, reason) =>
			kind === "acked" || reason === "receiver" || over(undelivered(kind, reason));
		this.#accept(entry, {});
		this.#requests.add(request);
		signal?.addEventListener("abort", abort);
		if (signal?.aborted) abort();
		const late = () => over(new RealtimeError("deadline", "there was no reply in time"));
		if (timeoutMs !== null) timers.push(setTimeout(late, Math.min(timeoutMs, TIMER_MS)));
		return { reply, stream };
	}

	// What comes in

	/** What a session tells. */
	#host = {
		message: (message, entry) => {
			this.#untaken = plus(this.#untaken, 1, entry.size);
			this.#route(message, entry);
		},
		aside: (message, size) => this.#route(message, { session: null, isAside: true, size }),
		malformed: () => (this.malformed += 1),
		bye: (reason) => this.#bye(reason),
	};

	#route(message, entry) {
		const { windowMessages, windowBytes } = this.#options;
		const open = this.#lobby ? [this.#lobby] : [...this.#streams];
		const streams = open.filter((stream) => stream.wants(message.type));
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

	/** One more of those that have a message has taken it; the last one gives credit. */
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
			else this.#tell(item);
		}
	}

	/** A gap or a reset is for every stream. */
	#tell(item) {
		for (const stream of this.#lobby ? [this.#lobby] : this.#streams) stream.push({ ...item });
	}

	// What goes out

	#flushSoon(ack = false) {
		this.#wantsAck ||= ack;
		if (this.#isFlushing || !this.#link) return;
		this.#isFlushing = true;
		queueMicrotask(() => this.#flush());
	}

	#ackSoon() {
		if (!this.#session || !this.#link) return;
		// In a page that is hidden timers come late, by up to a minute.
		const isHidden = globalThis.document?.visibilityState === "hidden";
		if (isHidden || this.#session.isUrgent) this.#flushSoon(true);
		else this.#ackTimer ??= setTimeout(() => this.#flushSoon(true), ACK_MS);
	}

	#flush() {
		const link = this.#link;
		const ack = this.#wantsAck;
		this.#isFlushing = this.#wantsAck = false;
		clearTimeout(this.#ackTimer);
		clearTimeout(this.#pollTimer);
		this.#ackTimer = null;
		if (!link || link.bye !== null) return;
		const { socket } = link;
		while (socket.readyState === 1 && socket.bufferedAmount < BUFFERED_BYTES) {
			const text = this.#session ? this.#session.batch(this.#outbox, ack) : this.#plain(link);
			if (text === null) break;
			socket.send(text);
		}
		if (socket.readyState !== 1) return;
		const taken = link.said - socket.bufferedAmount;
		while (this.#writing[0]?.end <= taken) this.#writing.shift().settle("written", null);
		// Nobody tells when the kernel has taken something.
		const isBehind = this.#writing.length || socket.bufferedAmount >= BUFFERED_BYTES;
		if (isBehind) this.#pollTimer = setTimeout(() => this.#flushSoon(ack), POLL_MS);
		else if (this.#session?.hasNews) this.#ackSoon();
	}

	/** The next message of a plain link, in flight from now on. */
	#plain(link) {
		const entry = this.#outbox.peek();
		if (!entry) return null;
		this.#outbox.remove(entry);
		entry.end = link.said += entry.size;
		this.#writing.push(entry);
		return entry.text;
	}

	// Links

	async #run() {
		const { firstMs, capMs, minUptimeMs } = this.#options;
		let tries = 0;
		let cause = null;
		for (;;) {
			this.#show({ attempt: tries + 1, cause });
			const end = await this.#dial();
			if (this.#isOver) return;
			cause = end.cause;
			const failure = this.#failure(end);
			if (failure) this.#end("failed", cause, new RealtimeError(failure, cause));
			if (failure) return;
			if (end.isAgain) continue;
			tries = end.lasted >= minUptimeMs ? 1 : tries + 1;
			const bound = Math.min(capMs, firstMs * 2 ** (tries - 1));
			const advised = Math.min(end.adviceMs, 10 * capMs);
			const spread = Math.random() * Math.min(advised / 2, capMs);
			const delayMs = Math.max(Math.random() * bound, advised + spread);
			this.#show({ attempt: tries + 1, retryAt: Date.now() + delayMs, cause });
			this.#wait = pause(delayMs);
			await this.#wait.over;
			this.#wait = null;
			if (this.#isOver) return;
		}
	}

	/** Why the connection is over with this end of a link, or of a dial; or null. */
	#failure({ failure, code, isAgain, lasted, wasFirst }) {
		if (failure || isAgain) return failure ?? null;
		const [, , kind, times] = ENDS.find(([first, last]) => first <= code && code <= last) ?? [];
		const isRepeated = kind === this.#repeated.kind && lasted < this.#options.minUptimeMs;
		const count = isRepeated ? this.#repeated.count + 1 : 1;
		this.#repeated = { kind, count };
		if (kind === "unwanted") return wasFirst ? kind : null;
		const isStale = kind === "refused" && typeof this.#options.token !== "function";
		return kind && (count >= times || isStale) ? kind : null;
	}

	#show(state) {
		const phase = this.#hadLink ? "reconnecting" : "connecting";
		this.state = { phase, attempt: 0, retryAt: null, cause: null, resumed: false, ...state };
		for (const stream of this.#watchers) {
			if (stream.length >= STATES) stream.next();
			stream.push(this.state);
		}
	}

	/** The subprotocols to offer. */
	async #protocols(link) {
		const { session, protocols, token } = this.#options;
		const told = typeof token === "function" ? await token() : token;
		link.offers = session !== "off" && this.#offers && !this.#triesPlain;
		const names = [...protocols];
		// A browser wants one of them to be picked, and a token is none to pick.
		if (link.offers || (told && names.length === 0)) names.push(PLAIN);
		if (link.offers) names.push(NUMBERED);
		if (told) names.push(TOKEN + told);
		return names;
	}

	/** One link, from its dial to its end. */
	async #dial() {
		const wasFirst = !this.#hadLink;
		const link = { up: 0, heard: now(), probed: 0, said: 0, bye: null, terms: null, wasFirst };
		this.#dialled = link;
		try {
			const names = await this.#protocols(link);
			if (this.#isOver) return {};
			link.socket = new this.#options.WebSocket(this.#url, names);
		} catch (error) {
			const failure = error.name === "SyntaxError" ? "usage" : undefined;
			return { failure, cause: error.message, lasted: 0, adviceMs: 0 };
		}
		return new Promise((resolve) => this.#listen(link, resolve));
	}

	#listen(link, resolve) {
		const { socket, wasFirst } = link;
		const { openMs } = this.#options;
		let told = "";
		const over = ({ reason = "", ...end }) => {
			const said = [1012, 1013].includes(end.code) ? reason : "";
			for (const name of ["onopen", "onmessage", "onclose"]) socket[name] = null;
			socket.onerror = () => {};
			clearTimeout(link.timer);
			const lasted = link.up ? now() - link.up : 0;
			if (link === this.#link) this.#unlink(link);
			const advice = ADVICE.exec(`${link.bye ?? ""} ${said}`)?.[1] ?? 0;
			resolve({ lasted, wasFirst, adviceMs: 1000 * advice, ...end });
		};
		/** End the link from here. */
		link.lose = (code, cause, more = {}) => {
			hangUp(socket, code);
			over({ code, cause, ...more });
		};
		const guard = (handler) => (event) => {
			try {
				handler(event);
			} catch (error) {
				this.#breach(link, error);
			}
		};
		link.timer = setTimeout(() => link.lose(1000, "the handshake took too long"), openMs);
		socket.onopen = guard(() => this.#opened(link));
		socket.onmessage = guard(({ data }) => this.#heard(link, data));
		socket.onerror = (event) => (told = event.message || told);
		socket.onclose = ({ code, reason }) => {
			const cause = `the link was closed: ${code} ${reason}`.trim();
			over(link.up || link.terms ? { code, reason, cause } : this.#refused(link, told));
		};
	}

	/** A dial that failed. Pages are not told why; others are in the words of an error. */
	#refused(link, told) {
		const status = Number(/response: (\d{3})/.exec(told)?.[1] ?? 0);
		const isBlind = /^$|subprotocol|non-101/.test(told);
		const isAgain = link.offers && !this.#wasWelcomed && (isBlind || status === 400);
		this.#triesPlain = isAgain && this.#options.session !== "require";
		if (told && this.#triesPlain) this.#offers = false;
		const cause = `the dial failed: ${told || "no reason given"}`;
		return { code: status, cause, isAgain: this.#triesPlain };
	}

	#opened(link) {
		const { session, openMs, ...limits } = this.#options;
		clearTimeout(link.timer);
		this.#triesPlain = false;
		if (link.socket.protocol !== NUMBERED) {
			if (session === "require") link.lose(1000, "the server has no sessions", { failure: "no_session" });
			else this.#up(link, false);
			return;
		}
		link.timer = setTimeout(() => this.#unwelcome(link, "there was no welcome in time"), openMs / 2);
		this.#since = [0, 0];
		link.terms = {
			window: [limits.windowMessages, limits.windowBytes],
			held: this.#untaken,
			replay: [limits.outboxMessages, limits.outboxBytes],
			message_bytes: limits.messageBytes,
		};
		link.socket.send(Session.hello(link.terms, this.#session));
	}

	#heard(link, data) {
		link.heard = now();
		link.probed = 0;
		if (link.bye !== null) return;
		if (!link.up) this.#welcome(link, data);
		else if (link.terms) {
			this.#session.feed(data);
			this.#ackSoon();
			this.#flushSoon();
		} else {
			const message = isString(data) ? decode(parse(data)) : null;
			if (message) this.#host.message(message, { session: null, number: 0, size: bytesOf(data) });
			else this.malformed += 1;
		}
	}

	#welcome(link, data) {
		const welcome = Session.readWelcome(data, this.#session);
		const [, , , isResumed] = welcome;
		clearTimeout(link.timer);
		this.#wasWelcomed = true;
		if (isResumed) this.#session.resume(welcome);
		else {
			this.#loseSession();
			this.#session = new Session(link.terms, welcome, this.#host, this.#since);
		}
		this.#up(link, isResumed);
	}

	#up(link, resumed) {
		if (!link.terms) {
			this.#loseSession();
			const error = new RealtimeError("no_session", "the server has no sessions");
			for (const request of [...this.#requests]) request.over(error);
		}
		if (this.#hadLink && !resumed) this.#tell({ kind: "reset", cause: this.state.cause });
		this.#hadLink = true;
		this.#link = link;
		link.up = now();
		this.#show({ phase: "connected", resumed });
		this.#flushSoon();
		this.#watch(link);
	}

	/** Find out that a link is dead. A page cannot ping, but in a session it can ask for an ack. */
	#watch(link) {
		const { beatMs, beatTimeoutMs, quietMs } = this.#options;
		const quiet = now() - link.heard;
		const left = link.probed ? link.probed + beatTimeoutMs - now() : beatMs - quiet;
		const next = link.terms ? left : quietMs - quiet;
		const isDead = next <= 0 && (link.probed || !link.terms);
		if (isDead) {
			link.socket.terminate?.();
			link.lose(1000, `nothing was heard for ${Math.round(quiet)} ms`);
			return;
		}
		if (next <= 0) {
			link.probed = now();
			this.#session?.probe();
			this.#flushSoon();
		}
		const soon = next <= 0 ? beatTimeoutMs : Math.min(next, TIMER_MS);
		link.timer = setTimeout(() => this.#watch(link), Math.max(soon, POLL_MS));
	}

	/** What was thrown while something was heard. */
	#breach(link, error) {
		const { code = 1002, isEnd = true, message } = error;
		if (!link.up && !this.#wasWelcomed) this.#unwelcome(link, message);
		else {
			if (isEnd) this.#loseSession();
			link.lose(code, message);
		}
	}

	/** The server has picked a session, and has none. */
	#unwelcome(link, cause) {
		const isAgain = !this.#wasWelcomed && this.#options.session !== "require";
		if (isAgain) this.#offers = false;
		link.lose(1002, cause, { isAgain });
	}

	#bye(reason) {
		const link = this.#link;
		link.bye = reason;
		this.#loseSession();
		clearTimeout(link.timer);
		link.timer = setTimeout(() => link.lose(1000, `bye: ${reason}`), 1000);
	}

	/** A link that was up is gone. */
	#unlink(link) {
		this.#link = null;
		this.#onlineMs += now() - link.up;
		for (const entry of this.#writing.splice(0)) entry.settle("indeterminate", null);
		for (const entry of [...this.#open]) if (entry.isFleeting) this.#takeBack(entry, "dropped", "offline");
	}

	#loseSession() {
		const { unsettled, requests } = this.#session ?? { unsettled: new Map(), requests: new Map() };
		this.#session = null;
		for (const entry of unsettled.values()) entry.settle("indeterminate", null);
		for (const request of [...requests.values()]) request.over(undelivered("indeterminate"));
	}

	#end(phase, cause, error = null) {
		if (this.#isOver) return;
		this.#isOver = this.#isClosing = true;
		const { socket, bye, timer } = this.#dialled ?? {};
		const isUp = this.#link && this.#session && bye === null && socket.readyState === 1;
		if (isUp) socket.send(this.#session.batch(new Outbox(), true, ""));
		if (socket) hangUp(socket, 1000);
		for (const each of [timer, this.#ackTimer, this.#pollTimer]) clearTimeout(each);
		if (this.#link) this.#unlink(this.#link);
		this.#loseSession();
		for (const entry of [...this.#outbox.entries]) this.#takeBack(entry, "withdrawn", null);
		for (const request of [...this.#requests]) request.over(undelivered("indeterminate"));
		this.#wait?.wake();
		for (const stream of [...this.#streams]) stream.finish(error);
		this.#show({ phase, cause });
		for (const stream of [...this.#watchers]) stream.finish();
		this.#finish(this.state);
	}
}

/**
 * Connect to `url`, and again whenever the link is lost; returns a connection at once.
 *
 * Options are those of `LIMITS`, and `token` (or a function that is asked before each dial),
 * `protocols`, `session` ("offer", "require" or "off"), `WebSocket` (a class) and `signal`.
 */
export function connect(url, options = {}) {
	const { WebSocket } = globalThis;
	const others = { token: "", protocols: [], session: "offer", signal: undefined, WebSocket };
	const all = { ...LIMITS, ...others, ...options };
	const isGood = {
		session: (value) => ["offer", "require", "off"].includes(value),
		token: (value) => isString(value) || typeof value === "function",
		protocols: Array.isArray,
		WebSocket: (value) => typeof value === "function",
		signal: () => true,
	};
	const isLimit = (value) => typeof value === "number" && value > 0;
	for (const [name, value] of Object.entries(all)) {
		const fits = name in LIMITS ? isLimit(value) : isGood[name]?.(value);
		if (!fits) throw new RealtimeError("usage", `${name} cannot be ${value}`);
	}
	return new Connection(url, all);
}
