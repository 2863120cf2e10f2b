// The page: what is where on it, and what is done with it.

import { upload } from "./files.js";
import { Hub } from "./hub.js";
import { $, MessageList, el, face, icon } from "./list.js";
import * as text from "./text.js";

const CONTENT_BYTES = 16384;
const SAID_EVERY_MS = 700; // to screen readers

const kept = (store, key) => {
  try {
    return store.getItem(`trio-rt.${key}`) ?? "";
  } catch {
    return ""; // the browser keeps nothing
  }
};
const keep = (store, key, value) => {
  try {
    if (value) store.setItem(`trio-rt.${key}`, value);
    else store.removeItem(`trio-rt.${key}`);
  } catch {
    // then it is asked for again
  }
};

const app = {
  hub: null,
  room: null,
  name: kept(localStorage, "name"),
  token: kept(sessionStorage, "token"),
  context: null, // {kind: "reply" or "edit", row}
  news: [],
  heard: 0,
};
const list = new MessageList(act);
const now = () => performance.now();

// Drawing, once a frame

const dirty = new Set();
let isDue = false;

function changed(what, room) {
  if (what === "unnamed") notice(`The name was not taken: ${room}`);
  if (what === "notice") notice(room.notice);
  if (what === "rows" && room === app.room) listen(room);
  dirty.add(what === "status" ? "status" : "rooms");
  if (room === app.room) dirty.add(what);
  if (isDue) return;
  isDue = true;
  // A page that is not seen has no frames.
  if (document.hidden) setTimeout(draw, 200);
  else requestAnimationFrame(draw);
}

function draw() {
  isDue = false;
  const what = new Set(dirty);
  dirty.clear();
  if (!app.hub) return;
  if (["rows", "pending", "state", "members"].some((each) => what.has(each))) list.update();
  if (what.has("members") || what.has("state")) drawMembers();
  if (what.has("typing") || what.has("members")) drawTyping();
  drawStatus();
  markRead();
  drawRooms();
}

const put = (node, shown) => {
  if (node.textContent !== shown) node.textContent = shown;
};

function drawRooms() {
  const names = [...app.hub.rooms.keys()];
  let sum = 0;
  let others = 0;
  const shown = names.map((name) => {
    const room = app.hub.rooms.get(name);
    const isHere = room === app.room;
    const { unread } = room;
    sum += unread;
    if (!isHere) others += unread;
    return [name, isHere, unread];
  });
  const key = JSON.stringify(shown);
  if ($("rooms").dataset.key !== key) {
    const focused = document.activeElement?.dataset?.room;
    $("rooms").dataset.key = key;
    $("rooms").replaceChildren(...shown.map((each) => roomItem(...each)));
    if (focused) $("rooms").querySelector(`[data-room="${CSS.escape(focused)}"]`)?.focus();
  }
  $("side-unread").hidden = !others;
  const label = `${sum ? `(${sum}) ` : ""}${text.cleanName(app.room?.name ?? "Chat")} · Chat`;
  if (document.title !== label) document.title = label;
}

function roomItem(name, isHere, unread) {
  const shown = text.cleanName(name);
  const label = unread ? el("span", { class: "count" }, unread > 99 ? "99+" : String(unread), el("span", { class: "sr" }, " unread")) : null;
  const go = el("button", { type: "button", class: "go", onclick: () => select(name) }, el("bdi", {}, shown), label);
  if (isHere) go.setAttribute("aria-current", "page");
  go.dataset.room = name;
  const leave = el("button", { type: "button", class: "icon", "aria-label": `Leave ${shown}`, title: "Leave", onclick: () => leaveRoom(name) }, icon("close"));
  return el("li", { class: `room ${isHere ? "here" : ""} ${unread ? "new" : ""}` }, go, leave);
}

function drawMembers() {
  const { room } = app;
  const { members, count } = room;
  const people = count === 1 ? "1 member" : `${count} members`;
  put($("about"), room.refused ? "not joined" : room.joined ? people : "joining…");
  put($("people-title"), people[0].toUpperCase() + people.slice(1));
  const own = members.get(room.me);
  const name = own?.name || app.name || room.me || "You";
  put($("me-name"), text.cleanName(name));
  put($("me-id"), text.cleanName(room.me));
  $("me-face").replaceWith(Object.assign(face(room.me, name, own?.avatar), { id: "me-face" }));
  const named = [...members].map(([user, info]) => [user, room.nameOf(user), info]);
  named.sort((a, b) => a[1].localeCompare(b[1]));
  const twice = named.map(([, shown]) => shown).filter((shown, at, all) => all.indexOf(shown) !== at);
  $("members").replaceChildren(...named.map(([user, shown, info]) => {
    const tags = [user === room.me ? "you" : "", info.status === "away" ? "away" : ""];
    if (twice.includes(shown)) tags.push(text.cleanName(user));
    const who = el("span", { class: "who" }, el("bdi", { title: user }, shown), el("small", {}, tags.filter(Boolean).join(" · ")));
    return el("li", { class: `member ${info.status}` }, face(user, shown, info.avatar), who);
  }));
  if (count > members.size) $("members").append(el("li", { class: "note" }, "A room with so many members does not name them."));
}

