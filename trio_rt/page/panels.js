// What is around the messages: rooms, members, who types, the connection.

import { $, el, face, icon, put } from "./dom.js";
import * as text from "./text.js";

/** The list of rooms, and the title of the page. */
export function drawRooms(hub, here, { select, leave }) {
	const shown = [...hub.rooms.values()].map((room) => [room.name, room === here, room.unread]);
	const sum = shown.reduce((all, [, , unread]) => all + unread, 0);
	const title = `${sum ? `(${sum}) ` : ""}${text.cleanName(here.name)} · Chat`;
	if (document.title !== title) document.title = title;
	$("side-unread").hidden = sum === here.unread;
	const rooms = $("rooms");
	const key = JSON.stringify(shown);
	if (rooms.dataset.key === key) return;
	const focused = document.activeElement?.dataset.room;
	rooms.dataset.key = key;
	rooms.replaceChildren(...shown.map((each) => roomItem(each, select, leave)));
	if (focused) [...rooms.querySelectorAll(".go")].find((go) => go.dataset.room === focused)?.focus();
}

function roomItem([name, isHere, unread], select, leave) {
	const shown = text.cleanName(name);
	const count = unread && el("span.count", {}, unread > 99 ? "99+" : `${unread}`, el("span.sr", {}, " unread"));
	const props = { onclick: () => select(name), "data-room": name, "aria-current": isHere ? "page" : undefined };
	const go = el("button.go", props, el("bdi", {}, shown), count);
	const away = { title: "Leave", "aria-label": `Leave ${shown}`, onclick: () => leave(name) };
	return el(`li.room${isHere ? ".here" : ""}${unread ? ".new" : ""}`, {}, go, el("button.icon.small", away, icon("close")));
}

let drawn = "";

/** Who is in the room, and who one is; `name` is that which was asked for. */
export function drawMembers(room, name) {
	const { members, count, me } = room;
	const people = count === 1 ? "1 member" : `${count} members`;
	put($("about"), room.refused ? "not joined" : room.joined ? people : "joining…");
	put($("people-title"), people);
	const own = members.get(me);
	const shown = text.cleanName(own?.name || name || me || "You");
	const named = [...members].map(([user, info]) => [room.nameOf(user), user, info]);
	const key = JSON.stringify([shown, me, own, count, named]);
	if (key === drawn) return;
	drawn = key;
	put($("me-name"), shown);
	put($("me-id"), text.cleanName(me));
	$("me-face").replaceWith(Object.assign(face(me, shown, own?.avatar), { id: "me-face" }));
	named.sort(([one], [other]) => one.localeCompare(other));
	const isTwin = (at) => [at - 1, at + 1].some((other) => named[other]?.[0] === named[at][0]);
	const items = named.map((member, at) => memberItem(room, member, isTwin(at)));
	if (count > members.size) items.push(el("li.note", {}, "A room with so many members does not name them."));
	$("members").replaceChildren(...items);
}

function memberItem({ me }, [name, user, { status, avatar }], isTwin) {
	const tags = [user === me && "you", status === "away" && status, isTwin && text.cleanName(user)];
	const who = el("span.who", {}, el("bdi", { title: user }, name), el("small", {}, tags.filter(Boolean).join(" · ")));
	return el(`li.member.${status}`, {}, face(user, name, avatar), who);
}

export function drawTyping(room) {
	const names = room.typing.map((user) => `\u2068${room.nameOf(user)}\u2069`);
	const who = names.length > 3 ? `${names.length} people` : new Intl.ListFormat("en").format(names);
	put($("typing-text"), `${who} ${names.length > 1 ? "are" : "is"} typing`);
	$("typing").classList.toggle("on", names.length > 0);
}

const PHASES = { connected: "Connected", connecting: "Connecting…", reconnecting: "Reconnecting…" };

/** The state of the connection, and what waits for it. */
export function drawStatus({ state, queued, isUp, isOver }, hasToken) {
	const { phase, attempt, retryAt, cause } = state;
	const short = isOver ? "Not connected" : PHASES[phase];
	const { dataset } = $("status");
	if (dataset.phase && dataset.phase !== phase) $("live").textContent = short;
	Object.assign(dataset, { phase, state: isUp ? "on" : isOver ? "off" : "wait" });
	put($("status-text"), isUp && queued > 1 ? `${short} · ${queued} on their way` : short);
	$("banner").hidden = isUp || (phase === "connecting" && attempt < 2);
	$("banner").classList.toggle("bad", isOver);
	const lost = phase === "reconnecting" ? "The connection is lost." : "There is no connection yet.";
	const why = hasToken && phase === "connecting" ? " Is the token good?" : "";
	put($("banner-text"), isOver ? `The connection is over${cause ? `: ${cause}` : "."}` : lost + why);
	const left = retryAt ? Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)) : 0;
	const next = left ? `next try in ${left} s` : "trying now";
	const held = queued ? ` · ${queued} ${queued === 1 ? "message waits" : "messages wait"}` : "";
	put($("banner-wait"), isOver ? "" : `Attempt ${attempt}, ${next}${held}`);
	put($("try-now"), isOver ? "Sign in again" : "Try now");
}
