// What can be done with a message: one toolbar, which goes to the message that is used.

import { $, button, el, icon } from "./dom.js";

const QUICK = ["👍", "❤️", "😂"];
const MORE = ["🎉", "😮", "😢", "🙏", "👀", "✅", "🔥", "👎"];

export class Tools {
  /** `act(name, row, more)` is called for what is chosen. */
  constructor(act) {
    this.bar = $("tools");
    const done = (name, more) => act(name, this.bar.closest(".msg").row, more);
    const tool = (label, inside, onclick, more) => button({ title: label, onclick, "aria-label": label, ...more }, inside);
    const react = (emoji) => tool(`React with ${emoji}`, emoji, () => done("react", [emoji, true]));
    this.more = el("span", { class: "pick", hidden: true }, ...MORE.map(react));
    this.toggle = tool("More reactions", icon("smile"), () => this.unfold(this.more.hidden));
    this.edit = tool("Edit", icon("edit"), () => done("edit"));
    this.remove = tool("Delete", icon("trash"), () => done("delete"), { class: "danger" });
    const reply = tool("Reply", icon("reply"), () => done("reply"));
    this.bar.append(...QUICK.map(react), this.toggle, reply, this.edit, this.remove, this.more);
    this.unfold(false);
  }

  unfold(isOpen) {
    this.more.hidden = !isOpen;
    this.toggle.setAttribute("aria-expanded", String(isOpen));
  }

  /** Go to this message; null: nowhere. */
  moveTo(item, isMine, isAtTop) {
    this.bar.parentElement.classList.remove("open", "low");
    this.bar.hidden = !item;
    this.edit.hidden = !isMine || item?.row.kind !== "text";
    this.remove.hidden = !isMine;
    const place = item ?? document.body;
    if (this.bar.parentElement !== place) place.append(this.bar);
    item?.classList.add("open", ...(isAtTop ? ["low"] : []));
  }
}