function drawTyping() {
  const { room } = app;
  const names = room.typing.map((user) => `\u2068${room.nameOf(user)}\u2069`);
  const [one, two] = names;
  const are = names.length > 2 ? `${one}, ${two} and ${names.length - 2} more are typing` : `${one} and ${two} are typing`;
  put($("typing-text"), names.length > 1 ? are : one ? `${one} is typing` : "");
  $("typing").classList.toggle("on", names.length > 0);
}

function drawStatus() {
  const { state, queued, isUp } = app.hub;
  const { phase, attempt, retryAt, cause } = state;
  const isOver = phase === "failed" || phase === "disconnected";
  $("status").dataset.state = isUp ? "on" : isOver ? "off" : "wait";
  const short = { connected: "Connected", connecting: "Connecting…", reconnecting: "Reconnecting…" };
  const status = short[phase] ?? "Not connected";
  put($("status-text"), isUp && queued > 1 ? `${status} · ${queued} on their way` : status);
  if (app.status && app.status !== status) $("live").textContent = status;
  app.status = status;
  $("banner").hidden = isUp || (phase === "connecting" && attempt < 2);
  $("banner").classList.toggle("bad", isOver);
  const lost = phase === "reconnecting" ? "The connection is lost." : "There is no connection yet.";
  const why = app.token && phase === "connecting" ? " Is the token good?" : "";
  put($("banner-text"), isOver ? `The connection is over${cause ? `: ${cause}` : "."}` : lost + why);
  put($("try-now"), phase === "failed" ? "Sign in again" : "Try now");
  const left = retryAt ? Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)) : 0;
  const next = left ? `next try in ${left} s` : "trying now";
  const held = queued ? ` · ${queued} ${queued === 1 ? "message waits" : "messages wait"}` : "";
  put($("banner-wait"), isOver ? "" : `Attempt ${attempt || 1}, ${next}${held}`);
}

/** Tell screen readers of new messages, a few at a time. */
function listen(room) {
  const { rows } = room;
  const fresh = [];
  if (!rows.length) app.heard = room.cursor; // what comes now is history
  for (let at = rows.length - 1; at >= 0 && rows[at].offset > app.heard; at -= 1) fresh.unshift(rows[at]);
  if (!fresh.length) return;
  app.heard = fresh.at(-1).offset;
  app.news.push(...fresh.filter((row) => !room.mine.has(row.user) && row.kind !== "moderation"));
  if (!app.news.length || app.saying) return;
  app.saying = setTimeout(() => {
    const news = app.news.splice(0);
    app.saying = null;
    const say = (row) => `${room.nameOf(row.user)}: ${row.kind === "text" ? text.cleanName(row.content, 200) : `sent ${row.kind === "image" ? "an image" : "a file"}`}`;
    $("live").textContent = news.length > 3 ? `${news.length} new messages` : news.map(say).join("\n");
  }, SAID_EVERY_MS);
}

function markRead() {
  if (app.room && !document.hidden && list.stuck && !$("sign").open) app.room.read(app.room.cursor, now());
}

// Rooms

function select(name, isNew = true) {
  const room = app.hub.join(name);
  if (app.room === room) return closeDrawers();
  if (app.room) app.room.draft = app.context?.kind === "edit" ? "" : $("text").value;
  app.room?.stopTyping();
  Object.assign(app, { room, heard: room.cursor, news: [] });
  setContext(null);
  $("text").value = room.draft ?? "";
  $("title").textContent = text.cleanName(name);
  keep(localStorage, "rooms", JSON.stringify([...app.hub.rooms.keys()]));
  if (isNew) history.pushState(null, "", `#${encodeURIComponent(name)}`);
  list.show(room);
  for (const what of ["members", "typing", "state"]) changed(what, room);
  closeDrawers();
  grow();
  return undefined;
}

function leaveRoom(name) {
  app.hub.leave(name);
  if (app.room?.name === name) {
    app.room = null;
    select([...app.hub.rooms.keys()][0] ?? "lobby");
  }
  keep(localStorage, "rooms", JSON.stringify([...app.hub.rooms.keys()]));
  changed("rooms");
}

