// The chat's page: who one is, which room is seen, and what happens when.

import { Composer } from "./composer.js";
import { $ } from "./dom.js";
import { attach } from "./files.js";
import { Hub } from "./hub.js";
import { MessageList } from "./list.js";
import { quoted } from "./message.js";
import { drawMembers, drawRooms, drawStatus, drawTyping } from "./panels.js";
import * as text from "./text.js";

const SAID_EVERY_MS = 700; // to screen readers
const now = () => performance.now();
const isSmall = matchMedia("(max-width: 760px)");

// What the browser keeps, if it keeps anything.
const storeOf = (key) => (key === "token" ? sessionStorage : localStorage);
const kept = (key) => text.tried(() => storeOf(key).getItem(`trio-rt.${key}`)) ?? "";
const keep = (key, value) => text.tried(() => storeOf(key).setItem(`trio-rt.${key}`, value));

const isRoomName = (name) => name && name === text.cleanName(name, 128) && text.bytesOf(name) <= 128;
const keptRooms = () => text.tried(() => JSON.parse(kept("rooms")).filter(isRoomName)) ?? [];
const hashRoom = () => text.tried(() => decodeURIComponent(location.hash.slice(1)));
const firstRoom = () => [hashRoom(), ...keptRooms(), "lobby"].find(isRoomName);

const app = { hub: null, room: null, name: kept("name"), token: kept("token") };
const list = new MessageList(act);
const composer = new Composer(say);

// Drawing, once a frame

let isDirty = false;

function changed(notice = "") {
	if (notice) composer.notice(notice);
	// A page that is not seen has no frames.
	if (!isDirty && document.hidden) setTimeout(draw, 200);
	else if (!isDirty) requestAnimationFrame(draw);
	isDirty = true;
}

function draw() {
	const { hub, room, name, token } = app;
	isDirty = false;
	if (!room) return;
	list.update();
	drawMembers(room, name);
	drawTyping(room);
	drawStatus(hub, token !== "");
	markRead();
	drawRooms(hub, room, { select, leave });
	listen(room);
}

/** Tell screen readers of new messages, a few at a time. */
const news = { rows: [], timer: null };

function listen(room) {
	news.rows.push(...room.takeNews());
	if (news.rows.length) news.timer ??= setTimeout(tellNews, SAID_EVERY_MS, room);
}

function tellNews(room) {
	const rows = news.rows.splice(0);
	news.timer = null;
	const words = rows.map((row) => quoted(room, row.offset)).join("\n");
	$("live").textContent = rows.length > 3 ? `${rows.length} new messages` : words;
}

function markRead() {
	if (app.room && !document.hidden && list.stuck && !$("sign").open) app.room.read(app.room.cursor, now());
}

// Rooms

function select(name, isNew = true) {
	closeDrawers();
	const room = app.hub.join(name);
	if (app.room === room) return;
	app.room = room;
	room.heard = room.cursor;
	news.rows = [];
	$("title").textContent = text.cleanName(name);
	keepRooms();
	if (isNew) history.pushState(null, "", `#${encodeURIComponent(name)}`);
	composer.open(room);
	list.show(room);
	changed();
}

function leave(name) {
	app.hub.leave(name);
	if (app.room.name === name) select([...app.hub.rooms.keys()][0] ?? "lobby");
	keepRooms();
	changed();
}

const keepRooms = () => keep("rooms", JSON.stringify([...app.hub.rooms.keys()]));

// Who one is

const FIELDS = ["name", "room", "token"];

function ask(error = "") {
	$("sign-error").textContent = error;
	$("sign-cancel").hidden = !app.hub;
	if ($("sign").open) return;
	const known = { ...app, room: firstRoom() };
	for (const field of FIELDS) $(`sign-${field}`).value = known[field];
	$("sign").showModal();
}

function enter(event) {
	event.preventDefault();
	const [name, room, token] = FIELDS.map((field) => $(`sign-${field}`).value.trim());
	const wrong = wrongWith(name, room, token);
	if (wrong) {
		ask(wrong);
		return;
	}
	const isSame = app.hub && token === app.token && !app.hub.isOver;
	Object.assign(app, { name: text.cleanName(name), token });
	keep("name", app.name);
	keep("token", token);
	$("sign").close();
	if (isSame) app.hub.setName(app.name);
	if (isSame) select(room);
	else start(room);
	$("text").focus();
}

