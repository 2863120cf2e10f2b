// What can be done with a message: one toolbar, which goes to the message that is used.

import { $, el, icon } from "./dom.js";

const QUICK = ["👍", "❤️", "😂"];
const MORE = ["🎉", "😮", "😢", "🙏", "👀", "✅", "🔥", "👎"];

export class Tools {
  /** `act(name, row, more)` is called for what is chosen. */
  constructor(act) {
    const bar = $("tools");
    const tool = (title, inside, onclick) => el("button", { title, onclick, "aria-label": title }, inside);
    const done = (...what) => () => act(what[0], bar.closest(".msg").row, what[1]);
    const react = (emoji) => tool(`React with ${emoji}`, emoji, done("react", [emoji, true]));
    this.bar = bar;
    this.more = el("span.pick", {}, ...MORE.map(react));
    this.toggle = tool("More reactions", icon("smile"), () => this.unfold(this.more.hidden));
    this.edit = tool("Edit", icon("edit"), done("edit"));
    this.remove = tool("Delete", icon("trash"), done("delete"));
    this.remove.className = "danger";
    const reply = tool("Reply", icon("reply"), done("reply"));
    bar.append(...QUICK.map(react), this.toggle, reply, this.edit, this.remove, this.more);
    this.unfold(false);
  }

  unfold(isOpen) {
    this.more.hidden = !isOpen;
    this.toggle.setAttribute("aria-expanded", isOpen);
  }

  /** Go to this message; null: nowhere. */
  moveTo(item, isMine, isAtTop) {
    const { bar } = this;
    bar.parentElement.classList.remove("open", "low");
    bar.hidden = !item;
    this.edit.hidden = !isMine || item?.row.kind !== "text";
    this.remove.hidden = !isMine;
    const place = item ?? document.body;
    if (bar.parentElement !== place) place.append(bar);
    item?.classList.add("open", ...(isAtTop ? ["low"] : []));
  }
}
