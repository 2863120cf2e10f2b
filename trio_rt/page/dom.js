// Elements of the page: made here and nowhere else, and never from markup.

import * as text from "./text.js";

const ICONS = {
	menu: "M4 7h16M4 12h16M4 17h16",
	people: "M9 4.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 1 0 0-7M2.5 20c0-8 13-8 13 0M16 5a3.5 3.5 0 0 1 0 6M18 14.5c2 1 3.5 3 3.5 5.5",
	send: "M5 12h13M12 5.5l6.5 6.5-6.5 6.5",
	clip: "M19.5 11.5l-7.8 7.8a4.8 4.8 0 0 1-6.8-6.8l8.1-8.1a3.2 3.2 0 0 1 4.5 4.5l-8 8a1.6 1.6 0 0 1-2.3-2.3l7.3-7.2",
	close: "M6 6l12 12M18 6L6 18",
	plus: "M12 5v14M5 12h14",
	reply: "M9 6l-5 5 5 5M4.5 11H14c3.5 0 6 2.5 6 7",
	edit: "M4 20l1-4.5L16 4.5l3.5 3.5L8.5 19z",
	trash: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13",
	file: "M7 3.5h7l4 4V20.5H7zM14 3.5v4h4",
	down: "M12 5v13M6 12.5l6 6 6-6",
	clock: "M12 3.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 1 0 0-17M12 7.5V12l3 2",
};

export const $ = (id) => document.getElementById(id);

/**
 * An element, such as `li.note`; `props` are properties, and attributes where they have a dash.
 * Children that are falsy are left out.
 */
export function el(kind, props = {}, ...children) {
	const [tag, ...classes] = kind.split(".");
	const made = Object.assign(document.createElement(tag), { className: classes.join(" ") });
	for (const [name, value] of Object.entries(props)) {
		if (value === undefined) continue;
		if (name.includes("-")) made.setAttribute(name, value);
		else made[name] = value;
	}
	made.append(...children.filter(Boolean));
	return made;
}

export function icon(name) {
	const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
	svg.setAttribute("aria-hidden", "true");
	svg.setAttribute("viewBox", "0 0 24 24");
	path.setAttribute("d", ICONS[name]);
	svg.append(path);
	return svg;
}

for (const node of document.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));

/** The round picture of a user. */
export function face(user, name, avatar = "") {
	const path = text.ownFile(avatar, location.origin);
	const letter = avatar && avatar.length < 9 && !avatar.includes("/") ? text.cleanName(avatar) : text.initial(name);
	const inside = path ? el("img", { src: path, alt: "", loading: "lazy" }) : letter;
	return el(`span.face.c${text.hue(user)}`, { "aria-hidden": "true" }, inside);
}

/** A text that is written only if it is another one. */
export const put = (node, shown) => {
	if (node.textContent !== shown) node.textContent = shown;
};
