// One message of a room, as an element of the list, and what can be done with it.

import { $, el, face, icon } from "./dom.js";
import * as text from "./text.js";

const AWAY = { target: "_blank", rel: "noopener noreferrer" };
const MODERATED = { mute: "muted", unmute: "unmuted", ban: "banned", unban: "let in again", role: "now a" };
const REACTIONS = ["👍", "❤️", "😂", "🎉", "😮", "😢"];

/**
 * `row` is one of the room, or one's own without an offset yet. `isHead`: it begins a group;
 * `waits`: what is under way about it; `act(name, row, more)`: what is done with it.
 */
export function messageItem(room, row, { isHead, waits, act }) {
	const { offset, user, reply, kind } = row;
	if (kind === "moderation") return moderation(room, row);
	const gone = offset > 0 && room.isDeleted(offset);
	const content = gone ? "This message was deleted." : text.cleanText(offset ? room.contentOf(row) : row.content);
	const isAct = kind === "text" && !gone && content.startsWith("/me ");
	const tags = [offset && room.about.get(offset)?.edit && "edited", waits].filter(Boolean).join(" · ");
	const state = offset ? gone && "gone" : row.state === "failed" ? "failed" : "waits";
	const classes = [`msg c${text.hue(user)}`, isHead && "head", isAct && "act", state];
	const all = [
		reply && quote(room, reply, act),
		body(row, content, isAct && room.nameOf(user)),
		tags && el("span.tag", {}, tags),
		offset ? reactions(room, row, act) : progress(room, row, act),
	];
	const shown = gone ? [el("p.body", {}, content)] : all;
	const props = { className: classes.filter(Boolean).join(" "), tabIndex: -1, row };
	return el("li", props, ...byline(room, row, isHead, isAct), ...shown);
}

/** What is said there, or the name of a file, on one line. */
export function quoted(room, offset) {
	const row = room.rowAt.get(offset);
	if (!row) return "An earlier message";
	if (room.isDeleted(offset)) return "A deleted message";
	const brief = row.kind === "text" ? room.contentOf(row) : row.meta.name || "a file";
	return `\u2068${room.nameOf(row.user)}\u2069: ${text.cleanName(brief, 120)}`;
}

function byline(room, { at, user }, isHead, isAct) {
	const name = room.nameOf(user);
	const props = { dateTime: new Date(at).toISOString(), title: text.fullTime(at) };
	const time = el(isHead ? "time" : "time.side-time", props, text.timeText(at));
	if (!isHead) return [el("span.sr", {}, `${name}: `), time];
	const by = el("p.by", {}, !isAct && el("bdi.name", { title: user }, name), time);
	return [face(user, name, room.members.get(user)?.avatar), by];
}

function body(row, content, actor) {
	if (row.kind !== "text") return file(row, content);
	const made = el("div.body", { dir: "auto" });
	if (actor) made.append(el("bdi", {}, actor), " ");
	for (const [part, href] of text.linked(content.slice(actor ? 4 : 0))) {
		made.append(href ? el("a", { href, title: href, ...AWAY }, part) : part);
	}
	return made;
}

/** An image or another file of the own origin, or a link to one elsewhere. */
function file({ kind, meta }, content) {
	const path = text.ownFile(content, location.origin);
	const name = text.cleanName(meta.name, 120) || text.cleanName(content, 120);
	if (path && kind === "image") return picture(path, name, meta);
	const inside = [icon("file"), el("span", {}, el("bdi", {}, name), el("small", {}, text.sizeText(meta.size)))];
	const href = path ?? text.safeLink(content);
	if (!href) return el("span.file", {}, ...inside);
	return el("a.file", { href, download: path ? name : undefined, ...AWAY }, ...inside);
}

function picture(href, name, { width, height }) {
	const isSized = [width, height].every((n) => Number.isInteger(n) && n > 0 && n < 20000);
	const size = isSized ? { width, height } : {};
	const image = el("img", { src: href, alt: name || "Image", loading: "lazy", ...size });
	return el(isSized ? "a.shot.sized" : "a.shot", { href, ...AWAY }, image);
}

function quote(room, offset, act) {
	const shown = quoted(room, offset);
	if (!room.rowAt.has(offset)) return el("span.quote", {}, shown);
	return el("button.quote", { onclick: () => act("jump", null, offset) }, el("span.sr", {}, "In reply to "), shown);
}

function reactions(room, row, act) {
	const marks = room.reactionsOf(row.offset).slice(0, 20).map(([reaction, users]) => {
		const isOn = users.includes(room.me);
		const title = users.slice(0, 20).map((user) => room.nameOf(user)).join(", ");
		const shown = text.cleanName(reaction, 16);
		const labels = { "aria-pressed": isOn, "aria-label": `${shown} ${users.length}: ${title}` };
		const onclick = () => act("react", row, [reaction, !isOn]);
		return el("button", { title, onclick, ...labels }, el("bdi", {}, shown), `${users.length}`);
	});
	return marks.length && el("div.marks", {}, ...marks);
}

function progress(room, row, act) {
	const choice = (name, label) => el("button", { onclick: () => act(name, row) }, label);
	if (row.state === "failed") {
		return el("p.own", {}, `Not sent: ${row.failure}`, choice("retry", "Try again"), choice("dismiss", "Dismiss"));
	}
	const isQueued = row.state === "queued";
	const shown = isQueued && !room.connected ? "Waits for the connection" : "Sending…";
	return el("p.own", {}, icon("clock"), shown, isQueued && choice("dismiss", "Take back"));
}

function moderation(room, { meta, at }) {
	const { action, role, until, user } = meta;
	const end = until && /^(mute|ban)$/u.test(action) ? ` until ${text.fullTime(Number(until))}` : "";
	const what = Object.hasOwn(MODERATED, action) ? MODERATED[action] : "moderated";
	const more = action === "role" ? ` ${text.cleanName(role)}` : end;
	return el("li.note", { title: text.fullTime(at) }, el("bdi", {}, room.nameOf(user)), ` is ${what}${more}`);
}

/** The one toolbar, which goes to the message that is used. */
export class Tools {
	/** `act(name, row, more)` is called for what is chosen. */
	constructor(act) {
		const bar = $("tools");
		const tool = (title, inside, ...what) => {
			const onclick = () => act(what[0], bar.closest(".msg").row, what[1]);
			return el("button", { title, onclick, "aria-label": title }, inside);
		};
		const reactions = REACTIONS.map((emoji) => tool(`React with ${emoji}`, emoji, "react", [emoji, true]));
		this.bar = bar;
		this.edit = tool("Edit", icon("edit"), "edit");
		this.remove = tool("Delete", icon("trash"), "delete");
		bar.append(...reactions, tool("Reply", icon("reply"), "reply"), this.edit, this.remove);
	}

	/** Go to this message; null: nowhere. */
	moveTo(item, isMine, isAtTop) {
		const { bar } = this;
		bar.parentElement.classList.remove("open", "low");
		bar.hidden = !item;
		this.edit.hidden = !isMine || item?.row.kind !== "text";
		this.remove.hidden = !isMine;
		const place = item ?? document.body;
		if (bar.parentElement !== place) place.append(bar);
		item?.classList.add("open", ...(isAtTop ? ["low"] : []));
	}
}
