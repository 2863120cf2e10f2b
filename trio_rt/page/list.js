// The messages of a room on the page: a window of at most `MOST` of them.
//
// It stays at the end until the reader scrolls up. Then what is under the reader's eyes stays
// where it is: one element is the anchor, which is put back to its place after each change.

import { $, el } from "./dom.js";
import { messageItem, quoted, Tools } from "./message.js";
import * as text from "./text.js";

const WINDOW = 100;
const MOST = 240;
const STEP = 60;
const EDGE = 800; // pixels from an end, where more are shown
const GROUP_MS = 300_000;

export class MessageList {
	/** `act(name, row, more)` is called for what is done with a message. */
	constructor(act) {
		Object.assign(this, { act, scroller: $("scroller"), list: $("messages"), room: null, tools: new Tools(act) });
		const { list, scroller } = this;
		const stay = () => this.stuck && this.toEnd();
		for (const kind of ["mouseover", "focusin", "click"]) {
			list.addEventListener(kind, (event) => this.activate(event.target.closest(".msg")));
		}
		list.addEventListener("mouseleave", () => list.contains(document.activeElement) || this.activate(null));
		list.addEventListener("focusout", ({ relatedTarget }) => {
			if (!list.contains(relatedTarget) && !list.matches(":hover")) this.activate(null);
		});
		list.addEventListener("keydown", (event) => this.key(event));
		list.addEventListener("load", stay, true);
		scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
		new ResizeObserver(stay).observe(scroller);
		$("newer").addEventListener("click", () => this.follow());
	}

	/** Show a room, at its end, or where what is new begins. */
	show(room) {
		if (this.room) this.room.isRead = false;
		this.unreadFrom = room.unread ? room.readTo + 1 : Infinity;
		Object.assign(this, { room, shown: new Map(), seen: room.cursor });
		this.list.replaceChildren();
		this.follow();
		const line = this.shown.get("unread")?.[1];
		if (!line || line.offsetTop >= this.scroller.scrollTop) return;
		this.stuck = false;
		this.scroller.scrollTop = line.offsetTop;
	}

	/** Go to the end, and stay there. */
	follow() {
		this.stuck = true;
		this.update();
	}

	/** Nobody looks at the end any more: what comes from here on is new. */
	away() {
		const isUsed = this.room?.rows.at(-1)?.offset >= this.unreadFrom;
		if (this.room && !(isUsed && !this.stuck)) this.unreadFrom = this.room.cursor + 1;
	}

	toEnd() {
		this.scroller.scrollTop = this.scroller.scrollHeight;
	}

	// The window: rows from offset `low` on, to before `high`

	update() {
		const { room, scroller, stuck } = this;
		if (!room) return;
		const { rows } = room;
		const most = stuck ? rows.length : this.indexOf(this.high);
		const start = stuck ? Math.max(0, most - WINDOW) : this.indexOf(this.low);
		const end = Math.min(most, start + MOST);
		this.low = rows[start]?.offset ?? 0;
		this.high = rows[end]?.offset ?? Infinity;
		const top = scroller.scrollTop;
		// A line for a day is no anchor: it goes up when there is more of that day.
		const isSeen = (item) => item.offsetTop + item.offsetHeight > top && !item.matches(".day");
		const anchor = stuck ? null : [...this.list.children].find(isSeen);
		const below = anchor && anchor.offsetTop - top;
		this.render(this.items(start, end));
		const place = this.shown.get(anchor?.dataset.key)?.[1];
		if (stuck) this.toEnd();
		else if (place) scroller.scrollTop = place.offsetTop - below;
		room.isRead = !stuck;
		this.hint();
		if (stuck || scroller.scrollTop >= EDGE) return;
		if (start > 0) this.look(start - STEP, end);
		else room.older(performance.now());
	}

	/** Show the rows from `start` to before `end`, if there are any. */
	look(start, end) {
		const { rows } = this.room;
		this.low = rows[Math.max(0, start)]?.offset ?? 0;
		this.high = rows[end]?.offset ?? Infinity;
		this.update();
	}

	/** The first row at or behind this offset. */
	indexOf(offset) {
		const { rows } = this.room;
		let [low, high] = [0, rows.length];
		while (low < high) {
			const middle = (low + high) >> 1;
			if (rows[middle].offset < offset) low = middle + 1;
			else high = middle;
		}
		return low;
	}

	scrolled() {
		const { scroller, room, low, high } = this;
		if (!room) return;
		const left = scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
		const isStuck = left < 40 && high === Infinity;
		if (this.stuck && !isStuck) this.away();
		this.stuck = isStuck;
		const end = this.indexOf(high) + STEP;
		if (scroller.scrollTop < EDGE && !isStuck) this.update();
		else if (left < EDGE && high !== Infinity) this.look(Math.max(this.indexOf(low), end - MOST), end);
		else this.hint();
	}

