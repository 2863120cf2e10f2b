// Uploads by tus 1.0: in pieces, each of which can be lost and sent again.
// https://tus.io/protocols/resumable-upload

const PIECE = 256 * 1024;
const TRIES = 12;
const WHY = {
  401: "Files can be sent by users with a token only.",
  403: "Files cannot be sent from this page.",
  404: "This server takes no files.",
  405: "This server takes no files.",
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
  const one = new Upload(file, { token, base, progress, signal });
  try {
    return await one.run();
  } catch (error) {
    if (signal?.aborted) one.giveUp();
    throw error;
  }
}

class Upload {
  constructor(file, { token, base, progress, signal }) {
    Object.assign(this, { file, token, base, progress, signal });
    this.place = "";
    this.offset = 0;
    this.stored = null;
    this.tries = 0;
  }

  async run() {
    while (!this.stored) {
      try {
        await this.step();
        this.tries = 0;
      } catch (error) {
        if (error instanceof Refusal || this.signal?.aborted) throw error;
        this.tries += 1;
        if (this.tries >= TRIES) throw new Error("The server cannot be reached.");
        await pause(Math.min(10000, 250 * 2 ** this.tries), this.signal);
        await this.look().catch((late) => {
          if (late instanceof Refusal) throw late;
        });
      }
    }
    return this.stored;
  }

  async step() {
    if (!this.place) {
      const length = String(this.file.size);
      const answer = await this.call("POST", this.base, { "Upload-Length": length, "Upload-Metadata": this.about() });
      const place = new URL(answer.headers.get("Location") ?? "", location.href);
      if (place.origin !== location.origin) throw new Refusal("The server named another place.");
      this.place = place.pathname;
      this.take(answer);
      return;
    }
    const piece = this.file.slice(this.offset, this.offset + PIECE);
    const headers = { "Upload-Offset": String(this.offset), "Content-Type": "application/offset+octet-stream" };
    this.take(await this.call("PATCH", this.place, headers, piece));
  }

  async look() {
    if (this.place) this.take(await this.call("HEAD", this.place, {}));
  }

  take(answer) {
    this.offset = Number(answer.headers.get("Upload-Offset") ?? this.offset);
    this.progress(this.offset, this.file.size);
    const path = answer.headers.get("Content-Location");
    if (!path) return;
    const told = metadata(answer.headers.get("Upload-Metadata") ?? "");
    const { name, size, type } = this.file;
    this.stored = { path, name: told.filename || name, size, type: told.filetype || type };
  }

  about() {
    const pairs = [["filename", this.file.name]];
    if (this.file.type) pairs.push(["filetype", this.file.type]);
    return pairs.map(([key, value]) => `${key} ${base64(value)}`).join(",");
  }

  async call(method, path, headers, body) {
    const all = { "Tus-Resumable": "1.0.0", ...headers };
    if (this.token) all.Authorization = `Bearer ${this.token}`;
    const answer = await fetch(path, { method, headers: all, body, signal: this.signal, cache: "no-store" });
    if (answer.ok) return answer;
    if (PASSING.has(answer.status)) throw new Error(`HTTP ${answer.status}`);
    throw new Refusal(WHY[answer.status] ?? `The server said ${answer.status}.`);
  }

  giveUp() {
    this.signal = undefined;
    if (this.place) this.call("DELETE", this.place, {}).catch(() => {});
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

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
