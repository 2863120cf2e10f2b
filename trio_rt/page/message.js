// One message of a room, as an element of the list.

import { button, el, face, icon } from "./dom.js";
import * as text from "./text.js";

const AWAY = { target: "_blank", rel: "noopener noreferrer" };
const EMOJI = /^\p{Extended_Pictographic}[\p{Extended_Pictographic}\p{M}\u200d\ufe0f]{0,7}$/u;
const MODERATED = { mute: "muted", unmute: "unmuted", ban: "banned", unban: "let in again", role: "now a" };

/**
 * `row` is one of the room, or of one's own without an offset yet. `view` has `isHead` (it
 * begins a group), `waits` (what is under way about it), `isOpen` (all of a long text), and
 * `act(name, row, more)` for what is done with it.
 */
export function messageItem(room, row, view) {
  if (row.kind === "moderation") return moderation(room, row);
  const name = room.nameOf(row.user);
  const gone = row.offset > 0 && room.isDeleted(row.offset);
  const content = gone ? "This message was deleted." : text.cleanText(row.offset ? room.contentOf(row) : row.content);
  const isAct = row.kind === "text" && !gone && content.startsWith("/me ");
  const failed = row.state === "failed";
  const kinds = { head: view.isHead, gone, act: isAct, failed, waits: !row.offset && !failed };
  const classes = Object.keys(kinds).filter((kind) => kinds[kind]).join(" ");
  const item = el("li", { class: `msg c${text.hue(row.user)} ${classes}`, tabIndex: -1, row });
  item.append(...byline(room, row, name, view.isHead, isAct));
  if (gone) item.append(el("p", { class: "body" }, content));
  else {
    if (row.reply) item.append(quote(room, row.reply, view.act));
    item.append(...body(row, content, isAct ? name : "", view));
    const tags = [row.offset && room.about.get(row.offset)?.edit && "edited", view.waits].filter(Boolean);
    if (tags.length) item.append(el("span", { class: "tag" }, tags.join(" · ")));
    item.append(row.offset ? reactions(room, row, view.act) : progress(room, row, view.act));
  }
  return item;
}

/** What of `offset` is quoted, on one line. */
export function quoted(room, offset) {
  const row = room.rowAt.get(offset);
  if (!row) return "An earlier message";
  if (room.isDeleted(offset)) return "A deleted message";
  return `\u2068${room.nameOf(row.user)}\u2069: ${text.cleanName(brief(room, row), 120)}`;
}

/** What is said in a row, or the name of a file. */
export const brief = (room, row) => (row.kind === "text" ? room.contentOf(row) : row.meta.name || "a file");

function byline(room, row, name, isHead, isAct) {
  const props = { dateTime: new Date(row.at).toISOString(), title: text.fullTime(row.at) };
  const time = el("time", { ...props, class: isHead ? "" : "side-time" }, text.timeText(row.at));
  if (!isHead) return [el("span", { class: "sr" }, `${name}: `), time];
  const by = isAct ? null : el("bdi", { class: "name", title: row.user }, name);
  return [face(row.user, name, room.members.get(row.user)?.avatar), el("p", { class: "by" }, by, time)];
}

function body(row, content, actor, view) {
  if (row.kind !== "text") return [file(row, content)];
  const start = view.isOpen ? null : text.beginning(content);
  const made = el("div", { class: EMOJI.test(content) ? "body big" : "body", dir: "auto" });
  if (actor) made.append(el("bdi", {}, actor), " ");
  for (const [part, href] of text.linked((start ?? content).slice(actor ? 4 : 0))) {
    made.append(href ? el("a", { href, title: href, ...AWAY }, part) : part);
  }
  if (start === null || !row.offset) return [made];
  return [made, button({ class: "more", onclick: () => view.act("open", row) }, "Show all of it")];
}

/** An image or another file of the own origin, or a link to one elsewhere. */
function file(row, content) {
  const { meta } = row;
  const path = text.ownFile(content, location.origin);
  const name = text.cleanName(meta.name, 120) || text.cleanName(content, 120);
  if (path && row.kind === "image") return picture(path, name, meta);
  const inside = [icon("file"), el("span", {}, el("bdi", {}, name), el("small", {}, text.sizeText(meta.size)))];
  const href = path ?? text.safeLink(content);
  if (!href) return el("span", { class: "file" }, ...inside);
  return el("a", { class: "file", href, download: path ? name : undefined, ...AWAY }, ...inside);
}

function picture(path, name, { width, height }) {
  const isSized = [width, height].every((n) => Number.isInteger(n) && n > 0 && n < 20000);
  const image = el("img", { src: path, alt: name || "Image", loading: "lazy", ...(isSized ? { width, height } : {}) });
  return el("a", { class: isSized ? "shot sized" : "shot", href: path, ...AWAY }, image);
}

function quote(room, offset, act) {
  const shown = quoted(room, offset);
  if (!room.rowAt.has(offset)) return el("span", { class: "quote" }, shown);
  const onclick = () => act("jump", null, offset);
  return button({ class: "quote", onclick }, el("span", { class: "sr" }, "In reply to "), shown);
}

function reactions(room, row, act) {
  const marks = room.reactionsOf(row.offset).slice(0, 20).map(([reaction, users]) => {
    const isOn = users.includes(room.me);
    const title = users.slice(0, 20).map((user) => room.nameOf(user)).join(", ");
    const shown = text.cleanName(reaction, 16);
    const labels = { "aria-pressed": String(isOn), "aria-label": `${shown} ${users.length}: ${title}` };
    const onclick = () => act("react", row, [reaction, !isOn]);
    return button({ title, onclick, ...labels }, el("bdi", {}, shown), String(users.length));
  });
  return marks.length ? el("div", { class: "marks" }, ...marks) : "";
}

function progress(room, row, act) {
  const choice = (name, label) => button({ onclick: () => act(name, row) }, label);
  if (row.state === "failed") {
    return el("p", { class: "own" }, `Not sent: ${row.failure}`, choice("retry", "Try again"), choice("dismiss", "Dismiss"));
  }
  const isQueued = row.state === "queued";
  const shown = isQueued && !room.connected ? "Waits for the connection" : "Sending…";
  return el("p", { class: "own" }, icon("clock"), shown, isQueued ? choice("dismiss", "Take back") : null);
}

function moderation(room, { meta, at }) {
  const role = meta.action === "role" ? ` ${text.cleanName(meta.role)}` : "";
  const until = meta.until && /^(mute|ban)$/u.test(meta.action) ? ` until ${text.fullTime(Number(meta.until))}` : "";
  const what = Object.hasOwn(MODERATED, meta.action) ? MODERATED[meta.action] : "moderated";
  return el("li", { class: "note", title: text.fullTime(at) }, el("bdi", {}, room.nameOf(meta.user)), ` is ${what}${role}${until}`);
}
