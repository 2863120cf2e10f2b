// Elements of the page: made here and nowhere else, and never from markup.

import * as text from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An element; `props` are its properties, but for `class`, and attributes where they have a dash. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") made.className = value;
    else if (name.includes("-")) made.setAttribute(name, value);
    else if (value !== undefined) made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const button = (props, ...children) => el("button", { type: "button", ...props }, ...children);

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** The round picture of a user. */
export function face(user, name, avatar = "") {
  const path = text.ownFile(avatar, location.origin);
  const letter = avatar && avatar.length < 9 && !avatar.includes("/") ? text.cleanName(avatar) : text.initial(name);
  const inside = path ? el("img", { src: path, alt: "", loading: "lazy" }) : letter;
  return el("span", { class: `face c${text.hue(user)}`, "aria-hidden": "true" }, inside);
}

/** A text that is written only if it is another one. */
export const put = (node, shown) => {
  if (node.textContent !== shown) node.textContent = shown;
};
