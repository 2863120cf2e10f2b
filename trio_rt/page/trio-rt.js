// trio-rt for browsers and Node: connections that outlive their links, by sessions.
//
// docs/javascript.md says how it is used, docs/protocol.md what travels. The books of a session
// are in trio-rt-session.js; here are, from the bottom up: Stream, Link, Connection.

import { Entry, isString, minus, Outbox, plus, PRIORITIES, Session } from "./trio-rt-session.js";

const NUMBERED = "trio-rt.v1+json";
const PLAIN = "trio-rt.plain";
const TOKEN = "trio-rt.token.";

const ACK_MS = 100;
const POLL_MS = 10;
const TIMER_MS = 2 ** 31 - 1;
const BUFFERED_BYTES = 262_144;
const REQUESTS = 1024;
const PARTS = [256, 262_144];
const ASIDES = 256;
const STATES = 64;

const LIMITS = {
	firstMs: 500, capMs: 30_000, minUptimeMs: 5_000, openMs: 10_000, closeMs: 5_000,
	beatMs: 15_000, beatTimeoutMs: 10_000,
	windowMessages: 256, windowBytes: 4_194_304, messageBytes: 1_048_576,
	outboxMessages: 1_000, outboxBytes: 4_194_304,
};

const ADVICE = /(?<!\S)retry-after=(\d{1,9}(?:\.\d{1,9})?)(?![^\s;,])/;

const now = () => performance.now();

/** What is thrown here. `kind` says what it is; a refusal has the `code` of the other side. */
export class RealtimeError extends Error {
	constructor(kind, text, more = {}) {
		super(text);
		Object.assign(this, { name: "RealtimeError", kind }, more);
	}
}

const undelivered = (kind, reason = null) =>
	new RealtimeError("undelivered", `the request is ${kind}`, { outcome: { kind, reason } });

/** What a close code, or an HTTP status, means to the connection, and at which in a row it is over. */
function meaningOf(code) {
	const isIn = (first, last) => first <= code && code <= last;
	if ([1002, 1007].includes(code)) return ["broken", 3];
	if ([1003, 1009, 1010].includes(code)) return ["illegal", 1];
	if ([401, 1008, 3000, 4401].includes(code)) return ["refused", 2];
	if (code === 4409) return ["taken_over", 1];
	if ([408, 425, 429].includes(code)) return [];
	return isIn(100, 499) || isIn(3500, 3999) || isIn(4500, 4999) ? ["unwanted", 1] : [];
}

