// Uploads by tus 1.0: in pieces, each of which can be lost and sent again.
// https://tus.io/protocols/resumable-upload

const PIECE = 256 * 1024;
const TRIES = 12;
const NO_FILES = "This server takes no files.";
const WHY = {
  401: "Files can be sent by users with a token only.",
  403: "Files cannot be sent from this page.",
  404: NO_FILES,
  405: NO_FILES,
  413: "The file is too large.",
  415: "Files of this type are not taken.",
  507: "The server has no room for the file.",
};
const PASSING = new Set([408, 409, 423, 429, 460, 500, 502, 503, 504]);

class Refusal extends Error {}

/**
 * Send a file; returns `{path, name, size, type}` as the server has it.
 * `progress(sent, total)` is told after each piece. Throws an Error with a text for people;
 * an aborted `signal` throws its reason, and gives the upload up.
 */
export async function upload(file, { token = "", base = "/files", progress = () => {}, signal }) {
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
    const headers = await call("POST", base, { "Upload-Length": size, "Upload-Metadata": about });
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
        await pause(Math.min(10_000, 250 * 2 ** tries), signal);
      }
    }
    return stored;
  } catch (error) {
    if (signal?.aborted && place) call("DELETE", place, {}, { signal: undefined }).catch(() => {});
    throw error;
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

function metadata(header) {
  const told = {};
  for (const pair of header.split(",")) {
    const [key, value = ""] = pair.trim().split(" ");
    try {
      told[key] = new TextDecoder().decode(Uint8Array.from(atob(value), (c) => c.charCodeAt(0)));
    } catch {
      // not Base64: as if it were not there
    }
  }
  return told;
}
