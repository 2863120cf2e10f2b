// Texts of strangers, made fit to be shown. What is shown goes into the page as text, never
// as markup; here is what markup has nothing to do with: controls, directions, addresses.

const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\ufff9-\ufffb]/gu;
// Embeddings, overrides and isolates: they turn what stands behind them around.
const DIRECTIONS = /[\u202a-\u202e\u2066-\u2069]/gu;
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const HEAPS = /(\p{M}{6})\p{M}+/gu;
const LINKS = /https?:\/\/[^\s<>"'`\u200b-\u200f\u2028\u2029]{1,2000}/giu;
const BRACKETS = { ")": "(", "]": "[", "}": "{" };

const LONG = 1500;
const LONG_LINES = 24;

/** A name: one line, nothing invisible, of a bounded length. */
export function cleanName(text, most = 64) {
  const clean = String(text ?? "").replace(INVISIBLE, "").replace(/\s+/gu, " ").replace(HEAPS, "$1");
  const letters = [...clean.trim()];
  return letters.length > most ? letters.slice(0, most).join("") + "…" : letters.join("");
}

/** A text of several lines. */
export function cleanText(text) {
  return String(text ?? "")
    .replace(/\r\n?/gu, "\n")
    .replace(CONTROLS, "\ufffd")
    .replace(DIRECTIONS, "")
    .replace(/\p{Cs}/gu, "\ufffd")
    .replace(HEAPS, "$1");
}

/** The beginning of a long text; null if it is not long. */
export function beginning(text) {
  const lines = text.split("\n", LONG_LINES + 1);
  if (text.length <= LONG && lines.length <= LONG_LINES) return null;
  const cut = lines.slice(0, LONG_LINES).join("\n").slice(0, LONG);
  return cut.replace(/[\ud800-\udbff]$/u, "") + " …";
}

/** The address, if it is one that may be opened: http or https, and without a login. */
export function safeLink(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  const isWeb = url.protocol === "http:" || url.protocol === "https:";
  return isWeb && url.hostname && !url.username && !url.password ? url.href : null;
}

/** Where a file of this chat is: a path below /files/ of the page's own origin, or null. */
export function ownFile(content, origin) {
  let url;
  try {
    url = new URL(content, origin);
  } catch {
    return null;
  }
  const isOwn = url.origin === origin && /^\/files\/[0-9a-f]{64}(\/[^/]*)?$/u.test(url.pathname);
  return isOwn ? url.pathname : null;
}

/** The text in parts: `[text, address or null]`. */
export function linked(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(LINKS)) {
    const shown = withoutTail(found[0]);
    const address = safeLink(shown);
    if (address === null) continue;
    if (found.index > end) parts.push([text.slice(end, found.index), null]);
    parts.push([shown, address]);
    end = found.index + shown.length;
  }
  if (end < text.length) parts.push([text.slice(end), null]);
  return parts;
}

function withoutTail(text) {
  let shown = text.replace(/[.,:;!?…]+$/u, "");
  const last = shown.at(-1);
  if (last in BRACKETS && !shown.includes(BRACKETS[last])) shown = shown.slice(0, -1);
  return shown;
}

/** "1.4 MB". */
export function sizeText(bytes) {
  if (!Number.isFinite(bytes) || bytes < 0) return "";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let size = bytes;
  for (; size >= 1000 && unit < units.length - 1; unit += 1) size /= 1000;
  return `${unit && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const YEAR = new Intl.DateTimeFormat(undefined, { dateStyle: "long" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export const timeText = (ms) => show(TIME, ms);
export const fullTime = (ms) => show(FULL, ms);
export const dayKey = (ms) => new Date(ms).toDateString();

/** "Today", "Yesterday", or the day. */
export function dayText(ms, now = Date.now()) {
  if (dayKey(ms) === dayKey(now)) return "Today";
  const yesterday = new Date(now);
  yesterday.setDate(yesterday.getDate() - 1);
  if (dayKey(ms) === dayKey(yesterday)) return "Yesterday";
  return show(new Date(ms).getFullYear() === new Date(now).getFullYear() ? DAY : YEAR, ms);
}

function show(format, ms) {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? "" : format.format(date);
}

/** One of eight colours for a user, always the same. */
export function hue(user) {
  let sum = 0;
  for (const letter of user) sum = Math.imul(sum ^ letter.codePointAt(0), 0x01000193);
  return ((sum ^ (sum >>> 15)) >>> 4) % 8;
}

export const initial = (name) => ([...name].find((c) => /[\p{L}\p{N}]/u.test(c)) ?? "?").toUpperCase();
export const bytesOf = (text) => new TextEncoder().encode(text).length;
