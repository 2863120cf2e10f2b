// The messages of a room on the page: a window of at most `MOST` of them.

import * as text from "./text.js";

const WINDOW = 100;
const MOST = 240;
const STEP = 60;
const EDGE = 800; // pixels from an end, where more are shown
const GROUP_MS = 300_000;
const QUICK = ["👍", "❤️", "😂"];
const MORE = ["🎉", "😮", "😢", "🙏", "👀", "✅", "🔥", "👎"];
const MODERATED = { mute: "muted", unmute: "unmuted", ban: "banned", unban: "let in again", role: "now a" };

export const $ = (id) => document.getElementById(id);

/** An element; `props` are its properties, but for `class` and what has a dash: attributes. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined) continue;
    if (name === "class") made.className = value;
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** The round picture of a user. */
export function face(user, name, avatar = "") {
  const shown = text.ownFile(avatar, location.origin);
  const letter = avatar && avatar.length < 9 && !avatar.includes("/") ? text.cleanName(avatar) : text.initial(name);
  const inside = shown ? el("img", { src: shown, alt: "", loading: "lazy" }) : letter;
  return el("span", { class: `face c${text.hue(user)}`, "aria-hidden": "true" }, inside);
}

const clamp = (n, low, high) => Math.max(low, Math.min(n, high));

export class MessageList {
  /** `act(name, row, more)` is called for what is done with a message. */
  constructor(act) {
    Object.assign(this, { act, scroller: $("scroller"), list: $("messages"), room: null });
    this.tools = this.makeTools();
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.list.addEventListener("keydown", (event) => this.key(event));
    for (const kind of ["mouseover", "focusin", "click"]) {
      this.list.addEventListener(kind, (event) => this.activate(event.target.closest(".msg")));
    }
    this.list.addEventListener("load", () => this.stuck && this.toEnd(), true);
    new ResizeObserver(() => this.stuck && this.toEnd()).observe(this.scroller);
    this.list.addEventListener("mouseleave", () => {
      if (!this.list.contains(document.activeElement)) this.activate(null);
    });
    $("newer").addEventListener("click", () => this.follow());
  }

