// The chat's page: who one is, which room is seen, and what happens when.

import { Composer } from "./composer.js";
import { $ } from "./dom.js";
import { Hub } from "./hub.js";
import { MessageList } from "./list.js";
import { brief } from "./message.js";
import { drawMembers, drawRooms, drawStatus, drawTyping } from "./panels.js";
import * as text from "./text.js";
import { attach } from "./uploads.js";

const SAID_EVERY_MS = 700; // to screen readers
const now = () => performance.now();
const isSmall = matchMedia("(max-width: 760px)");

// What the browser keeps. It may keep nothing: then it is asked for again.

function kept(store, key) {
  try {
    return window[store].getItem(`trio-rt.${key}`) ?? "";
  } catch {
    return "";
  }
}

function keep(store, key, value) {
  try {
    window[store].setItem(`trio-rt.${key}`, value);
  } catch {
    // as if it had been
  }
}

const isRoomName = (name) => name !== "" && name === text.cleanName(name, 128) && text.bytesOf(name) <= 128;

function keptRooms() {
  try {
    return JSON.parse(kept("localStorage", "rooms")).filter(isRoomName);
  } catch {
    return [];
  }
}

function hashRoom() {
  try {
    const name = decodeURIComponent(location.hash.slice(1));
    return isRoomName(name) ? name : "";
  } catch {
    return "";
  }
}

const app = { hub: null, room: null, name: kept("localStorage", "name"), token: kept("sessionStorage", "token") };
const list = new MessageList(act);
const composer = new Composer(say);

// Drawing, once a frame

const dirty = new Set();

function changed(what, room) {
  if (what === "unnamed") composer.notice(`The name was not taken: ${room}`);
  if (what === "notice") composer.notice(room.notice);
  if (what === "rows" && room === app.room) listen(room);
  if (!dirty.size) {
    // A page that is not seen has no frames.
    if (document.hidden) setTimeout(draw, 200);
    else requestAnimationFrame(draw);
  }
  dirty.add(room === app.room ? what : "rooms");
}

function draw() {
  const what = new Set(dirty);
  dirty.clear();
  const { hub, room } = app;
  if (!room) return;
  const has = (...kinds) => kinds.some((kind) => what.has(kind));
  if (has("rows", "pending", "state", "members")) list.update();
  if (has("members", "state")) drawMembers(room, app.name);
  if (has("members", "typing")) drawTyping(room);
  drawStatus(hub, app.token !== "");
  markRead();
  drawRooms(hub, room, { select, leave });
}

/** Tell screen readers of new messages, a few at a time. */
const news = { heard: 0, rows: [], timer: null };

function listen(room) {
  const { rows } = room;
  if (!rows.length) news.heard = room.cursor; // what comes now is history
  const first = rows.findLastIndex((row) => row.offset <= news.heard) + 1;
  const isFor = (row) => row.offset > news.heard && row.kind !== "moderation" && !room.mine.has(row.user);
  news.rows.push(...rows.slice(first).filter(isFor));
  news.heard = Math.max(news.heard, rows.at(-1)?.offset ?? 0);
  if (news.rows.length) news.timer ??= setTimeout(tellNews, SAID_EVERY_MS, room);
}

function tellNews(room) {
  const rows = news.rows.splice(0);
  news.timer = null;
  const say = (row) => `${room.nameOf(row.user)}: ${text.cleanName(brief(room, row), 200)}`;
  $("live").textContent = rows.length > 3 ? `${rows.length} new messages` : rows.map(say).join("\n");
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
  Object.assign(news, { heard: room.cursor, rows: [] });
  $("title").textContent = text.cleanName(name);
  keepRooms();
  if (isNew) history.pushState(null, "", `#${encodeURIComponent(name)}`);
  composer.open(room);
  list.show(room);
  for (const what of ["members", "typing", "state"]) changed(what, room);
}

function leave(name) {
  app.hub.leave(name);
  if (app.room.name === name) select([...app.hub.rooms.keys()][0] ?? "lobby");
  keepRooms();
  changed("rooms");
}

const keepRooms = () => keep("localStorage", "rooms", JSON.stringify([...app.hub.rooms.keys()]));

