// A room of the hub as one client knows it: pure, without time, network or page of its own.
//
// Goal: every message of the log once and in order, and every message of one's own in it
// once, over lost links and lost sessions.
//
// The rule: only offsets count. `low` to `cursor` is held without a hole; what comes beyond
// the next offset waits in `kept` until a page of the log has brought what is between.
// What was said about a message (edits, deletions, reactions) is kept by its offset, the
// newest word for each, so that it does not matter in which order pages bring it.
// Own messages are published one at a time, with an id, until they are answered; after a
// lost session only when the log has been followed to its end, and they were not in it.

import { cleanName } from "./text.js";

export const KINDS = ["text", "image", "file"];
const PAGE = 100;
const KEPT = 1000; // live messages beyond a hole
const HELD = 1000; // messages, while nobody reads old ones
const HELD_MOST = 10000;
const TARGETS = 20000; // messages with something said about them
const TYPISTS = 200;
const TYPING_EVERY_MS = 3000;
const TYPING_HOLDS_MS = 6000;
const PASSING = new Set(["too_fast", "unavailable"]);

const timeOf = ({ at }) => Math.min(Math.max(Number(at) || 0, 0), 8.64e15);

/** A row of `rows` is `{offset, id, user, kind, content, at, reply, meta, rev}`. */

export class Room {
  /**
   * `ask(type, payload)` sends a command and returns its id. `changed(what)` is told after
   * each change: "rows", "members", "typing", "pending", "state".
   */
  constructor(name, { ask, changed, newId }) {
    this.name = name;
    this.ask = ask;
    this.changed = changed;
    this.newId = newId;
    this.connected = false;
    this.joined = false;
    this.refused = null; // why it will never be joined
    this.notice = ""; // why the last change of a message was refused
    this.mine = new Set(); // users that one has been: a guest is another one in each session
    this.me = "";
    this.epoch = "";
    this.first = 1;
    this.cursor = 0;
    this.head = 0;
    this.low = 1;
    this.rows = [];
    this.rowAt = new Map();
    this.about = new Map(); // offset -> {edit, deleted, reactions}
    this.kept = new Map();
    this.pending = []; // {id, type, payload, state, at, failure}
    this.members = new Map();
    this.count = 0;
    this.names = new Map();
    this.typists = new Map();
    this.readTo = 0;
    this.marked = 0;
    this.isRead = false; // somebody reads old messages: nothing is forgotten
    this.answers = new Map();
    this.busy = new Set(); // which of join, page, older, publish, mark is under way
    this.syncTo = 0;
    this.doubt = false;
    this.retryAt = 0;
    this.tries = 0;
    this.typedAt = -Infinity;
    this.fresh = true;
  }

  get behind() {
    return this.doubt || this.cursor < this.head;
  }

  get hasOlder() {
    return this.low > this.first && this.rows.length < HELD_MOST;
  }

  get unread() {
    let count = 0;
    for (let i = this.rows.length - 1; i >= 0 && this.rows[i].offset > this.readTo; i -= 1) {
      const row = this.rows[i];
      count += row.kind !== "moderation" && !this.mine.has(row.user) && !this.isDeleted(row.offset);
    }
    return count;
  }

  get typing() {
    return [...new Set([...this.typists.keys()].map((key) => key.split("\n")[0]))].filter(
      (user) => !this.mine.has(user),
    );
  }

  /** Own messages that are on their way, or failed. */
  get sayings() {
    return this.pending.filter((each) => KINDS.includes(each.type));
  }

  /** How many own words are not stored yet. */
  get waiting() {
    return this.pending.filter((each) => each.state !== "failed").length;
  }

  /** What is under way about a message, in words. */
  changesOf(offset) {
    const words = { edit: "saving…", delete: "deleting…" };
    const change = this.pending.find((each) => each.payload.target === offset && words[each.type]);
    return change ? words[change.type] : "";
  }

  nameOf(user) {
    return this.names.get(user) || user;
  }

