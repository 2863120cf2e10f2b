// Files on their way to the server, by tus 1.0: in pieces, each of which can be lost and sent
// again. https://tus.io/protocols/resumable-upload

import { $, el, icon } from "./dom.js";
import * as text from "./text.js";

const IMAGE = /^image\/(png|jpeg|gif|webp)$/u;
const PIECE = 256 * 1024;
const TRIES = 12;
const WHY = {
	401: "Files can be sent by users with a token only.",
	404: "This server takes no files.",
	405: "This server takes no files.",
	413: "The file is too large.",
	415: "Files of this type are not taken.",
	507: "The server has no room for the file.",
};
const PASSING = new Set([408, 409, 423, 429, 460, 500, 502, 503, 504]);

class Refusal extends Error {}

/** Send a file, as is seen on the page; `say(kind, payload)` says it in the room when it is there. */
export async function attach(file, token, say) {
	const stop = new AbortController();
	const name = text.cleanName(file.name);
	const bar = el("progress", { max: 1, value: 0, "aria-label": `Progress of ${name}` });
	const about = el("small", {}, text.sizeText(file.size));
	const cancel = { "aria-label": `Cancel ${name}`, onclick: () => (stop.abort(), item.remove()) };
	const acts = el("span.acts", {}, el("button.icon.small", cancel, icon("close")));
	const item = el("li.up", {}, icon("file"), el("span.what", {}, el("bdi", {}, name), about), acts, bar);
	const progress = (sent, total) => {
		bar.value = total ? sent / total : 1;
		about.textContent = `${text.sizeText(sent)} of ${text.sizeText(total)}`;
	};
	$("uploads").append(item);
	try {
		// The page is to know an image's place before it has the image; but it may be none.
		const { width, height } = IMAGE.test(file.type) ? await createImageBitmap(file).catch(() => ({})) : {};
		const { path, ...metadata } = await upload(file, token, progress, stop.signal);
		item.remove();
		const kind = IMAGE.test(metadata.type) ? "image" : "file";
		say(kind, { content: path, metadata: { ...metadata, width, height } });
	} catch (error) {
		if (stop.signal.aborted) return;
		const again = () => (item.remove(), attach(file, token, say));
		item.classList.add("bad");
		about.textContent = error.message;
		about.setAttribute("role", "alert");
		bar.remove();
		acts.prepend(el("button.again", { onclick: again }, "Try again"));
	}
}

/** `{path, name, size, type}` as the server has it, or an Error for people; `signal` gives it up. */
async function upload(file, token, progress, signal) {
	const { name, size, type } = file;
	const always = { "Tus-Resumable": "1.0.0", ...(token && { Authorization: `Bearer ${token}` }) };
	let place = "";
	let offset = 0;
	let stored = null;

	async function call(method, path, headers, more) {
		const options = { method, headers: { ...always, ...headers }, cache: "no-store", signal, ...more };
		const answer = await fetch(path, options);
		if (PASSING.has(answer.status)) throw new Error(`HTTP ${answer.status}`);
		if (!answer.ok) throw new Refusal(WHY[answer.status] ?? `The server said ${answer.status}.`);
		return answer.headers;
	}

	function take(headers) {
		offset = Number(headers.get("Upload-Offset") ?? offset);
		progress(offset, size);
		const path = headers.get("Content-Location");
		const told = metadata(headers.get("Upload-Metadata") ?? "");
		if (path) stored = { path, name: told.filename || name, size, type: told.filetype || type };
	}

	async function begin() {
		const about = `filename ${base64(name)}${type && `,filetype ${base64(type)}`}`;
		const headers = await call("POST", "/files", { "Upload-Length": size, "Upload-Metadata": about });
		const { origin, pathname } = new URL(headers.get("Location") ?? "", location.href);
		if (origin !== location.origin) throw new Refusal("The server named another place.");
		place = pathname;
		take(headers);
	}

	async function proceed() {
		const headers = { "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" };
		take(await call("PATCH", place, headers, { body: file.slice(offset, offset + PIECE) }));
	}

	let tries = 0;
	try {
		while (!stored) {
			try {
				if (tries && place) take(await call("HEAD", place));
				if (!stored) await (place ? proceed() : begin());
				tries = 0;
			} catch (error) {
				if (error instanceof Refusal || signal?.aborted) throw error;
				tries += 1;
				if (tries >= TRIES) throw new Error("The server cannot be reached.");
				const pause = Math.min(10_000, 250 * 2 ** tries);
				await new Promise((resolve) => setTimeout(resolve, pause));
			}
		}
		return stored;
	} catch (error) {
		if (signal?.aborted && place) call("DELETE", place, {}, { signal: undefined }).catch(() => {});
		throw error;
	}
}

const base64 = (value) => btoa(String.fromCharCode(...new TextEncoder().encode(value)));

/** What is not Base64 is as if it were not there. */
function metadata(header) {
	const pairs = header.split(",").map((pair) => pair.trim().split(" "));
	const bytes = (value = "") => Uint8Array.from(atob(value), (letter) => letter.charCodeAt(0));
	const read = (value) => text.tried(() => new TextDecoder().decode(bytes(value)));
	return Object.fromEntries(pairs.map(([key, value]) => [key, read(value)]));
}