/** An async iterator of what comes. `taken(entry)` is called for what is taken or discarded. */
class Stream {
	#items = [];
	#waiters = [];
	#end = null;

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
		const isAgain = item.kind === "reset" && this.#items.at(-1)?.item.kind === "reset";
		if (this.#end || isAgain) return;
		this.#items.push({ item, entry });
		if (this.#waiters.length) this.#waiters.shift()(this.next());
	}

	async next() {
		if (this.#items.length === 0) return this.#end?.() ?? new Promise((resolve) => this.#waiters.push(resolve));
		const { item, entry } = this.#items.shift();
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
		return this.#items.splice(0);
	}

	/** No more will come; what it holds can still be taken, and then an error is thrown. */
	finish(error = null) {
		if (this.#end) return;
		this.#end = async () => {
			if (error) throw error;
			return { value: undefined, done: true };
		};
		for (const resolve of this.#waiters.splice(0)) resolve(this.#end());
		this.closed();
	}
}

/** One link, from its dial on; `over` resolves with `{code, cause, kind, adviceMs, lasted}`. */
class Link {
	/** When it was welcomed, when something was heard last, and since when an answer is due. */
	up = 0;
	heard = now();
	probed = 0;
	bye = null;
	#timer;
	#finish;
	over = new Promise((resolve) => (this.#finish = resolve));

	/** `broken(error)` is told what `opened()` and `heard(data)` throw. */
	constructor(socket, { opened, heard, broken }) {
		this.socket = socket;
		let told = "";
		const guard = (handler) => ({ data }) => {
			try {
				handler(data);
			} catch (error) {
				broken(error);
			}
		};
		socket.onopen = guard(opened);
		socket.onmessage = guard(heard);
		socket.onerror = ({ message }) => (told = message || told);
		socket.onclose = ({ code, reason }) => {
			if (this.terms) this.#end({ code, reason, cause: `the link was closed: ${code} ${reason}`.trim() });
			else this.#end(refusal(told));
		};
	}

	/** Do something after some time, in place of what was to be done. */
	later(ms, act) {
		clearTimeout(this.#timer);
		this.#timer = setTimeout(act, Math.min(ms, TIMER_MS));
	}

	/** End it from here. A page may not say every code: it says 4002 for 1002, and so on. */
	lose(code, cause, kind) {
		const { socket } = this;
		this.#end({ code, cause, kind });
		try {
			socket.close(code);
		} catch {
			socket.close(code + 3000);
		}
		if (socket.terminate) setTimeout(() => socket.terminate(), 1000).unref?.();
	}

	#end({ reason = "", ...end }) {
		const { socket } = this;
		clearTimeout(this.#timer);
		socket.onopen = socket.onmessage = socket.onclose = null;
		socket.onerror = () => {};
		const advice = [1012, 1013].includes(end.code) ? reason : "";
		const [, seconds = 0] = ADVICE.exec(`${this.bye ?? ""} ${advice}`) ?? [];
		this.#finish({ ...end, adviceMs: 1000 * seconds, lasted: this.up ? now() - this.up : 0 });
	}
}

/** The end of a dial that failed. Pages are not told why; others are in the words of an error. */
function refusal(told) {
	const [, status = 0] = /response: (\d{3})/.exec(told) ?? [];
	const kind = /subprotocol/.test(told) ? "no_session" : undefined;
	return { code: Number(status), cause: `the dial failed: ${told || "no reason given"}`, kind };
}

class Connection {
	#url;
	#options;
	#outbox = new Outbox();
	/** Sends without an outcome, and requests without an answer. */
	#open = new Set();
	#requests = new Set();
	#streams = new Set();
	#watchers = new Set();
	/** What comes before the first stream is opened. */
	#lobby = new Stream([], (entry) => this.#taken(entry));
	/** Messages, and bytes of messages, that lie here, of whatever session. */
	#untaken = [0, 0];
	#session = null;
	#link = null;
	#wake = () => {};
	#hadLink = false;
	#isClosing = false;
	#isOver = false;
	#onlineMs = 0;
	#count = 0;
	#prefix = Math.random().toString(36).slice(2, 8);
	#isFlushing = false;
	#wantsAck = false;
	#timer = null;
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

	get #isUp() {
		return this.#link !== null && this.#link.up > 0;
	}

	// The program's side

	/** Queue a message: `{id, outcome, withdraw()}`. What it throws was not accepted. */
	send(type, payload = null, options = {}) {
		const entry = this.#entry(type, payload, options);
		this.#accept(entry, options);
		return { id: entry.id, outcome: entry.outcome, withdraw: () => this.#takeBack(entry, "withdrawn") };
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
		const stream = new Stream(types, (entry) => this.#taken(entry), () => this.#streams.delete(stream));
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
		this.#wake();
	}

	/** Resolves when every accepted send has its outcome. */
	async drain() {
		while (this.#open.size) await Promise.all([...this.#open].map(({ outcome }) => outcome));
	}

	/** Take no more sends, give the accepted ones this time, and end; resolves with the last state. */
	async close(timeoutMs = this.#options.closeMs) {
		this.#isClosing = true;
		let timer;
		const late = new Promise((resolve) => (timer = setTimeout(resolve, Math.min(timeoutMs, TIMER_MS))));
		await Promise.race([this.drain(), late, this.ended]);
		clearTimeout(timer);
		this.#end("disconnected", null);
		return this.ended;
	}

	// Sends

	#entry(type, payload, { priority = "normal", key, order }, framed = (envelope) => envelope) {
		const urgency = PRIORITIES.indexOf(priority);
		if (!isString(type) || urgency < 0) {
			throw new RealtimeError("usage", `no type, or no priority: ${type}, ${priority}`);
		}
		const count = (this.#count += 1);
		const id = `${this.#prefix}-${count}`;
		let envelope;
		try {
			envelope = JSON.stringify({ id, type, payload, timestamp: Date.now(), priority, key });
		} catch (error) {
			throw new RealtimeError("payload", `the payload must fit in JSON: ${error.message}`);
		}
		const at = this.#onlineMs + (this.#isUp ? now() - this.#link.up : 0);
		return new Entry(framed(envelope, count), { id, count, urgency, key, order, at });
	}

	/** Put it into the outbox. */
	#accept(entry, { ttlMs = Infinity, whenOffline = "queue" }) {
		const { messageBytes, outboxMessages, outboxBytes } = this.#options;
		if (this.#isClosing) throw new RealtimeError("closed", "the connection is over");
		if (entry.size > messageBytes) throw new RealtimeError("payload", `more than ${messageBytes} bytes`);
		entry.isFleeting = whenOffline !== "queue";
		if (entry.isFleeting && !this.#isUp) {
			if (whenOffline === "fail") throw new RealtimeError("offline", "there is no link");
			entry.settle("dropped", "offline");
			return;
		}
		if (!this.#outbox.put(entry, [outboxMessages, outboxBytes])) {
			throw new RealtimeError("outbox_full", "the outbox is full");
		}
		const expire = () => this.#takeBack(entry, "dropped", "expired");
		const timer = ttlMs <= TIMER_MS ? setTimeout(expire, ttlMs) : null;
		this.#open.add(entry);
		entry.outcome.then(() => {
			clearTimeout(timer);
			this.#open.delete(entry);
		});
		this.#flushSoon();
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
		const deadline = timeoutMs === null ? null : Math.ceil(timeoutMs);
		const framed = (envelope, id) => `["req",${id},${deadline},[${offered}],null,${envelope}]`;
		const entry = this.#entry(type, payload, { priority }, framed);
		const request = { id: entry.count, offered, got: [0, 0], taken: [0, 0], told: [0, 0] };
		entry.request = request;
		let resolve;
		let reject;
		let timer;
		const reply = new Promise((...both) => ([resolve, reject] = both));
		reply.catch(() => {});
		const over = (error, message = null) => {
			if (!this.#requests.delete(request)) return;
			clearTimeout(timer);
			signal?.removeEventListener("abort", abort);
			if (message && message.payload !== null) stream.push(message);
			stream.finish(error);
			if (error) reject(error);
			else resolve(message);
			this.#takeBack(entry, "withdrawn");
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
		request.part = (message, size) => stream.push(message, { size });
		request.answer = (message, code, text) => {
			const kind = code === "deadline" && deadline !== null ? code : "refused";
			over(message ? null : new RealtimeError(kind, text || code, { code }), message);
		};
		this.#accept(entry, {});
		this.#requests.add(request);
		entry.outcome.then(({ kind, reason }) => {
			if (kind !== "acked" && reason !== "receiver") over(undelivered(kind, reason));
		});
		signal?.addEventListener("abort", abort);
		if (signal?.aborted) abort();
		const late = () => over(new RealtimeError("deadline", "there was no reply in time"));
		if (deadline !== null) timer = setTimeout(late, Math.min(deadline, TIMER_MS));
		return { reply, stream };
	}

	// What comes in

	/** What a session tells. */
	#host = {
		message: (message, entry) => {
			this.#untaken = plus(this.#untaken, 1, entry.size);
			this.#route(message, entry);
		},
		aside: (message) => {
			for (const stream of this.#streamsOf(message)) if (stream.length < ASIDES) stream.push(message);
		},
		malformed: () => (this.malformed += 1),
		bye: (reason) => this.#bye(reason),
	};

	#streamsOf({ type }) {
		const open = this.#lobby ? [this.#lobby] : [...this.#streams];
		return open.filter((stream) => stream.wants(type));
	}

	#route(message, entry) {
		const streams = this.#streamsOf(message);
		entry.uses = streams.length || 1;
		for (const stream of streams) stream.push(message, entry);
		if (streams.length === 0) this.#taken(entry, true);
	}

	/** One more of those that have a message has taken it; the last one gives credit. */
	#taken(entry, isDrop = false) {
		entry.uses -= 1;
		if (entry.uses > 0) return;
		this.#untaken = plus(this.#untaken, -1, -entry.size);
		this.#session?.take(entry, isDrop);
		this.#ackSoon();
	}

	#leaveLobby() {
		const waiting = this.#lobby?.drain() ?? [];
		this.#lobby = null;
		for (const { item, entry } of waiting) {
			if (entry) this.#route(item, entry);
			else for (const stream of this.#streams) if (stream.wants(item.type)) stream.push(item);
		}
	}

	// What goes out

	#flushSoon(ack = false) {
		this.#wantsAck ||= ack;
		if (this.#isFlushing || !this.#isUp) return;
		this.#isFlushing = true;
		queueMicrotask(() => this.#flush());
	}

	#ackSoon() {
		if (!this.#isUp) return;
		// In a page that is hidden timers come late, by up to a minute.
		const isHidden = globalThis.document?.visibilityState === "hidden";
		if (isHidden || this.#session?.isUrgent) this.#flushSoon(true);
		else this.#timer ??= setTimeout(() => this.#flushSoon(true), ACK_MS);
	}

	#flush() {
		const ack = this.#wantsAck;
		this.#isFlushing = this.#wantsAck = false;
		clearTimeout(this.#timer);
		this.#timer = null;
		if (!this.#isUp || !this.#session) return;
		const { socket } = this.#link;
		const canWrite = () => socket.readyState === 1 && socket.bufferedAmount < BUFFERED_BYTES;
		let text;
		while (canWrite() && (text = this.#session.batch(this.#outbox, ack)) !== null) socket.send(text);
		// Nobody tells when the kernel has taken something.
		if (!canWrite()) this.#timer = setTimeout(() => this.#flushSoon(ack), POLL_MS);
		else if (this.#session.hasNews) this.#ackSoon();
	}

	// Links

	async #run() {
		const { firstMs, capMs, minUptimeMs, token } = this.#options;
		let tries = 0;
		let cause = null;
		let last = { kind: undefined, count: 0 };
		for (;;) {
			this.#show({ attempt: tries + 1, cause });
			const wasFirst = !this.#hadLink;
			const end = await this.#dial();
			if (this.#isOver) return;
			this.#unlink();
			({ cause } = end);
			const isLong = end.lasted >= minUptimeMs;
			const [kind, most] = meaningOf(end.code);
			last = { kind, count: kind === last.kind && !isLong ? last.count + 1 : 1 };
			const isStale = kind === "refused" && typeof token !== "function";
			const isFatal = kind === "unwanted" ? wasFirst : last.count >= most || isStale;
			const failure = end.kind ?? (isFatal ? kind : undefined);
			if (failure) {
				this.#end("failed", cause, new RealtimeError(failure, cause));
				return;
			}
			tries = isLong ? 1 : tries + 1;
			const bound = Math.min(capMs, firstMs * 2 ** (tries - 1));
			const advised = Math.min(end.adviceMs, 10 * capMs);
			const spread = Math.random() * Math.min(advised / 2, capMs);
			const delayMs = Math.max(Math.random() * bound, advised + spread);
			this.#show({ attempt: tries + 1, retryAt: Date.now() + delayMs, cause });
			await this.#pause(delayMs);
			if (this.#isOver) return;
		}
	}

	/** Until then, or until `#wake` is called. */
	async #pause(ms) {
		const woken = new Promise((resolve) => (this.#wake = resolve));
		const timer = setTimeout(this.#wake, Math.min(ms, TIMER_MS));
		await woken;
		clearTimeout(timer);
	}

	#show(state) {
		const phase = this.#hadLink ? "reconnecting" : "connecting";
		this.state = { phase, attempt: 0, retryAt: null, cause: null, resumed: false, ...state };
		for (const stream of this.#watchers) {
			if (stream.length >= STATES) stream.next();
			stream.push(this.state);
		}
	}

	/** One link, from its dial to its end, which is returned. */
	async #dial() {
		const { token, openMs, WebSocket } = this.#options;
		let socket;
		try {
			const told = isString(token) ? token : await token();
			if (this.#isOver) return {};
			socket = new WebSocket(this.#url, [PLAIN, NUMBERED, ...(told ? [TOKEN + told] : [])]);
		} catch (error) {
			const kind = error.name === "SyntaxError" ? "usage" : undefined;
			return { kind, cause: error.message, lasted: 0, adviceMs: 0 };
		}
		const link = new Link(socket, {
			opened: () => this.#opened(link),
			heard: (data) => this.#heard(link, data),
			broken: (error) => this.#broken(link, error),
		});
		this.#link = link;
		link.later(openMs, () => link.lose(1000, "the handshake took too long"));
		return link.over;
	}

	#opened(link) {
		const { windowMessages, windowBytes, outboxMessages, outboxBytes, messageBytes, openMs } = this.#options;
		if (link.socket.protocol !== NUMBERED) {
			link.lose(1000, "the server has no sessions", this.#hadLink ? undefined : "no_session");
			return;
		}
		link.terms = {
			window: [windowMessages, windowBytes],
			held: this.#untaken,
			replay: [outboxMessages, outboxBytes],
			message_bytes: messageBytes,
		};
		link.later(openMs / 2, () => link.lose(1002, "there was no welcome in time"));
		link.socket.send(Session.hello(link.terms, this.#session));
	}

	#heard(link, data) {
		link.heard = now();
		link.probed = 0;
		if (link.bye !== null) return;
		if (!link.up) this.#welcome(link, data);
		else {
			this.#session.feed(data);
			this.#ackSoon();
			this.#flushSoon();
		}
	}

	#welcome(link, data) {
		const { terms } = link;
		const welcome = Session.readWelcome(data, this.#session);
		const [, , , resumed] = welcome;
		if (resumed) this.#session.resume(welcome);
		else {
			this.#loseSession();
			this.#session = new Session(terms, welcome, this.#host, minus(terms.held, this.#untaken));
			if (this.#hadLink) this.#reset();
		}
		this.#hadLink = true;
		link.up = now();
		this.#show({ phase: "connected", resumed });
		this.#flushSoon();
		this.#watch(link);
	}

	/** A new session begins: every stream is told once. */
	#reset() {
		const item = { kind: "reset", cause: this.state.cause };
		for (const stream of this.#lobby ? [this.#lobby] : this.#streams) stream.push(item);
	}

	/** Find out that a link is dead. A page cannot ping, but it can ask for an ack. */
	#watch(link) {
		const { beatMs, beatTimeoutMs } = this.#options;
		const left = link.probed ? link.probed + beatTimeoutMs - now() : link.heard + beatMs - now();
		if (left <= 0 && link.probed) {
			link.lose(1000, `nothing was heard for ${Math.round(now() - link.heard)} ms`);
			return;
		}
		if (left <= 0) {
			link.probed = now();
			this.#session.probe();
			this.#flushSoon();
		}
		link.later(Math.max(left <= 0 ? beatTimeoutMs : left, POLL_MS), () => this.#watch(link));
	}

	/** What was thrown while something was heard: a breach of the protocol ends the session, too. */
	#broken(link, { code = 1002, message }) {
		if (link.up) this.#loseSession();
		link.lose(code, message);
	}

	#bye(reason) {
		const link = this.#link;
		link.bye = reason;
		this.#loseSession();
		link.later(1000, () => link.lose(1000, `bye: ${reason}`));
	}

	/** The link is gone. */
	#unlink() {
		if (this.#isUp) this.#onlineMs += now() - this.#link.up;
		this.#link = null;
		for (const entry of this.#open) if (entry.isFleeting) this.#takeBack(entry, "dropped", "offline");
	}

	#loseSession() {
		const { unsettled, requests } = this.#session ?? { unsettled: new Map(), requests: new Map() };
		this.#session = null;
		for (const entry of unsettled.values()) entry.settle("indeterminate");
		for (const request of [...requests.values()]) request.over(undelivered("indeterminate"));
	}

	#end(phase, cause, error = null) {
		if (this.#isOver) return;
		this.#isOver = this.#isClosing = true;
		const link = this.#link;
		if (this.#isUp && this.#session && link.socket.readyState === 1) {
			link.socket.send(this.#session.batch(new Outbox(), true, ""));
		}
		link?.lose(1000, cause);
		clearTimeout(this.#timer);
		this.#unlink();
		this.#loseSession();
		for (const entry of this.#outbox.entries.splice(0)) entry.settle("withdrawn");
		for (const request of [...this.#requests]) request.over(undelivered("indeterminate"));
		this.#wake();
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
 * `WebSocket` (a class) and `signal`.
 */
export function connect(url, options = {}) {
	const { WebSocket } = globalThis;
	const all = { ...LIMITS, token: "", signal: undefined, WebSocket, ...options };
	const isGood = {
		token: (value) => isString(value) || typeof value === "function",
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