  call(user, name) {
    this.names.set(user, name);
    if (this.names.size > TARGETS) this.names.delete(this.names.keys().next().value);
  }

  isDeleted(offset) {
    return this.about.get(offset)?.deleted ?? false;
  }

  contentOf(row) {
    return this.about.get(row.offset)?.edit?.content ?? row.content;
  }

  /** `[reaction, users]` of a message, most used first. */
  reactionsOf(offset) {
    const found = [];
    for (const [reaction, users] of this.about.get(offset)?.reactions ?? []) {
      const on = [...users].filter(([, [, isOn]]) => isOn).map(([user]) => user);
      if (on.length) found.push([reaction, on]);
    }
    return found.sort((a, b) => b[1].length - a[1].length);
  }

  // The link

  /** A link is there: what waits may go. */
  up(now) {
    this.connected = true;
    this.pump(now);
  }

  down() {
    this.connected = false;
    if (this.typists.size) {
      this.typists.clear();
      this.changed("typing");
    }
    this.changed("state");
  }

  /** The hub knows no more of this client, or answers were lost. */
  lost(now) {
    this.joined = false;
    this.answers.clear();
    this.busy.clear();
    this.unsend();
    this.typists.clear();
    this.marked = 0;
    this.changed("state");
    this.pump(now);
  }

  /** To be called each second: words that are over, commands that are to be tried again. */
  tick(now) {
    const before = this.typists.size;
    for (const [key, until] of this.typists) if (until <= now) this.typists.delete(key);
    if (this.typists.size !== before) this.changed("typing");
    this.pump(now);
  }

  /** Send whatever is due. */
  pump(now) {
    if (!this.connected || this.refused || now < this.retryAt) return;
    if (!this.joined) {
      this.command("join", "hub.join", {}, (done) => this.enter(done));
      return;
    }
    if (this.behind) this.askPage();
    if (this.readTo > this.marked && this.epoch) {
      const offset = this.readTo;
      const body = { offset, epoch: this.epoch };
      this.command("mark", "hub.mark", body, () => (this.marked = offset), () => (this.marked = offset));
    }
    const next = this.pending.find((each) => each.state === "queued");
    if (next && this.cursor >= this.syncTo && !this.doubt) this.publish(next);
  }

  command(kind, type, body, then, refuse) {
    if (this.busy.has(kind)) return;
    this.busy.add(kind);
    const id = this.ask(type, { room: this.name, ...body });
    if (!id) this.busy.delete(kind); // there is no room for it; the next tick tries again
    else this.answers.set(id, { kind, then, refuse });
  }

  askPage() {
    const body = { limit: PAGE };
    if (!this.doubt) body.after = this.cursor;
    const denied = () => Object.assign(this, { cursor: this.head, doubt: false });
    this.command("page", "hub.history", body, (done) => this.page(done), denied);
  }

  /** Ask for what is before that which is held. */
  older(now) {
    if (!this.joined || !this.connected || !this.hasOlder || this.busy.has("older")) return;
    if (now < this.retryAt) return;
    const body = { before: this.low, epoch: this.epoch, limit: PAGE };
    const denied = () => (this.first = this.low);
    this.command("older", "hub.history", body, (done) => this.olderPage(done), denied);
  }

  // What one says

  /** Say something; it is there at once, as queued. Returns its id. */
  publishLater(type, payload, now, at) {
    const each = { id: this.newId(), type, payload, state: "queued", at, failure: "" };
    if (this.refused) Object.assign(each, { state: "failed", failure: this.refused.text });
    this.pending.push(each);
    this.typedAt = -Infinity;
    this.changed(KINDS.includes(type) ? "pending" : "rows");
    this.pump(now);
    return each.id;
  }

  retry(id, now) {
    const each = this.pending.find((one) => one.id === id);
    if (!each || each.state !== "failed") return;
    Object.assign(each, { state: "queued", failure: "" });
    this.pending = [...this.pending.filter((one) => one !== each), each];
    this.changed("pending");
    this.pump(now);
  }