const hashRoom = () => {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
};

const isRoomName = (name) => name !== "" && name === text.cleanName(name, 128) && text.bytesOf(name) <= 128;

function keptRooms() {
  try {
    return JSON.parse(kept(localStorage, "rooms")).filter((name) => typeof name === "string" && isRoomName(name));
  } catch {
    return [];
  }
}

// Signing in

function ask(error = "") {
  $("sign-name").value = app.name;
  $("sign-room").value = hashRoom() || app.room?.name || keptRooms()[0] || "lobby";
  $("sign-token").value = app.token;
  $("sign-error").textContent = error;
  $("sign-cancel").hidden = !app.hub;
  if (!$("sign").open) $("sign").showModal();
}

function enter(event) {
  event.preventDefault();
  const name = text.cleanName($("sign-name").value);
  const room = $("sign-room").value.trim();
  const token = $("sign-token").value.trim();
  if (!name && !token) return ask("A name or a token is needed.");
  if (!isRoomName(room)) return ask("A room's name has 1 to 128 letters, none of them invisible.");
  if (token && !/^[\w.~+-]+$/u.test(token)) return ask("That is no token: it has letters that no token has.");
  const isOther = !app.hub || token !== app.token || app.hub.state.phase === "failed";
  Object.assign(app, { name, token });
  keep(localStorage, "name", name);
  keep(sessionStorage, "token", token);
  $("sign").close();
  if (isOther) start(room);
  else {
    app.hub.setName(name);
    select(room);
  }
  $("text").focus();
  return undefined;
}

