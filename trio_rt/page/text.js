// Texts of strangers, made fit to be shown: controls, directions, addresses. All of it goes
// into the page as text, never as markup.

const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\ufff9-\ufffb]/gu;
// Embeddings, overrides and isolates: they turn what stands behind them around.
const DIRECTIONS = /[\u202a-\u202e\u2066-\u2069]/gu;
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const HEAPS = /(\p{M}{6})\p{M}+/gu;
const LINKS = /https?:\/\/[^\s<>"'`\u200b-\u200f\u2028\u2029]{1,2000}/giu;
const BRACKETS = { ")": "(", "]": "[", "}": "{" };

/** A name: one line, nothing invisible, of a bounded length. */
export function cleanName(text, most = 64) {
	const clean = String(text ?? "").replace(INVISIBLE, "").replace(/\s+/gu, " ").replace(HEAPS, "$1");
	const letters = [...clean.trim()];
	return letters.slice(0, most).join("") + (letters.length > most ? "…" : "");
}

export function cleanText(text) {
	const lines = String(text ?? "").replace(/\r\n?/gu, "\n").replace(DIRECTIONS, "");
	return lines.replace(CONTROLS, "\ufffd").replace(/\p{Cs}/gu, "\ufffd").replace(HEAPS, "$1");
}

/** What is made, or undefined if that throws. */
export function tried(make) {
	try {
		return make();
	} catch {
		return undefined;
	}
}

const parsed = (address, base) => tried(() => new URL(address, base)) ?? {};

/** The address, if it is one that may be opened: http or https, and without a login. */
export function safeLink(text) {
	const { protocol, hostname, username, password, href } = parsed(text);
	return /^https?:$/u.test(protocol) && hostname && !username && !password ? href : null;
}

/** Where a file of this chat is: a path below /files/ of the page's own origin, or null. */
export function ownFile(content, own) {
	const { origin, pathname } = parsed(content, own);
	return origin === own && /^\/files\/[0-9a-f]{64}(\/[^/]*)?$/u.test(pathname) ? pathname : null;
}

/** The text in parts: `[text, address or null]`. */
export function linked(text) {
	const parts = [];
	let end = 0;
	for (const { 0: found, index } of text.matchAll(LINKS)) {
		const shown = withoutTail(found);
		const address = safeLink(shown);
		if (address === null) continue;
		parts.push([text.slice(end, index), null], [shown, address]);
		end = index + shown.length;
	}
	return [...parts, [text.slice(end), null]];
}

function withoutTail(text) {
	const shown = text.replace(/[.,:;!?…]+$/u, "");
	const open = BRACKETS[shown.at(-1)];
	return open && !shown.includes(open) ? shown.slice(0, -1) : shown;
}

/** "1.4 MB". */
export function sizeText(bytes) {
	if (!(bytes >= 0 && bytes < Infinity)) return "";
	const power = Math.min(4, Math.max(0, Math.floor(Math.log10(bytes) / 3)));
	const size = bytes / 1000 ** power;
	return `${size.toFixed(power && size < 10 ? 1 : 0)} ${["bytes", "kB", "MB", "GB", "TB"][power]}`;
}

/** What shows a time in this way; nothing for what is no time. */
function timeFormat(options) {
	const format = new Intl.DateTimeFormat(undefined, options);
	return (ms) => tried(() => format.format(ms)) ?? "";
}

export const timeText = timeFormat({ hour: "2-digit", minute: "2-digit" });
export const fullTime = timeFormat({ dateStyle: "full", timeStyle: "medium" });
const thisYear = timeFormat({ weekday: "long", day: "numeric", month: "long" });
const otherYear = timeFormat({ dateStyle: "long" });

export const dayKey = (ms) => new Date(ms).toDateString();

/** "Today", "Yesterday", or the day. */
export function dayText(ms) {
	const now = new Date();
	const format = new Date(ms).getFullYear() === now.getFullYear() ? thisYear : otherYear;
	if (dayKey(ms) === dayKey(now)) return "Today";
	return dayKey(ms) === dayKey(now.setDate(now.getDate() - 1)) ? "Yesterday" : format(ms);
}

/** One of eight colours for a user, always the same. */
export function hue(user) {
	let sum = 0;
	for (const letter of user) sum = Math.imul(sum ^ letter.codePointAt(0), 0x01000193);
	return ((sum ^ (sum >>> 15)) >>> 4) % 8;
}

export const initial = (name) => ([...name].find((c) => /[\p{L}\p{N}]/u.test(c)) ?? "?").toUpperCase();
export const bytesOf = (text) => new TextEncoder().encode(text).length;