  /** Take one's own message back; false if it is on its way. */
  dismiss(id) {
    const each = this.pending.find((one) => one.id === id);
    if (!each || each.state === "sent") return false;
    this.forget(each);
    return true;
  }

  forget(each) {
    this.pending = this.pending.filter((one) => one !== each);
    this.changed("pending");
    if (!KINDS.includes(each.type)) this.touch(each.payload.target);
  }

  publish(each) {
    if (this.busy.has("publish")) return;
    const payload = { ...each.payload };
    const name = each.plain ? "" : (this.members.get(this.me)?.name ?? "");
    if (KINDS.includes(each.type) && name) payload.name = name;
    const body = { type: each.type, payload, id: each.id };
    this.command("publish", "hub.publish", body, (done) => this.stored(each, done), (no) => this.failed(each, no));
    if (!this.busy.has("publish")) return;
    each.state = "sent";
    this.changed("pending");
  }

  /** What has no answer is to be published again. */
  unsend() {
    for (const each of this.pending) if (each.state === "sent") each.state = "queued";
    this.changed("pending");
  }

  stored(each, done) {
    const isHere = done.epoch === this.epoch && done.offset <= this.cursor;
    if (isHere) this.forget(each);
    else each.offset = done.offset; // its message comes, too
  }

  failed(each, refusal) {
    if (refusal.code === "forged_name" && !each.plain) {
      Object.assign(each, { plain: true, state: "queued" });
    } else if (KINDS.includes(each.type)) {
      Object.assign(each, { state: "failed", failure: refusal.text || refusal.code });
    } else {
      this.notice = refusal.text || refusal.code;
      this.forget(each);
      this.changed("notice");
    }
    this.changed("pending");
  }

  /** The user types: told at most every 3 s. */
  keystroke(now) {
    if (!this.connected || !this.joined || now - this.typedAt < TYPING_EVERY_MS) return;
    this.typedAt = now;
    this.tellTyping(true);
  }

  /** The user types no more, and has said nothing. */
  stopTyping() {
    if (this.typedAt !== -Infinity && this.connected && this.joined) this.tellTyping(false);
    this.typedAt = -Infinity;
  }

  tellTyping(on) {
    const body = { room: this.name, type: "typing", payload: { on }, to: "others", store: false };
    this.ask("hub.publish", body);
  }

  /** All up to here is read. */
  read(offset, now) {
    if (offset <= this.readTo) return;
    this.readTo = offset;
    this.changed("state");
    this.pump(now);
  }

  // What the hub says

  take(event, now) {
    if (event === null || typeof event !== "object") return;
    switch (event.kind) {
      case "done":
      case "refused":
        this.answered(event, now);
        break;
      case "message":
      case "own":
        this.live(event, now);
        break;
      case "presence":
        this.presence(event);
        break;
      case "mark":
        if (event.user === this.me) this.read(event.offset, now);
        break;
      case "room":
        this.look(event);
        break;
      case "removed":
        this.refuse(event);
        break;
    }
    this.pump(now);
  }

  answered(event, now) {
    const answer = this.answers.get(event.re);
    if (!answer) {
      if (event.kind === "refused" && !event.re) this.lost(now);
      return;
    }
    this.answers.delete(event.re);
    this.busy.delete(answer.kind);
    if (event.kind === "done") {
      this.tries = 0;
      answer.then(event);
    } else if (PASSING.has(event.code)) {
      this.tries += 1;
      this.retryAt = now + Math.min(30000, 500 * 2 ** this.tries);
      this.unsend();
    } else if (event.code === "foreign_epoch") {
      this.doubt = true;
    } else if (event.code === "not_joined") {
      this.joined = false;
      this.unsend();
    } else if (answer.refuse) {
      answer.refuse(event);
    } else {
      this.refuse(event);
    }
  }

  refuse(event) {
    this.joined = false;
    this.refused = { code: event.code ?? "", text: event.text ?? "" };
    for (const each of this.pending) {
      if (each.state !== "failed") Object.assign(each, { state: "failed", failure: this.refused.text });
    }
    this.members.clear();
    this.changed("state");
  }

