// The client's books of one session, as docs/protocol.md has them: without input and output.
//
// An `Entry` is a frame that goes out. The `Outbox` has those of the program until there is room
// for them, and a `Session` all else: what is sent again, and what was heard, taken and told.

const BATCH_BYTES = 65_536;
const FRAMES = 4096;
const RANGES = 256;
const REQUESTS = 1024;

const encoder = new TextEncoder();
const bytesOf = (text) => encoder.encode(text).length;
export const isString = (value) => typeof value === "string";
const isNumber = (value) => Number.isSafeInteger(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

// Messages, or frames, and their bytes are counted in pairs.
const isPair = (value) => Array.isArray(value) && value.length > 1 && value.slice(0, 2).every(isNumber);
export const plus = (pair, count, bytes) => [pair[0] + count, pair[1] + bytes];
export const minus = (pair, other) => [pair[0] - other[0], pair[1] - other[1]];
const lesser = (pair, other) => pair.map((count, at) => Math.min(count, other[at]));
const isQuarter = (news, limits) => news.some((count, at) => count * 4 >= limits[at]);
/** Whether one more may be in flight: in the window, or alone. */
const fits = (flight, size, [messages, bytes]) =>
	flight[0] <= 0 || (flight[0] < messages && flight[1] + size <= bytes);

/** The other side broke the protocol: the session ends, and the link is closed with `code`. */
class Breach extends Error {
	constructor(text, code = 1002) {
		super(text);
		this.code = code;
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

/** From the least urgent on. */
export const PRIORITIES = ["low", "normal", "high", "critical"];
/** How much later something more urgent may come and overtake, by priority. */
const PATIENCE_MS = [30_000, 10_000, 2_000, -Infinity];

/** The message of an envelope, or null if it is none. */
function decode(envelope) {
	if (!isObject(envelope) || !isString(envelope.type)) return null;
	const { type, payload = null, id, timestamp, priority, key } = envelope;
	return {
		kind: "message", type, payload,
		id: isString(id) ? id : "",
		timestamp: isNumber(timestamp) ? timestamp : null,
		priority: PRIORITIES.includes(priority) ? priority : "normal",
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

/** A frame that goes out. `outcome` resolves with `{kind, reason}`: what became of it. */
export class Entry {
	number = 0;
	/** The outcome of what was taken back after it had been sent, if it has not arrived. */
	back = null;
	outcome = new Promise((resolve) => (this.settle = (kind, reason = null) => resolve({ kind, reason })));

	/** A message or a request has an `urgency`, the time `at` which it was queued, and more. */
	constructor(text, more = {}) {
		Object.assign(this, { text, size: bytesOf(text), isMessage: "urgency" in more }, more);
	}
}

const note = (...items) => new Entry(JSON.stringify(items));

/** What waits to be sent, in the order in which it came. */
export class Outbox {
	entries = [];
	bytes = 0;

	/** The one that goes next: the most urgent, but an order is kept. */
	peek() {
		const due = ({ at, urgency }) => at + PATIENCE_MS[urgency];
		let next = this.entries[0];
		for (const entry of this.entries) if (due(entry) < due(next)) next = entry;
		if (next?.order === undefined) return next;
		return this.entries.find(({ order }) => order === next.order);
	}

	remove(entry) {
		const place = this.entries.indexOf(entry);
		if (place < 0) return false;
		this.entries.splice(place, 1);
		this.bytes -= entry.size;
		return true;
	}

	/** Whether there was room. It replaces what waits under its key; what is less urgent may have to go. */
	put(entry, [most, mostBytes]) {
		const { key, urgency, size } = entry;
		const old = this.entries.find((each) => key !== undefined && each.key === key);
		const others = this.entries.filter((each) => each !== old && each.urgency < urgency);
		others.sort((one, other) => one.urgency - other.urgency);
		const gone = new Set();
		let [count, bytes] = [this.entries.length + (old ? 0 : 1), this.bytes + size - (old?.size ?? 0)];
		for (; count > most || bytes > mostBytes; count -= 1) {
			if (others.length === 0) return false;
			bytes -= others[0].size;
			gone.add(others.shift());
		}
		if (old) entry.at = old.at;
		else this.entries.push(entry);
		this.entries = this.entries.map((each) => (each === old ? entry : each)).filter((each) => !gone.has(each));
		this.bytes = bytes;
		old?.settle("dropped", "replaced");
		for (const each of gone) each.settle("dropped", "evicted");
		return true;
	}
}

/** The control frames, and what they have behind their name. */
const CONTROL = {
	req: ([, id, deadline, parts, trace, envelope]) =>
		isNumber(id) && (deadline === null || isNumber(deadline)) && isPair(parts) &&
		(trace === null || isString(trace)) && isObject(envelope),
	part: ([, id, envelope]) => isNumber(id) && isObject(envelope),
	end: ([, id, envelope]) => isNumber(id) && isObject(envelope),
	fail: ([, id, code, text]) => isNumber(id) && isString(code) && isString(text),
	cancel: ([, id]) => isNumber(id),
	more: ([, id, taken]) => isNumber(id) && isPair(taken),
	void: () => true,
	aside: ([, envelope]) => isObject(envelope),
	bye: ([, reason]) => isString(reason),
};

/** A position at the beginning. */
const ZERO = { settled: 0, received: 0, consumed: 0, messages: 0, bytes: 0, drops: [] };

/**
 * The books of one session. `host` is told what comes in, by `message(message, entry)`,
 * `aside(message, size)`, `malformed()` and `bye(reason)`. A request has `{id, offered, got, taken,
 * told}`, of parts, and is told of its answer by `part(message, size)` and
 * `answer(message, code, text)`.
 */
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
	#peer = ZERO;
	#settled = 0;
	// What comes in: all frames, messages, which of them are taken, what nobody wanted.
	#arrived = [0, 0];
	#volumeIn = [0, 0];
	#credit;
	#isTaken = new Map();
	#drops = [];
	#listed = 0;
	#told = { arrived: this.#arrived, consumed: 0, credit: [0, 0] };

	/** `taken`: how much of what lay here at the hello has been taken since. */
	constructor(mine, [, id, token, , theirs], host, taken = [0, 0]) {
		Object.assign(this, { id, token, mine, theirs, host });
		this.#credit = taken;
		this.window = lesser(theirs.window, mine.replay);
		this.windowIn = lesser(mine.window, theirs.replay);
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
		insist(Object.keys(position).every((name) => name in ZERO), "a position");
		this.token = token;
		this.#onLink = this.sent;
		this.#mark({ ...ZERO, ...position }, true);
		this.#onLink = this.#peer.received;
		this.#listed = this.#peer.settled;
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
		const { messages, bytes } = this.#peer;
		return minus(plus(this.#volume, ...this.theirs.held), [messages, bytes]);
	}

	/** What goes next: what is sent again, then the notes, then the outbox; undefined: nothing may. */
	#next(outbox) {
		if (this.#onLink < this.sent) return this.kept[this.#onLink - this.#peer.received];
		const [frames, bytes] = this.mine.replay;
		if (this.kept.length >= frames || this.#keptBytes >= bytes) return undefined;
		let entry = this.notes[0] ?? outbox.peek();
		while (entry?.isMessage && entry.size > this.theirs.message_bytes) {
			outbox.remove(entry);
			entry.settle("dropped", "oversize");
			entry = outbox.peek();
		}
		if (!entry?.isMessage) return entry;
		const isShort = this.unsettled.size < 16 * this.window[0];
		return isShort && fits(this.inFlight, entry.size, this.window) ? entry : undefined;
	}

	#commit(entry, outbox) {
		this.#onLink += 1;
		if (this.#onLink <= this.sent) return;
		if (entry.isMessage) outbox.remove(entry);
		else this.notes.shift();
		entry.number = this.sent = this.#onLink;
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
		this.#told = { arrived: this.#arrived, consumed, credit: this.#credit };
	}

	/** Whether there is something to acknowledge, and whether that should go at once. */
	get hasNews() {
		const { arrived, consumed, credit } = this.#told;
		return arrived !== this.#arrived || consumed < this.consumed || credit[0] < this.#credit[0];
	}

	get isUrgent() {
		const { arrived, credit } = this.#told;
		const isCredit = isQuarter(minus(this.#credit, credit), this.windowIn);
		return isCredit || isQuarter(minus(this.#arrived, arrived), this.theirs.replay);
	}

	/** Make the other side say something within 200 ms: a void under a new number. */
	probe() {
		if (this.kept.length + this.notes.length === 0) this.notes.push(note("void"));
	}

	// What comes in

	get received() {
		return this.#arrived[0];
	}

	/** The number up to which all of the other's frames were taken. */
	get consumed() {
		for (const number of this.#isTaken.keys()) return number - 1;
		return this.received;
	}

	/** Take in a batch, or throw a `Breach`. */
	feed(text) {
		insist(isString(text), "a binary message");
		const most = this.mine.message_bytes + 81_920;
		if (text.length * 3 > most && bytesOf(text) > most) throw new Breach("a batch too large", 1009);
		const [head, ...lines] = text.split("\n");
		// JSON.parse takes 1.0 for 1, so the letters are looked at.
		const header = /^\[[\d\s,[\]]*$/.test(head) && parse(head);
		insist(Array.isArray(header) && header.length === 7, "no header");
		let [number, settled, received, consumed, messages, bytes, drops] = header;
		insist(lines.length <= FRAMES && !(drops.length > RANGES), "more than a batch may have");
		insist(isNumber(number) && number > 0 && number <= this.received + 1, "a number that is not due");
		const before = this.#peer.settled;
		this.#mark({ settled, received, consumed, messages, bytes, drops });
		const waiting = this.#ranges(0, this.#listed).reduce((sum, [from, to]) => sum + to - from + 1, 0);
		insist(settled > before || waiting <= 32 * this.windowIn[0], "no drop is settled");
		for (const line of lines) number += this.#frame(line, number) ? 1 : 0;
	}

	/** Take in the marks and drops of a header or a position. */
	#mark(said, isPosition = false) {
		const [messages, bytes] = plus(this.#volume, ...this.theirs.held);
		const most = { settled: this.#told.consumed, received: this.#onLink, consumed: said.received, messages, bytes };
		for (const [name, bound] of Object.entries(most)) {
			const least = isPosition && name === "consumed" ? 0 : this.#peer[name];
			insist(isNumber(said[name]) && said[name] >= least && said[name] <= bound, name);
		}
		insist(Array.isArray(said.drops), "drops");
		let end = 0;
		for (const range of said.drops) {
			insist(isPair(range) && range.length === 2 && range[0] > end && range[1] >= range[0], "drops");
			[, end] = range;
		}
		insist(end <= said.consumed, "drops");
		this.#peer = said;
		this.#drops = this.#drops.filter(([, last]) => last > said.settled);
		while (this.kept[0]?.number <= said.received) this.#keptBytes -= this.kept.shift().size;
		this.#settle(said);
	}

	#settle({ consumed, drops }) {
		this.#settled = Math.max(this.#settled, consumed);
		for (const [number, entry] of this.unsettled) {
			if (number > consumed) return;
			this.unsettled.delete(number);
			const isDrop = drops.some(([first, last]) => first <= number && number <= last);
			entry.settle(...(isDrop ? ["dropped", "receiver"] : ["acked"]));
		}
	}

	/** Take in a frame; whether it has a number. */
	#frame(text, number) {
		const size = bytesOf(text);
		if (size > this.mine.message_bytes) throw new Breach("a frame too large", 1009);
		const isControl = text[0] === "[";
		const frame = isControl ? parse(text) : [];
		const [kind = "", id] = frame ?? [];
		insist(!isControl || (Object.hasOwn(CONTROL, kind) && CONTROL[kind](frame)), "a control frame");
		if (kind === "aside" && decode(id)) this.host.aside(decode(id), size);
		if (kind === "bye") this.host.bye(id);
		if (kind === "aside" || kind === "bye") return false;
		if (number <= this.received) return true;
		this.#arrived = plus(this.#arrived, 1, size);
		if (!isControl) this.#message(text, this.#admit(number, size));
		else if (kind === "req") this.#refuse(frame, this.#admit(number, size));
		else if (["part", "end", "fail"].includes(kind)) this.#answer(frame, text);
		return true;
	}

	/** Count a message or a request, if there was room for it in the window. */
	#admit(number, size) {
		const inFlight = minus(plus(this.#volumeIn, ...this.mine.held), this.#credit);
		insist(fits(inFlight, size, this.windowIn), "more than the window has");
		insist(this.#isTaken.size < 16 * this.windowIn[0], "more than 16 windows");
		this.#volumeIn = plus(this.#volumeIn, 1, size);
		this.#isTaken.set(number, false);
		return { session: this, number, size };
	}

	#message(text, entry) {
		const message = decode(parse(text));
		if (message) this.host.message(message, entry);
		else this.#malformed(entry);
	}

	#malformed(entry) {
		this.take(entry);
		this.host.malformed();
	}

	/** The program has taken a message, of whatever session; `isDrop`: nobody wanted it. */
	take({ session, number, size }, isDrop = false) {
		this.#credit = plus(this.#credit, 1, size);
		if (session !== this) return;
		const last = this.#drops.at(-1);
		if (isDrop && last?.[1] === number - 1) last[1] = number;
		else if (isDrop) this.#drops.push([number, number]);
		this.#isTaken.set(number, true);
		for (const [first, isTaken] of this.#isTaken) {
			if (!isTaken) return;
			this.#isTaken.delete(first);
		}
	}

	// Requests

	/** Nobody serves requests here. */
	#refuse([, id, , , , envelope], entry) {
		const open = [...this.notes, ...this.kept].filter(({ isFinal }) => isFinal).length;
		insist(open < REQUESTS, "too many requests");
		const isReadable = decode(envelope) !== null;
		if (isReadable) this.take(entry);
		else this.#malformed(entry);
		const fail = note("fail", id, isReadable ? "unserved" : "malformed", "");
		this.notes.push(Object.assign(fail, { isFinal: true }));
	}

	#answer([kind, id, third, text], line) {
		const request = this.requests.get(id);
		insist(request, "an answer to no request");
		const message = kind === "fail" ? null : decode(third);
		insist(message || kind === "fail", "an answer that cannot be read");
		if (kind !== "part") {
			this.requests.delete(id);
			request.answer(message, third, text);
			return;
		}
		const size = envelopeBytes(line);
		const [parts, bytes] = request.offered;
		const waiting = minus(request.got, request.told);
		const hasRoom = waiting[1] + size <= bytes || waiting[1] * 4 < bytes;
		insist(waiting[0] < parts && hasRoom, "more parts than there is credit for");
		request.got = plus(request.got, 1, size);
		request.part(message, size);
	}

	/** The program has taken a part; `more` goes at each quarter. */
	takePart(request, size) {
		request.taken = plus(request.taken, 1, size);
		const isDue = isQuarter(minus(request.taken, request.told), request.offered);
		if (!isDue || this.requests.get(request.id) !== request) return;
		request.told = request.taken;
		this.notes.push(note("more", request.id, request.taken));
	}

	cancel(request) {
		if (this.requests.get(request.id) === request) this.notes.push(note("cancel", request.id));
	}
}
