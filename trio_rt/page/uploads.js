// Files on their way to the server, as they are seen on the page.

import { $, el, icon } from "./dom.js";
import { upload } from "./files.js";
import * as text from "./text.js";

const IMAGE = /^image\/(png|jpeg|gif|webp)$/u;

/** Send a file; `say(kind, payload)` says it in the room when it is there. */
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
    const size = await imageSize(file);
    const { path, ...metadata } = await upload(file, { token, progress, signal: stop.signal });
    item.remove();
    say(IMAGE.test(metadata.type) ? "image" : "file", { content: path, metadata: { ...metadata, ...size } });
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

/** So that the page knows an image's place before it has the image. */
async function imageSize(file) {
  if (!IMAGE.test(file.type)) return {};
  try {
    const { width, height } = await createImageBitmap(file);
    return { width, height };
  } catch {
    return {}; // it is none
  }
}