function wrongWith(name, room, token) {
	if (!text.cleanName(name) && !token) return "A name or a token is needed.";
	if (!isRoomName(room)) return "A room's name has 1 to 128 letters, none of them invisible.";
	if (!/^[\w.~+-]*$/u.test(token)) return "That is no token: it has letters that no token has.";
	return "";
}

function start(room) {
	app.hub?.close();
	app.room = null;
	app.hub = new Hub(new URL("ws", location.href.replace("http", "ws")).href, { ...app, changed });
	for (const name of keptRooms()) app.hub.join(name);
	select(room, hashRoom() !== room);
}

// What one does

const publish = (room, type, payload) => room.publishLater(type, payload, now(), Date.now());

function say(type, payload, room = app.room) {
	publish(room, type, payload);
	if (room !== app.room || type === "edit") return;
	list.unreadFrom = Infinity;
	list.follow();
}

function act(name, row, more) {
	const { room } = app;
	const change = (type, payload) => publish(room, type, { target: row.offset, ...payload });
	const acts = {
		jump: () => list.jump(more) || composer.notice("That message is not here any more."),
		retry: () => room.retry(row.id, now()),
		dismiss: () => room.dismiss(row.id),
		react: () => change("react", { reaction: more[0], on: more[1] }),
		delete: () => confirm("Delete this message for everybody?") && change("delete"),
		reply: () => composer.about({ kind: "reply", row }),
		edit: () => composer.about({ kind: "edit", row }),
	};
	acts[name]();
}

/** Send the files of an event, if it has some. */
function attachAll(event, files) {
	const { room, token } = app;
	if (!files?.length || !room) return;
	event.preventDefault();
	for (const file of files) attach(file, token, (kind, payload) => say(kind, payload, room));
}

function drag(event) {
	const { type, dataTransfer } = event;
	if (!dataTransfer?.types.includes("Files")) return;
	event.preventDefault();
	$("main").classList.toggle("drop", type === "dragover");
	if (type === "drop") attachAll(event, dataTransfer.files);
}

// Drawers, on small screens: the rooms at the "side", and the "people"

function open(which) {
	const isOver = which !== "" && isSmall.matches;
	$("side").classList.toggle("open", which === "side");
	$("people").hidden = which !== "people";
	for (const name of ["side", "people"]) $(`${name}-open`).setAttribute("aria-expanded", which === name);
	$("shade").hidden = !isOver;
	$("main").inert = isOver;
}

const closeDrawers = () => $("shade").hidden || open("");

// Wiring

const on = (id, kind, handler) => $(id).addEventListener(kind, handler);
on("sign-form", "submit", enter);
on("sign-cancel", "click", () => $("sign").close());
on("sign", "cancel", (event) => app.hub || event.preventDefault());
on("me", "click", () => ask());
on("try-now", "click", () => (app.hub.isOver ? ask() : app.hub.conn.retryNow()));
on("join", "submit", (event) => {
	event.preventDefault();
	const name = $("join-name").value.trim();
	if (!isRoomName(name)) return;
	$("join-name").value = "";
	select(name);
});
on("attach", "click", () => $("files").click());
on("files", "change", (event) => {
	attachAll(event, [...event.target.files]);
	event.target.value = "";
});
on("text", "paste", (event) => attachAll(event, event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) on("main", kind, drag);
for (const name of ["side", "people"]) {
	const toggle = (which) => (open(which), $(`${name}-${which ? "close" : "open"}`).focus());
	on(`${name}-open`, "click", () => toggle($("people").hidden ? name : ""));
	on(`${name}-close`, "click", () => toggle(""));
}
on("shade", "click", closeDrawers);
addEventListener("keydown", (event) => event.key === "Escape" && closeDrawers());
addEventListener("popstate", () => app.hub && isRoomName(hashRoom()) && select(hashRoom(), false));
document.addEventListener("visibilitychange", () => {
	if (!document.hidden) changed();
	else {
		list.away();
		draw(); // a frame that was asked for does not come any more
	}
});

if (app.name || app.token) start(firstRoom());
else ask();