	/** What is said above and below the messages. */
	hint() {
		const { room } = this;
		const { rows, refused } = room;
		if (this.stuck) this.seen = room.cursor;
		const news = room.newsAfter(this.seen).length;
		$("newer").hidden = this.stuck;
		$("newer").lastChild.textContent = news ? `${news} new` : "To the newest";
		const isEmpty = !rows.length && !room.sayings.length && room.joined && !room.hasOlder;
		$("empty").hidden = !isEmpty && !refused;
		const why = refused && `You cannot be in this room: ${refused.text || refused.code}`;
		$("empty-text").textContent = why ?? "Nothing has been said here yet. Say hello!";
		const end = room.low <= room.first ? "This is the beginning." : "Older messages are not shown.";
		const top = room.hasOlder ? "Loading older messages…" : end;
		$("top").textContent = room.joined && rows.length ? top : "";
	}

	/** The row of an offset comes into sight; false if it is not held. */
	jump(offset) {
		if (!this.room.rowAt.has(offset)) return false;
		const at = this.indexOf(offset);
		this.stuck = false;
		this.look(at - STEP, at + STEP);
		const item = this.shown.get(`m${offset}`)[1];
		item.scrollIntoView({ block: "center" });
		item.focus({ preventScroll: true });
		return true;
	}

	// The elements

	/** `[key, signature, make]` of everything that is to be shown. */
	items(start, end) {
		const { room, act, unreadFrom } = this;
		const { rows, sayings, me, members, connected } = room;
		const found = [];
		const line = (key, kind, shown) => found.push([key, shown, () => el(`li.${kind}`, {}, shown)]);
		let before = null;
		for (const row of [...rows.slice(start, end), ...(end === rows.length ? sayings : [])]) {
			const { offset, reply, user, at } = row;
			const day = text.dayKey(at);
			const isDay = before === null || text.dayKey(before.at) !== day;
			const isUnread = offset >= unreadFrom && !(before?.offset >= unreadFrom);
			if (isDay) line(`d${day}`, "day", text.dayText(at));
			if (isUnread) line("unread", "day.unread", "New");
			const isSame = before?.user === user && before.kind !== "moderation" && at - before.at < GROUP_MS;
			const isHead = isDay || isUnread || !isSame;
			const view = { isHead, waits: offset ? room.changesOf(offset) : "", act };
			const state = offset ? [row.rev] : [row.state, row.failure, connected];
			const looks = [isHead, view.waits, room.nameOf(user), members.get(user)?.avatar, user === me];
			const signature = [...looks, ...state, reply ? quoted(room, reply) : ""].join("\n");
			found.push([offset ? `m${offset}` : `p${row.id}`, signature, () => messageItem(room, row, view)]);
			before = row;
		}
		return found;
	}

	render(items) {
		const focused = document.activeElement?.closest(".msg")?.dataset.key;
		const was = this.shown;
		const itemOf = (key, signature, make) => (was.get(key)?.[0] === signature ? was.get(key) : [signature, make()]);
		this.shown = new Map(items.map((each) => [each[0], itemOf(...each)]));
		for (const [key, [, item]] of was) if (this.shown.get(key)?.[1] !== item) item.remove();
		let place = this.list.firstChild;
		for (const [key, [, item]] of this.shown) {
			item.dataset.key = key;
			if (item === place) place = place.nextSibling;
			else this.list.insertBefore(item, place);
		}
		this.activate(this.shown.get(this.active)?.[1]);
		if (focused && !document.activeElement?.closest(".msg")) this.shown.get(focused)?.[1].focus({ preventScroll: true });
		if (!this.active) this.stopAt([...this.list.querySelectorAll(".msg")].at(-1));
	}

	// Which message is used

	/** Where the Tab key comes into the list. */
	stopAt(item) {
		for (const other of this.list.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
		if (item) item.tabIndex = 0;
	}

	/** The tools go to this message. */
	activate(item) {
		const row = item?.row;
		this.active = item?.dataset.key;
		const isTool = row?.offset && !this.room.isDeleted(row.offset);
		const isAtTop = isTool && item.offsetTop - this.scroller.scrollTop < 24;
		this.tools.moveTo(isTool ? item : null, row?.user === this.room?.me, isAtTop);
		if (item) this.stopAt(item);
	}

	key(event) {
		const { target, key } = event;
		if (key === "Escape") $("text").focus();
		if (!target.classList.contains("msg")) return;
		const items = [...this.list.querySelectorAll(".msg")];
		const at = items.indexOf(target);
		const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: items.length - 1 }[key];
		if (to === undefined) return;
		event.preventDefault();
		const next = items[Math.max(0, Math.min(to, items.length - 1))];
		next.focus({ preventScroll: true });
		next.scrollIntoView({ block: "nearest" });
	}
}
