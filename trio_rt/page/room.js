// A room of the hub as one client knows it: pure, without time, network or page of its own.
//
// Goal: every message of the log once and in order, and one's own in it once, over lost links
// and sessions.
//
// The rule: only offsets count. `low` to `cursor` is held without a hole; what comes beyond
// the next offset only says that there is more, and pages of the log bring it. Of what was
// said about a message (edits, deletions, reactions) the newest offset counts, in whatever
// order pages bring it. Own messages are published one at a time, with an id, until they are
// answered; after a lost session once the log was followed to its end, and they were not in it.

import { cleanName } from "./text.js";

const KINDS = ["text", "image", "file"];
const PAGE = 100;
const HELD = 1000; // messages, while nobody reads old ones
const HELD_MOST = 10_000;
const TARGETS = 20_000; // messages with something said about them
const TYPISTS = 200;
const TYPING_EVERY_MS = 3000;
const TYPING_HOLDS_MS = 6000;

const isSaid = (word) => KINDS.includes(word.type);
const isString = (value) => typeof value === "string";
const timeOf = ({ at }) => Math.min(Math.max(Number(at) || 0, 0), 8.64e15);

/** Set, as the newest; of more than `most` the oldest is forgotten. */
function keep(map, key, value, most) {
	map.delete(key);
	map.set(key, value);
	if (map.size > most) map.delete(map.keys().next().value);
}

export class Room {
	connected = false;
	joined = false;
	refused = null; // why it will never be joined
	me = "";
	mine = new Set(); // users that one has been: a guest is another one in each session
	// The log
	epoch = "";
	first = 1;
	head = 0;
	low = 1;
	cursor = 0;
	heard = 0; // as far as screen readers were told
	rows = []; // {offset, id, user, kind, content, at, reply, meta, rev}
	rowAt = new Map();
	about = new Map(); // offset -> {edit, deleted, reactions}
	isRead = false; // somebody reads old messages: nothing is forgotten
	// People
	members = new Map();
	count = 0;
	names = new Map();
	typists = new Map();
	readTo = 0;
	// What one says, and asks for
	pending = []; // {id, type, payload, state, at, failure}
	#asked = new Map(); // join, page, older, publish or mark -> {id, then, denied}
	#marked = 0;
	#syncTo = 0;
	#doubt = false;
	#retryAt = 0;
	#tries = 0;
	#typedAt = -Infinity;
	#isFresh = true;

	/**
	 * `ask(type, payload)` sends a command and returns its id. `changed(notice)` is told when
	 * something may have changed, with what there is to say about it.
	 */
	constructor(name, { ask, changed, newId }) {
		Object.assign(this, { name, ask, changed, newId });
	}

	get hasOlder() {
		return this.low > this.first && this.rows.length < HELD_MOST;
	}

	get unread() {
		return this.newsAfter(this.readTo).length;
	}

	/** What others have said behind this offset. */
	newsAfter(offset) {
		const start = this.rows.findLastIndex((row) => row.offset <= offset) + 1;
		const isNews = (row) => row.kind !== "moderation" && !this.mine.has(row.user) && !this.isDeleted(row.offset);
		return this.rows.slice(start).filter(isNews);
	}

	/** What was not asked for before. */
	takeNews() {
		const news = this.newsAfter(this.heard);
		this.heard = this.cursor;
		return news;
	}

	get typing() {
		const users = new Set([...this.typists.keys()].map((key) => key.split("\n")[0]));
		return [...users].filter((user) => !this.mine.has(user));
	}

	/** Own messages on their way, or failed, as rows without an offset. */
	get sayings() {
		return this.pending.filter(isSaid).map(({ type, payload, ...each }) => {
			const { content, reply = 0, metadata: meta = {} } = payload;
			return { ...each, user: this.me, kind: type, content, offset: 0, reply, meta };
		});
	}

	/** How many own words are not stored yet. */
	get waiting() {
		return this.pending.filter((each) => each.state !== "failed").length;
	}

	/** What is under way about a message, in words. */
	changesOf(offset) {
		const words = { edit: "saving…", delete: "deleting…" };
		return words[this.pending.find((each) => each.payload.target === offset && words[each.type])?.type] ?? "";
	}

	nameOf(user) {
		return this.names.get(user) || user;
	}

	call(user, name) {
		const clean = cleanName(name);
		if (clean) keep(this.names, user, clean, TARGETS);
	}