  enter(done) {
    this.joined = true;
    this.me = done.user ?? "";
    this.mine.add(this.me);
    if (this.fresh) {
      this.fresh = false;
      this.begin(done);
      this.readTo = done.marks?.[this.me] ?? this.cursor;
      this.marked = this.readTo;
    }
    this.syncTo = 0;
    this.look(done);
    this.syncTo = this.epoch === done.epoch ? this.head : 0;
    this.changed("state");
    if (!this.rows.length) this.older(Infinity);
  }

  begin({ epoch = "", first = 1, last = 0 }) {
    Object.assign(this, { epoch, first, cursor: last, head: last, low: last + 1, doubt: false });
    this.readTo = 0;
    this.syncTo = 0;
    this.pending = this.pending.filter((each) => !each.offset);
    this.rows = [];
    this.rowAt.clear();
    this.about.clear();
    this.kept.clear();
    this.changed("rows");
  }

  /** How the room is. */
  look(event) {
    if (event.epoch === this.epoch) {
      this.first = Math.max(this.first, event.first ?? 1);
      this.head = Math.max(this.head, event.last ?? 0);
    } else this.doubt = true;
    this.members.clear();
    this.count = event.count ?? 0;
    this.presence({ joined: event.members });
    this.count = event.count ?? this.members.size;
  }

  presence({ joined = [], left = [] }) {
    for (const member of joined) {
      const name = cleanName(member.info?.name);
      this.members.set(member.user, {
        name: member.info?.name ?? "",
        status: member.info?.status === "away" ? "away" : "online",
        avatar: String(member.info?.avatar ?? ""),
      });
      if (name) this.call(member.user, name);
    }
    for (const user of left) {
      this.members.delete(user);
      for (const key of this.typists.keys()) if (key.startsWith(`${user}\n`)) this.typists.delete(key);
    }
    if (joined.length + left.length) this.count = this.members.size;
    this.changed("members");
    if (left.length) this.changed("typing");
  }

  live(event, now) {
    if (!event.offset) {
      this.passing(event, now);
    } else if (event.epoch !== this.epoch) {
      this.doubt = !this.fresh;
    } else {
      this.head = Math.max(this.head, event.offset);
      if (event.offset > this.cursor + 1) this.keep(event);
      else this.next(event);
    }
  }

  keep(event) {
    this.kept.set(event.offset, event);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
  }

  next(event) {
    if (event.offset <= this.cursor) return;
    this.cursor = event.offset;
    this.fold(event);
    this.unkeep();
    this.trim();
  }

  unkeep() {
    let event;
    while ((event = this.kept.get(this.cursor + 1))) {
      this.kept.delete(event.offset);
      this.cursor = event.offset;
      this.fold(event);
    }
  }

  /** The page after the cursor; or, in doubt, the last one. */
  page({ epoch, first = 1, last = 0, items = [] }) {
    if (epoch !== this.epoch) {
      this.begin({ epoch, first, last: (items[0]?.offset ?? last + 1) - 1 });
    } else if (this.doubt) {
      this.doubt = false;
      return;
    }
    this.first = Math.max(this.first, first);
    this.head = Math.max(this.head, last);
    for (const item of items) {
      if (item.offset > this.cursor) {
        this.cursor = item.offset;
        this.fold(item);
      }
    }
    if (!items.length) this.cursor = Math.max(this.cursor, last); // all of it is gone
    this.unkeep();
    this.trim();
    this.pending = this.pending.filter((each) => !(each.offset && each.offset <= this.cursor));
    this.changed("pending");
  }

  olderPage({ epoch, first = 1, items = [] }) {
    if (epoch !== this.epoch) return;
    this.first = Math.max(this.first, first);
    const older = [];
    for (const item of items) if (item.offset < this.low) this.fold(item, older);
    this.rows = [...older, ...this.rows];
    this.low = Math.max(this.first, Math.min(this.low, items[0]?.offset ?? this.first));
    this.changed("rows");
    // A page may have nothing to be seen in it.
    if (older.length < 20 && this.rows.length < 50) this.older(Infinity);
  }