function start(room) {
  app.hub?.close();
  const url = new URL(".", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  app.room = null;
  app.hub = new Hub(url.href, { name: app.name, token: app.token, changed });
  for (const name of keptRooms()) app.hub.join(name);
  select(room, hashRoom() !== room);
}

// Writing

function setContext(context) {
  const wasEdit = app.context?.kind === "edit";
  app.context = context;
  $("context").hidden = !context;
  if (wasEdit) $("text").value = "";
  if (!context) return grow();
  const { kind, row } = context;
  const content = row.kind === "text" ? app.room.contentOf(row) : row.meta.name;
  const shown = kind === "edit" ? "Editing your message" : `Reply to \u2068${app.room.nameOf(row.user)}\u2069: ${text.cleanName(content, 100)}`;
  $("context-text").textContent = shown;
  if (kind === "edit") $("text").value = app.room.contentOf(row);
  $("text").focus();
  return grow();
}

function grow() {
  const field = $("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
  $("send").disabled = !field.value.trim();
}

let noticeTimer = null;
function notice(shown) {
  $("notice").textContent = shown;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => put($("notice"), ""), 8000);
}

function send(event) {
  event?.preventDefault();
  const content = text.cleanText($("text").value).trim();
  const size = text.bytesOf(content);
  if (!content || !app.room) return;
  if (size > CONTENT_BYTES) {
    notice(`That is too long by ${size - CONTENT_BYTES} bytes.`);
    return;
  }
  const { kind, row } = app.context ?? {};
  if (kind === "edit") app.room.publishLater("edit", { target: row.offset, content }, now(), Date.now());
  else say("text", kind === "reply" ? { content, reply: row.offset } : { content });
  $("text").value = "";
  setContext(null);
  notice("");
}

function say(type, payload, room = app.room) {
  room.publishLater(type, payload, now(), Date.now());
  if (room !== app.room) return;
  list.unreadFrom = Infinity;
  list.follow();
}

function act(name, row, more) {
  const { room } = app;
  const change = (type, payload) => room.publishLater(type, { target: row.offset, ...payload }, now(), Date.now());
  if (name === "scroll") markRead();
  else if (name === "write") $("text").focus();
  else if (name === "jump") list.jump(more) || notice("That message is not here any more.");
  else if (name === "retry") room.retry(row.id, now());
  else if (name === "dismiss") room.dismiss(row.id);
  else if (name === "react") change("react", { reaction: more[0], ...(more[1] ? {} : { on: false }) });
  else if (name === "delete") confirm("Delete this message for everybody?") && change("delete", {});
  else setContext({ kind: name, row });
}

function typed() {
  grow();
  if ($("text").value && app.context?.kind !== "edit") app.room?.keystroke(now());
  else app.room?.stopTyping();
}

function pressed(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  else if (event.key === "Escape") setContext(null);
  else if (event.key === "ArrowUp" && !$("text").value) {
    const own = app.room?.rows.findLast((row) => row.user === app.room.me && row.kind === "text" && !app.room.isDeleted(row.offset));
    if (own) {
      event.preventDefault();
      setContext({ kind: "edit", row: own });
    }
  }
}

// Files

async function attach(file) {
  const { room } = app;
  const stop = new AbortController();
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Progress" });
  const about = el("small", {}, text.sizeText(file.size));
  const button = (label, onclick, inside, kind) => el("button", { type: "button", class: kind, "aria-label": label, onclick }, inside);
  const gone = () => (stop.abort(), item.remove());
  const acts = el("span", { class: "acts" }, button(`Cancel ${text.cleanName(file.name)}`, gone, icon("close"), "icon small"));
  const item = el("li", { class: "up" }, icon("file"), el("span", { class: "what" }, el("bdi", {}, text.cleanName(file.name)), about), acts, bar);
  $("uploads").append(item);
  const progress = (sent, total) => {
    bar.value = total ? sent / total : 1;
    about.textContent = `${text.sizeText(sent)} of ${text.sizeText(total)}`;
  };
  try {
    const size = await imageSize(file);
    const { path, ...meta } = await upload(file, { token: app.token, progress, signal: stop.signal });
    item.remove();
    const isImage = /^image\/(png|jpeg|gif|webp)$/u.test(meta.type);
    say(isImage ? "image" : "file", { content: path, metadata: { ...meta, ...size } }, room);
  } catch (error) {
    if (stop.signal.aborted) return;
    item.classList.add("bad");
    about.textContent = error.message;
    about.setAttribute("role", "alert");
    bar.remove();
    acts.prepend(button("Try again", () => (item.remove(), attach(file)), "Try again", "again"));
  }
}

async function imageSize(file) {
  if (!/^image\/(png|jpeg|gif|webp)$/u.test(file.type)) return {};
  try {
    const { width, height } = await createImageBitmap(file);
    return { width, height };
  } catch {
    return {}; // it is none
  }
}

function attachAll(files) {
  if (app.room) for (const file of files) attach(file);
}

function drag(event) {
  if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
  event.preventDefault();
  $("drop").hidden = event.type !== "dragover";
  if (event.type === "drop") attachAll(event.dataTransfer.files);
}

// Drawers, on small screens

function closeDrawers() {
  $("side").classList.remove("open");
  if (matchMedia("(max-width: 760px)").matches) $("people").hidden = true;
  $("shade").hidden = true;
  for (const id of ["side-open", "people-open"]) $(id).setAttribute("aria-expanded", String(id === "people-open" && !$("people").hidden));
}

function openSide() {
  $("side").classList.add("open");
  $("side-open").setAttribute("aria-expanded", "true");
  $("shade").hidden = false;
  $("side-close").focus();
}

function togglePeople() {
  const isOpen = $("people").hidden;
  $("people").hidden = !isOpen;
  $("people-open").setAttribute("aria-expanded", String(isOpen));
  $("shade").hidden = !isOpen || !matchMedia("(max-width: 760px)").matches;
  $(isOpen ? "people-close" : "people-open").focus();
}

// Wiring

const on = (id, kind, handler) => $(id).addEventListener(kind, handler);
on("sign-form", "submit", enter);
on("sign-cancel", "click", () => $("sign").close());
on("sign", "cancel", (event) => app.hub || event.preventDefault());
on("me", "click", () => ask());
on("composer", "submit", send);
on("text", "input", typed);
on("text", "keydown", pressed);
on("text", "blur", () => app.room?.stopTyping());
on("text", "paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  attachAll(event.clipboardData.files);
});
on("context-off", "click", () => setContext(null));
on("attach", "click", () => $("files").click());
on("files", "change", (event) => (attachAll([...event.target.files]), (event.target.value = "")));
for (const kind of ["dragover", "dragleave", "drop"]) on("main", kind, drag);
on("try-now", "click", () => (app.hub.state.phase === "failed" ? ask() : app.hub.conn.retryNow()));
on("side-open", "click", openSide);
on("side-close", "click", () => (closeDrawers(), $("side-open").focus()));
on("shade", "click", closeDrawers);
on("people-open", "click", togglePeople);
on("people-close", "click", togglePeople);
on("join", "submit", (event) => {
  event.preventDefault();
  const name = $("join-name").value.trim();
  if (!isRoomName(name)) return;
  $("join-name").value = "";
  select(name);
});
addEventListener("keydown", (event) => event.key === "Escape" && closeDrawers());
addEventListener("popstate", () => app.hub && isRoomName(hashRoom()) && select(hashRoom(), false));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) list.away();
  else changed("rows", app.room);
});

if (app.name || app.token) start(isRoomName(hashRoom()) ? hashRoom() : keptRooms()[0] || "lobby");
else ask();