	isDeleted(offset) {
		return this.about.get(offset)?.deleted ?? false;
	}

	contentOf(row) {
		return this.about.get(row.offset)?.edit?.content ?? row.content;
	}

	/** `[reaction, users]` of a message, most used first. */
	reactionsOf(offset) {
		const all = [...(this.about.get(offset)?.reactions ?? [])];
		const found = all.map(([reaction, users]) => [reaction, [...users.keys()].filter((user) => users.get(user)[1])]);
		return found.filter(([, users]) => users.length).sort((a, b) => b[1].length - a[1].length);
	}

	// The link

	/** A link is there: what waits may go. */
	up(now) {
		this.connected = true;
		this.pump(now);
	}

	down() {
		this.connected = false;
		this.typists.clear();
		this.changed();
	}

	/** The hub knows no more of this client, or answers were lost. */
	lost(now) {
		this.joined = false;
		this.#asked.clear();
		this.unsend();
		this.typists.clear();
		this.#marked = 0;
		this.pump(now);
	}

	/** To be called each second. */
	tick(now) {
		for (const [key, until] of this.typists) if (until <= now) this.typists.delete(key);
		this.pump(now);
	}

	/** Something has happened: send whatever is due. */
	pump(now) {
		this.changed();
		if (!this.connected || this.refused || now < this.#retryAt) return;
		if (!this.joined) {
			this.command("join", "hub.join", {}, (done) => this.enter(done));
			return;
		}
		if (this.#doubt || this.cursor < this.head) {
			const denied = () => {
				this.cursor = this.head;
				this.#doubt = false;
			};
			const body = { limit: PAGE, after: this.#doubt ? undefined : this.cursor };
			this.command("page", "hub.history", body, (done) => this.page(done), denied);
		}
		if (this.readTo > this.#marked && this.epoch) {
			const offset = this.readTo;
			const marked = () => (this.#marked = offset);
			this.command("mark", "hub.mark", { offset, epoch: this.epoch }, marked, marked);
		}
		const next = this.pending.find((each) => each.state === "queued");
		if (next && this.cursor >= this.#syncTo && !this.#doubt) this.publish(next);
	}

	/** Whether it went: one of a kind is under way at a time. Ticks try again. */
	command(kind, type, body, then, denied) {
		if (this.#asked.has(kind)) return false;
		const id = this.ask(type, { room: this.name, ...body });
		if (id) this.#asked.set(kind, { id, then, denied });
		return id !== "";
	}

	/** Ask for what is before that which is held. */
	older(now) {
		if (!this.joined || !this.connected || !this.hasOlder || now < this.#retryAt) return;
		const body = { before: this.low, epoch: this.epoch, limit: PAGE };
		const denied = () => (this.first = this.low);
		this.command("older", "hub.history", body, (done) => this.olderPage(done), denied);
	}

	// What one says

	/** Say something; it is there at once, as queued. Returns its id. */
	publishLater(type, payload, now, at) {
		const each = { id: this.newId(), type, payload, state: "queued", at, failure: "" };
		this.pending.push(each);
		if (this.refused) this.set(each, "failed", this.refused.text);
		this.#typedAt = -Infinity;
		this.pump(now);
		return each.id;
	}

	retry(id, now) {
		const each = this.pending.find((one) => one.id === id && one.state === "failed");
		if (each) this.set(each, "queued");
		this.pump(now);
	}

	/** Take one's own message back, if it is not on its way. */
	dismiss(id) {
		const each = this.pending.find((one) => one.id === id && one.state !== "sent");
		if (each) this.forget(each);
		this.changed();
	}

	forget(each) {
		this.pending = this.pending.filter((one) => one !== each);
		if (!isSaid(each)) this.touch(each.payload.target);
	}

	set(each, state, failure = "") {
		Object.assign(each, { state, failure });
	}

	publish(each) {
		const { type, id } = each;
		const payload = { ...each.payload };
		const name = each.plain ? "" : this.members.get(this.me)?.name;
		if (isSaid(each) && name) payload.name = name;
		const stored = ({ epoch, offset }) => {
			if (epoch === this.epoch && offset <= this.cursor) this.forget(each);
			else each.offset = offset; // its message comes, too
		};
		const denied = (refusal) => this.denied(each, refusal);
		if (this.command("publish", "hub.publish", { type, payload, id }, stored, denied)) this.set(each, "sent");
	}

	/** What has no answer is to be published again. */
	unsend() {
		for (const each of this.pending) if (each.state === "sent") this.set(each, "queued");
	}

	denied(each, { code, text }) {
		if (code === "forged_name" && !each.plain) {
			each.plain = true;
			this.set(each, "queued");
		} else if (isSaid(each)) this.set(each, "failed", text || code);
		else {
			this.forget(each);
			this.changed(text || code);
		}
	}

	/** Whether the user types: told at most every 3 s, and when it ends without a message. */
	types(on, now) {
		const isDue = on ? now - this.#typedAt >= TYPING_EVERY_MS : this.#typedAt > -Infinity;
		if (!isDue || !this.connected || !this.joined) return;
		this.#typedAt = on ? now : -Infinity;
		this.ask("hub.publish", { room: this.name, type: "typing", payload: { on }, to: "others", store: false });
	}

	/** All up to here is read. */
	read(offset, now) {
		if (offset <= this.readTo) return;
		this.readTo = offset;
		this.pump(now);
	}

	// What the hub says

	take(event, now) {
		const { kind, user, offset } = event ?? {};
		if (kind === "done" || kind === "refused") this.answered(event, now);
		else if (kind === "message" || kind === "own") this.live(event, now);
		else if (kind === "presence") this.presence(event);
		else if (kind === "mark" && user === this.me) this.read(offset, now);
		else if (kind === "room") this.look(event);
		else if (kind === "removed") this.refuse(event);
		this.pump(now);
	}

	/** The command that this answers. */
	asked(re) {
		return [...this.#asked].find(([, { id }]) => id === re);
	}

	answered(event, now) {
		const { kind, re, code } = event;
		if (kind === "refused" && !re) this.lost(now);
		const [name, answer] = this.asked(re) ?? [];
		if (!answer) return;
		this.#asked.delete(name);
		if (kind === "done") {
			this.#tries = 0;
			answer.then(event);
		} else if (code === "too_fast" || code === "unavailable") {
			this.#tries += 1;
			this.#retryAt = now + Math.min(30_000, 500 * 2 ** this.#tries);
			this.unsend();
		} else if (code === "foreign_epoch") this.#doubt = true;
		else if (code === "not_joined") {
			this.joined = false;
			this.unsend();
		} else if (answer.denied) answer.denied(event);
		else this.refuse(event);
	}

	refuse({ code = "", text = "" }) {
		this.joined = false;
		this.refused = { code, text };
		for (const each of this.pending) this.set(each, "failed", text);
		this.members.clear();
	}

	enter(done) {
		const { user = "", epoch, marks } = done;
		this.joined = true;
		this.me = user;
		this.mine.add(user);
		if (this.#isFresh) {
			this.#isFresh = false;
			this.begin(done);
			this.readTo = this.#marked = marks?.[user] ?? this.cursor;
		}
		this.look(done);
		this.#syncTo = this.epoch === epoch ? this.head : 0;
		if (!this.rows.length) this.older(Infinity);
	}

	/** A log of which nothing is held but its end. */
	begin({ epoch = "", first = 1, last = 0 }) {
		Object.assign(this, { epoch, first, cursor: last, head: last, low: last + 1, readTo: 0, heard: last, rows: [] });
		this.#doubt = false;
		this.#syncTo = 0;
		this.pending = this.pending.filter((each) => !each.offset);
		this.rowAt.clear();
		this.about.clear();
	}

	/** How the room is. */
	look({ epoch, first = 1, last = 0, members, count }) {
		if (epoch === this.epoch) this.grow(first, last);
		else this.#doubt = true;
		this.members.clear();
		this.presence({ joined: members });
		this.count = count ?? this.members.size;
	}

	/** The log goes from here to there, at least. */
	grow(first, last) {
		this.first = Math.max(this.first, first);
		this.head = Math.max(this.head, last);
	}

	presence({ joined = [], left = [] }) {
		for (const { user, info } of joined) {
			const { name = "", status, avatar = "" } = info ?? {};
			this.members.set(user, { name, status: status === "away" ? status : "online", avatar: String(avatar) });
			this.call(user, name);
		}
		for (const user of left) {
			this.members.delete(user);
			for (const key of this.typists.keys()) if (key.startsWith(`${user}\n`)) this.typists.delete(key);
		}
		if (joined.length + left.length) this.count = this.members.size;
	}

	live(event, now) {
		const { offset, epoch } = event;
		if (!offset) this.passing(event, now);
		else if (epoch !== this.epoch) this.#doubt = !this.#isFresh;
		else {
			this.grow(this.first, offset);
			if (offset === this.cursor + 1) this.follow([event]);
		}
	}

	/** The next messages of the log. */
	follow(items) {
		for (const item of items) {
			if (item.offset <= this.cursor) continue;
			this.cursor = item.offset;
			this.fold(item);
		}
		this.trim();
		this.pending = this.pending.filter((each) => !(each.offset <= this.cursor));
	}

	/** The page after the cursor; or, in doubt, the last one. */
	page({ epoch, first = 1, last = 0, items = [] }) {
		if (epoch !== this.epoch) this.begin({ epoch, first, last: (items[0]?.offset ?? last + 1) - 1 });
		else if (this.#doubt) {
			this.#doubt = false;
			return;
		}
		this.grow(first, last);
		this.follow(items);
		if (!items.length) this.cursor = Math.max(this.cursor, last); // all of it is gone
	}

	olderPage({ epoch, first = 1, items = [] }) {
		if (epoch !== this.epoch) return;
		this.grow(first, 0);
		const older = [];
		for (const item of items) if (item.offset < this.low) this.fold(item, older);
		this.rows = [...older, ...this.rows];
		this.low = Math.max(this.first, Math.min(this.low, items[0]?.offset ?? this.first));
		// A page may have nothing to be seen in it.
		if (older.length < 20 && this.rows.length < 50) this.older(Infinity);
	}

	/** Forget the oldest: messages that nobody reads. */
	trim() {
		const held = this.isRead ? HELD_MOST : HELD;
		if (this.rows.length <= held * 1.2) return;
		for (const row of this.rows.splice(0, this.rows.length - held)) this.rowAt.delete(row.offset);
		this.low = this.rows[0].offset;
	}

	passing({ kind, type, user, device, payload }, now) {
		if (kind !== "message" || type !== "typing" || this.mine.has(user)) return;
		const key = `${user}\n${device}`;
		if (payload?.on === true) keep(this.typists, key, now + TYPING_HOLDS_MS, TYPISTS);
		else this.typists.delete(key);
	}

	/** One message of the log; a row goes to the end of `rows`. */
	fold(event, rows = this.rows) {
		const { type, payload, offset, user = "", device, id = "" } = event;
		if (id) this.echoed(id);
		this.typists.delete(`${user}\n${device}`);
		if (payload === null || typeof payload !== "object") return;
		const { content, reply, target, metadata } = payload;
		const row = { offset, id, user, kind: type, content: "", at: timeOf(event), reply: 0, meta: {}, rev: 0 };
		if (isSaid(event) && isString(content) && isString(user)) {
			if (!this.members.has(user)) this.call(user, payload.name);
			row.content = content;
			if (Number.isSafeInteger(reply)) row.reply = reply;
			if (metadata && typeof metadata === "object") row.meta = metadata;
		} else if (type === "moderation" && isString(payload.user)) row.meta = payload;
		else {
			if (Number.isSafeInteger(target) && target < offset) this.amend(event);
			return;
		}
		rows.push(row);
		this.rowAt.set(offset, row);
	}

	echoed(id) {
		const each = this.pending.find((one) => one.id === id);
		if (!each) return;
		if (each.state === "sent" && !each.offset) this.#asked.delete("publish");
		this.forget(each);
	}

	amend({ type, payload, user, offset, at }) {
		const { target, content, reaction, on } = payload;
		const about = this.about.get(target) ?? { edit: null, deleted: false, reactions: new Map() };
		const { edit, reactions } = about;
		if (type === "delete") about.deleted = true;
		else if (type === "edit" && isString(content)) {
			if (!(edit?.offset >= offset)) about.edit = { offset, content, at };
		} else if (type === "react" && isString(reaction)) {
			const users = reactions.get(reaction) ?? new Map();
			if (!(users.get(user)?.[0] > offset)) users.set(user, [offset, on !== false]);
			reactions.set(reaction, users);
		} else return;
		keep(this.about, target, about, TARGETS);
		this.touch(target);
	}

	touch(target) {
		const row = this.rowAt.get(target);
		if (row) row.rev += 1;
	}
}