  /** Forget the oldest: messages that nobody reads. */
  trim() {
    const most = this.isRead ? HELD_MOST * 1.2 : HELD * 1.2;
    if (this.rows.length <= most) return;
    const gone = this.rows.splice(0, this.rows.length - (this.isRead ? HELD_MOST : HELD));
    for (const row of gone) this.rowAt.delete(row.offset);
    this.low = this.rows[0].offset;
  }

  passing(event, now) {
    if (event.kind !== "message" || event.type !== "typing" || this.mine.has(event.user)) return;
    const key = `${event.user}\n${event.device}`;
    const isNew = !this.typists.delete(key);
    if (event.payload?.on === true) {
      this.typists.set(key, now + TYPING_HOLDS_MS);
      if (this.typists.size > TYPISTS) this.typists.delete(this.typists.keys().next().value);
    }
    if (isNew || !event.payload?.on) this.changed("typing");
  }

  /** One message of the log; a row goes to the end of `rows`. */
  fold(event, rows = this.rows) {
    const { type, payload, offset } = event;
    if (event.id) this.echoed(event.id);
    if (this.typists.delete(`${event.user}\n${event.device}`)) this.changed("typing");
    if (payload === null || typeof payload !== "object") return;
    if (KINDS.includes(type)) this.said(event, rows);
    else if (type === "moderation" && typeof payload.user === "string") this.decided(event, rows);
    else if (Number.isSafeInteger(payload.target) && payload.target < offset) this.amend(event);
  }

  echoed(id) {
    const each = this.pending.find((one) => one.id === id);
    if (!each) return;
    if (each.state === "sent" && !each.offset) {
      for (const [re, answer] of this.answers) if (answer.kind === "publish") this.answers.delete(re);
      this.busy.delete("publish");
    }
    this.forget(each);
  }

  said(event, rows) {
    const { payload, user, offset } = event;
    if (typeof payload.content !== "string" || typeof user !== "string") return;
    const name = cleanName(payload.name);
    if (name && !this.members.has(user)) this.call(user, name);
    this.add(rows, {
      offset,
      id: event.id ?? "",
      user,
      kind: event.type,
      content: payload.content,
      at: timeOf(event),
      reply: Number.isSafeInteger(payload.reply) ? payload.reply : 0,
      meta: payload.metadata && typeof payload.metadata === "object" ? payload.metadata : {},
      rev: 0,
    });
  }

  decided({ payload, offset, at, user }, rows) {
    const row = { offset, id: "", user: user ?? "", kind: "moderation", content: "", reply: 0 };
    this.add(rows, { ...row, at: timeOf({ at }), meta: payload, rev: 0 });
  }

  add(rows, row) {
    rows.push(row);
    this.rowAt.set(row.offset, row);
    this.changed("rows");
  }

  amend({ type, payload, user, offset, at }) {
    const { target } = payload;
    const about = this.about.get(target) ?? { edit: null, deleted: false, reactions: new Map() };
    if (type === "delete") {
      about.deleted = true;
    } else if (type === "edit" && typeof payload.content === "string") {
      if (!about.edit || about.edit.offset < offset) about.edit = { offset, content: payload.content, at };
    } else if (type === "react" && typeof payload.reaction === "string") {
      const users = about.reactions.get(payload.reaction) ?? new Map();
      if (!(users.get(user)?.[0] > offset)) users.set(user, [offset, payload.on !== false]);
      about.reactions.set(payload.reaction, users);
    } else return;
    this.about.delete(target);
    this.about.set(target, about);
    if (this.about.size > TARGETS) this.about.delete(this.about.keys().next().value);
    this.touch(target);
  }

  touch(target) {
    const row = this.rowAt.get(target);
    if (!row) return;
    row.rev += 1;
    this.changed("rows");
  }
}