  /** Show a room, at its end. */
  show(room) {
    if (this.room !== room) {
      this.opened = new Set();
      this.unreadFrom = room.unread ? room.readTo + 1 : Infinity;
      if (this.room) this.room.isRead = false;
    }
    Object.assign(this, { room, stuck: true, shown: new Map(), seen: room.cursor });
    this.list.replaceChildren();
    this.update();
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

  // The window

  update() {
    const { room } = this;
    if (!room) return;
    const { rows } = room;
    let end = rows.length;
    let start = Math.max(0, end - WINDOW);
    if (!this.stuck) {
      start = this.indexOf(this.low);
      end = this.high === Infinity ? end : this.indexOf(this.high + 1);
      if (end - start > MOST) end = start + MOST;
    }
    this.low = rows[start]?.offset ?? 0;
    this.high = end === rows.length ? Infinity : rows[end - 1].offset;
    const anchor = this.stuck ? null : this.anchor();
    this.render(this.items(start, end));
    if (this.stuck) this.toEnd();
    else this.restore(anchor);
    this.room.isRead = !this.stuck;
    this.hint();
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

  anchor() {
    const top = this.scroller.scrollTop;
    for (const item of this.list.children) {
      if (item.offsetTop + item.offsetHeight > top) return [item.dataset.key, item.offsetTop - top];
    }
    return null;
  }

  restore(anchor) {
    const item = anchor && this.shown.get(anchor[0])?.[1];
    if (item) this.scroller.scrollTop = item.offsetTop - anchor[1];
  }

  scrolled() {
    const { scroller, room } = this;
    if (!room) return;
    const left = scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
    const isStuck = left < 40 && this.high === Infinity;
    if (this.stuck && !isStuck) this.away();
    this.stuck = isStuck;
    const { rows } = room;
    if (scroller.scrollTop < EDGE && !this.stuck) {
      const start = this.indexOf(this.low);
      if (start > 0) {
        this.low = rows[Math.max(0, start - STEP)].offset;
        this.update();
      } else room.older(performance.now());
    } else if (left < EDGE && this.high !== Infinity) {
      const end = Math.min(rows.length, this.indexOf(this.high + 1) + STEP);
      this.high = end === rows.length ? Infinity : rows[end - 1].offset;
      this.low = rows[Math.max(this.indexOf(this.low), end - MOST)].offset;
      this.update();
    }
    this.hint();
    this.act("scroll");
  }

  /** What is said above and below the messages. */
  hint() {
    const { room } = this;
    if (this.stuck) this.seen = room.cursor;
    const news = room.rows.slice(this.indexOf(this.seen + 1)).filter((row) => !room.mine.has(row.user)).length;
    $("newer").hidden = this.stuck;
    $("newer").lastChild.textContent = news ? `${news} new` : "To the newest";
    const isEmpty = !room.rows.length && !room.sayings.length && room.joined && !room.hasOlder;
    $("empty").hidden = !isEmpty && !room.refused;
    $("empty-text").textContent = room.refused
      ? `You cannot be in this room: ${room.refused.text || room.refused.code}`
      : "Nothing has been said here yet. Say hello!";
    const isAll = room.low <= room.first;
    const top = room.hasOlder ? "Loading older messages…" : isAll ? "This is the beginning." : "Older messages are not shown.";
    $("top").textContent = room.joined && room.rows.length ? top : "";
  }

  /** The row of an offset comes into sight; false if it is not held. */
  jump(offset) {
    const { rows, rowAt } = this.room;
    const at = rowAt.has(offset) ? this.indexOf(offset) : -1;
    if (at < 0) return false;
    this.stuck = false;
    this.low = rows[Math.max(0, at - STEP)].offset;
    this.high = at + STEP >= rows.length ? Infinity : rows[at + STEP].offset;
    this.update();
    const item = this.shown.get(`m${offset}`)[1];
    item.scrollIntoView({ block: "center" });
    item.focus({ preventScroll: true });
    item.classList.add("flash");
    setTimeout(() => item.classList.remove("flash"), 1500);
    return true;
  }

  // The elements

  /** `[key, signature, make]` of everything that is to be shown. */
  items(start, end) {
    const { room } = this;
    const found = [];
    let before = null;
    for (let at = start; at < end; at += 1) {
      const row = room.rows[at];
      before = this.separate(found, before, row);
      const isNext = before?.user === row.user && before.kind !== "moderation";
      const isHead = !isNext || row.at - before.at > GROUP_MS;
      const waits = room.changesOf(row.offset);
      const name = room.nameOf(row.user);
      const parts = [row.rev, isHead, waits, name, this.opened.has(row.offset), row.user === room.me];
      parts.push(room.members.get(row.user)?.avatar);
      if (row.reply) parts.push(this.quoted(row.reply));
      found.push([`m${row.offset}`, parts.join("\n"), () => this.message(row, { isHead, waits, name })]);
      before = row;
    }
    for (const each of end === room.rows.length ? room.sayings : []) {
      const row = { ...each, user: room.me, kind: each.type, content: each.payload.content, offset: 0 };
      Object.assign(row, { reply: each.payload.reply ?? 0, meta: each.payload.metadata ?? {} });
      before = this.separate(found, before, row);
      const isHead = before?.user !== row.user;
      const signature = [each.state, each.failure, isHead, room.connected].join("\n");
      const name = room.nameOf(row.user);
      found.push([`p${each.id}`, signature, () => this.message(row, { isHead, name, waits: "" })]);
      before = row;
    }
    return found;
  }

  /** A line for a new day, and for what is new; null if the next message begins anew there. */
  separate(found, before, row) {
    const day = text.dayKey(row.at);
    const isUnread = row.offset >= this.unreadFrom && !(before?.offset >= this.unreadFrom);
    if (before === null || text.dayKey(before.at) !== day) {
      const shown = text.dayText(row.at);
      found.push([`d${day}`, shown, () => el("li", { class: "day" }, shown)]);
      before = null;
    }
    if (!isUnread) return before;
    found.push(["unread", "", () => el("li", { class: "day unread" }, "New")]);
    return null;
  }

  render(items) {
    const focused = document.activeElement?.closest?.(".msg")?.dataset.key;
    const was = this.shown;
    this.shown = new Map();
    let place = this.list.firstChild;
    for (const [key, signature, make] of items) {
      const old = was.get(key);
      const item = old?.[0] === signature ? old[1] : make();
      item.dataset.key = key;
      if (item === place) place = place.nextSibling;
      else this.list.insertBefore(item, place);
      this.shown.set(key, [signature, item]);
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
    this.activate(this.shown.get(this.active)?.[1]);
    if (focused && !document.activeElement?.closest(".msg")) this.shown.get(focused)?.[1].focus({ preventScroll: true });
    if (!this.active) this.stopAt([...this.list.querySelectorAll(".msg")].at(-1));
  }

  message(row, { isHead, name, waits }) {
    const { room } = this;
    if (row.kind === "moderation") return this.moderation(row);
    const gone = row.offset && room.isDeleted(row.offset);
    const content = gone ? "" : text.cleanText(row.offset ? room.contentOf(row) : row.content);
    const isAct = row.kind === "text" && content.startsWith("/me ");
    const kinds = { head: isHead, gone, act: isAct, waits: !row.offset && row.state !== "failed", failed: row.state === "failed" };
    const classes = Object.keys(kinds).filter((kind) => kinds[kind]).join(" ");
    const item = el("li", { class: `msg c${text.hue(row.user)} ${classes}`, tabIndex: -1 });
    item.row = row;
    const time = el("time", { dateTime: new Date(row.at).toISOString(), title: text.fullTime(row.at) }, text.timeText(row.at));
    if (isHead) {
      item.append(face(row.user, name, room.members.get(row.user)?.avatar));
      const by = isAct ? null : el("bdi", { class: "name", title: row.user }, name);
      item.append(el("p", { class: "by" }, by, time));
    } else {
      time.className = "side-time";
      item.append(el("span", { class: "sr" }, `${name}: `), time);
    }
    if (row.reply && !gone) item.append(this.quote(row.reply));
    if (gone) item.append(el("p", { class: "body" }, "This message was deleted."));
    else item.append(...this.content(row, content, isAct && name));
    if (!gone && row.offset && room.about.get(row.offset)?.edit) item.append(el("span", { class: "tag" }, "edited "));
    if (waits) item.append(el("span", { class: "tag" }, waits));
    if (!gone && row.offset) item.append(this.marks(row));
    if (!row.offset) item.append(this.state(row));
    return item;
  }

  content(row, content, actor) {
    if (row.kind !== "text") {
      const path = text.ownFile(content, location.origin);
      const name = text.cleanName(row.meta.name, 120) || text.cleanName(content, 120);
      if (path && row.kind === "image") return [this.image(path, name, row.meta)];
      const href = path ?? text.safeLink(content);
      const inside = [icon("file"), el("span", {}, el("bdi", {}, name), el("small", {}, text.sizeText(row.meta.size)))];
      if (!href) return [el("span", { class: "file" }, ...inside)];
      return [el("a", { class: "file", href, target: "_blank", rel: "noopener noreferrer", download: path ? name : undefined }, ...inside)];
    }
    const start = this.opened.has(row.offset) ? null : text.beginning(content);
    const body = el("div", { class: "body", dir: "auto" });
    if (actor) body.append(el("bdi", {}, actor), " ");
    for (const [part, href] of text.linked((start ?? content).slice(actor ? 4 : 0))) {
      const link = { href, title: href, target: "_blank", rel: "noopener noreferrer" };
      body.append(href ? el("a", link, part) : part);
    }
    if (/^\p{Extended_Pictographic}[\p{Extended_Pictographic}\p{M}\u200d\ufe0f]{0,7}$/u.test(content)) body.classList.add("big");
    if (start === null) return [body];
    const more = el("button", { class: "more", type: "button", onclick: () => this.open(row.offset) }, "Show all of it");
    return row.offset ? [body, more] : [body];
  }

  open(offset) {
    this.opened.add(offset);
    this.stuck = false;
    this.update();
  }

  image(path, name, meta) {
    const image = el("img", { src: path, alt: name || "Image", loading: "lazy" });
    const isSized = [meta.width, meta.height].every((n) => Number.isInteger(n) && n > 0 && n < 20000);
    if (isSized) Object.assign(image, { width: meta.width, height: meta.height });
    return el("a", { class: isSized ? "shot sized" : "shot", href: path, target: "_blank", rel: "noopener noreferrer" }, image);
  }

  quoted(offset) {
    const row = this.room.rowAt.get(offset);
    if (!row) return "An earlier message";
    if (this.room.isDeleted(offset)) return "A deleted message";
    const content = row.kind === "text" ? this.room.contentOf(row) : row.meta.name || "a file";
    return `\u2068${this.room.nameOf(row.user)}\u2069: ${text.cleanName(content, 120)}`;
  }

  quote(offset) {
    const shown = this.quoted(offset);
    const props = { class: "quote", type: "button", onclick: () => this.act("jump", null, offset) };
    return this.room.rowAt.has(offset) ? el("button", props, el("span", { class: "sr" }, "In reply to "), shown) : el("span", { class: "quote" }, shown);
  }

  marks(row) {
    const { room } = this;
    const marks = room.reactionsOf(row.offset).slice(0, 20).map(([reaction, users]) => {
      const isOn = users.includes(room.me);
      const who = users.slice(0, 20).map((user) => room.nameOf(user)).join(", ");
      const shown = text.cleanName(reaction, 16);
      const label = `${shown} ${users.length}: ${who}`;
      const onclick = () => this.act("react", row, [reaction, !isOn]);
      const props = { type: "button", title: who, onclick, "aria-pressed": String(isOn), "aria-label": label };
      return el("button", props, el("bdi", {}, shown), String(users.length));
    });
    return marks.length ? el("div", { class: "marks" }, ...marks) : "";
  }

  state(row) {
    if (row.state === "failed") {
      const button = (name, label) => el("button", { type: "button", onclick: () => this.act(name, row) }, label);
      return el("p", { class: "own" }, `Not sent: ${row.failure}`, button("retry", "Try again"), button("dismiss", "Dismiss"));
    }
    const waits = row.state === "queued" && !this.room.connected;
    const take = el("button", { type: "button", onclick: () => this.act("dismiss", row) }, "Take back");
    return el("p", { class: "own" }, icon("clock"), waits ? "Waits for the connection" : "Sending…", row.state === "queued" ? take : null);
  }

  moderation({ meta, at }) {
    const role = meta.action === "role" ? ` ${text.cleanName(meta.role)}` : "";
    const until = meta.until && meta.action !== "unmute" ? ` until ${text.fullTime(Number(meta.until))}` : "";
    const what = `is ${MODERATED[meta.action] ?? "…"}${role}${until}`;
    return el("li", { class: "note", title: text.fullTime(at) }, el("bdi", {}, this.room.nameOf(meta.user)), ` ${what}`);
  }

  // What can be done with a message

  makeTools() {
    const tools = $("tools");
    const button = (label, inside, onclick, more = {}) => el("button", { type: "button", "aria-label": label, title: label, onclick, ...more }, inside);
    const react = (emoji) => button(`React with ${emoji}`, emoji, () => this.done("react", [emoji, true]));
    const pick = el("span", { class: "pick", hidden: true }, ...MORE.map(react));
    const toggle = () => {
      pick.hidden = !pick.hidden;
      smile.setAttribute("aria-expanded", String(!pick.hidden));
    };
    const smile = button("More reactions", icon("smile"), toggle, { "aria-expanded": "false" });
    const own = [
      button("Edit", icon("edit"), () => this.done("edit")),
      button("Delete", icon("trash"), () => this.done("delete"), { class: "danger" }),
    ];
    tools.append(...QUICK.map(react), smile, button("Reply", icon("reply"), () => this.done("reply")), ...own, pick);
    Object.assign(this, { pick, own, smile });
    return tools;
  }

  done(name, more) {
    const { row } = this.tools.closest(".msg");
    this.act(name, row, more);
  }

  /** Where the Tab key comes into the list. */
  stopAt(item) {
    for (const other of this.list.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    if (item) item.tabIndex = 0;
  }

  /** The tools go to this message. */
  activate(item) {
    const row = item?.row;
    const can = row?.offset && !this.room.isDeleted(row.offset);
    this.tools.parentElement?.classList.remove("open", "low");
    if (this.active !== item?.dataset.key) this.pick.hidden = true;
    this.active = item?.dataset.key;
    this.tools.hidden = !can;
    if (!can) {
      if (this.tools.parentElement !== document.body) document.body.append(this.tools);
      return;
    }
    this.stopAt(item);
    const isMine = row.user === this.room.me;
    this.own[0].hidden = !isMine || row.kind !== "text";
    this.own[1].hidden = !isMine;
    if (this.tools.parentElement !== item) item.append(this.tools);
    item.classList.add("open");
    if (item.offsetTop - this.scroller.scrollTop < 24) item.classList.add("low");
  }

  key(event) {
    const { target, key } = event;
    if (key === "Escape") this.act("write");
    if (!target.classList.contains("msg")) return;
    const items = [...this.list.querySelectorAll(".msg")];
    const at = items.indexOf(target);
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: items.length - 1 }[key];
    if (to === undefined) return;
    event.preventDefault();
    const next = items[clamp(to, 0, items.length - 1)];
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  }
}