// Who one is

function ask(error = "") {
  $("sign-error").textContent = error;
  $("sign-cancel").hidden = !app.hub;
  if ($("sign").open) return;
  $("sign-name").value = app.name;
  $("sign-room").value = hashRoom() || keptRooms()[0] || "lobby";
  $("sign-token").value = app.token;
  $("sign").showModal();
}

function enter(event) {
  event.preventDefault();
  const [name, room, token] = ["name", "room", "token"].map((field) => $(`sign-${field}`).value.trim());
  const wrong = wrongWith(name, room, token);
  if (wrong) {
    ask(wrong);
    return;
  }
  const isOther = !app.hub || token !== app.token || app.hub.isOver;
  Object.assign(app, { name: text.cleanName(name), token });
  keep("localStorage", "name", app.name);
  keep("sessionStorage", "token", token);
  $("sign").close();
  if (isOther) start(room);
  else {
    app.hub.setName(app.name);
    select(room);
  }
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
  const url = new URL("ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  app.room = null;
  app.hub = new Hub(url.href, { name: app.name, token: app.token, changed });
  for (const name of keptRooms()) app.hub.join(name);
  select(room, hashRoom() !== room);
}

// What one does

function say(type, payload, room = app.room) {
  room.publishLater(type, payload, now(), Date.now());
  if (room !== app.room || type === "edit") return;
  list.unreadFrom = Infinity;
  list.follow();
}

function act(name, row, more) {
  const { room } = app;
  const change = (type, payload) => room.publishLater(type, { target: row.offset, ...payload }, now(), Date.now());
  const acts = {
    scroll: markRead,
    write: () => $("text").focus(),
    jump: () => list.jump(more) || composer.notice("That message is not here any more."),
    retry: () => room.retry(row.id, now()),
    dismiss: () => room.dismiss(row.id),
    react: () => change("react", { reaction: more[0], on: more[1] }),
    delete: () => confirm("Delete this message for everybody?") && change("delete", {}),
    reply: () => composer.about({ kind: "reply", row }),
    edit: () => composer.about({ kind: "edit", row }),
  };
  acts[name]();
}

function attachAll(files) {
  const { room, token } = app;
  if (room) for (const file of files) attach(file, token, (kind, payload) => say(kind, payload, room));
}

function drag(event) {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  $("drop").hidden = event.type !== "dragover";
  if (event.type === "drop") attachAll(event.dataTransfer.files);
}

// Drawers, on small screens

function openDrawer(isSide, isOpen) {
  $("side").classList.toggle("open", isSide && isOpen);
  if (!isSide || isSmall.matches) $("people").hidden = isSide || !isOpen;
  $("side-open").setAttribute("aria-expanded", String(isSide && isOpen));
  $("people-open").setAttribute("aria-expanded", String(!$("people").hidden));
  $("shade").hidden = !isOpen || !isSmall.matches;
  $("main").inert = !$("shade").hidden;
}

function closeDrawers() {
  if (!$("shade").hidden) openDrawer(true, false);
}

function toggle(isSide, isOpen) {
  openDrawer(isSide, isOpen);
  $(`${isSide ? "side" : "people"}-${isOpen ? "close" : "open"}`).focus();
}

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
on("files", "change", ({ target }) => {
  attachAll([...target.files]);
  target.value = "";
});
on("text", "paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  attachAll(event.clipboardData.files);
});
for (const kind of ["dragover", "dragleave", "drop"]) on("main", kind, drag);
on("side-open", "click", () => toggle(true, true));
on("side-close", "click", () => toggle(true, false));
on("people-open", "click", () => toggle(false, $("people").hidden));
on("people-close", "click", () => toggle(false, false));
on("shade", "click", closeDrawers);
addEventListener("keydown", (event) => event.key === "Escape" && closeDrawers());
addEventListener("popstate", () => app.hub && hashRoom() && select(hashRoom(), false));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) changed("rows", app.room);
  else {
    list.away();
    draw(); // a frame that was asked for does not come any more
  }
});

if (app.name || app.token) start(hashRoom() || keptRooms()[0] || "lobby");
else ask();
