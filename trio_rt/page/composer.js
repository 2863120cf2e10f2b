// The field in which messages are written, answered and changed.

import { $, put } from "./dom.js";
import { quoted } from "./message.js";
import * as text from "./text.js";

const CONTENT_BYTES = 16384;
const NOTICE_MS = 8000;

export class Composer {
	#timer = null;

	/** `say(type, payload)` says something in `room`, which is set by `open()`. */
	constructor(say) {
		const field = $("text");
		Object.assign(this, { say, field, room: null, context: null });
		$("composer").addEventListener("submit", (event) => (event.preventDefault(), this.send()));
		$("context-off").addEventListener("click", () => this.about(null));
		field.addEventListener("input", () => this.typed());
		field.addEventListener("keydown", (event) => this.pressed(event));
		field.addEventListener("blur", () => this.room?.types(false));
	}

	/** Write in this room; what was written in the last one is kept there. */
	open(room) {
		this.about(null);
		if (this.room) this.room.draft = this.field.value;
		this.room?.types(false);
		this.room = room;
		this.field.value = room.draft ?? "";
		this.grow();
	}

	/** Write about a message: `{kind: "reply" or "edit", row}`; null for about none. */
	about(context) {
		const { room, field } = this;
		if (this.context?.kind === "edit") field.value = "";
		this.context = context;
		$("context").hidden = !context;
		if (context) {
			const { kind, row } = context;
			const words = `Reply to ${quoted(room, row.offset)}`;
			put($("context-text"), kind === "edit" ? "Editing your message" : words);
			if (kind === "edit") field.value = room.contentOf(row);
			field.focus();
		}
		this.grow();
	}

	notice(shown) {
		put($("notice"), shown);
		clearTimeout(this.#timer);
		this.#timer = setTimeout(put, NOTICE_MS, $("notice"), "");
	}

	send() {
		const content = text.cleanText(this.field.value).trim();
		const over = text.bytesOf(content) - CONTENT_BYTES;
		if (over > 0) this.notice(`That is too long by ${over} bytes.`);
		if (!content || over > 0 || !this.room) return;
		const { kind, row } = this.context ?? {};
		if (kind === "edit") this.say("edit", { target: row.offset, content });
		else this.say("text", { content, reply: row?.offset });
		this.field.value = "";
		this.about(null);
		this.notice("");
	}

	grow() {
		const { field } = this;
		field.style.height = "auto";
		field.style.height = `${field.scrollHeight}px`;
		$("send").disabled = !field.value.trim();
	}

	typed() {
		this.grow();
		this.room?.types(this.field.value !== "" && this.context?.kind !== "edit", performance.now());
	}

	pressed(event) {
		const { key, shiftKey, isComposing } = event;
		const { field, room } = this;
		if (key === "Enter" && !shiftKey && !isComposing) {
			event.preventDefault();
			this.send();
		} else if (key === "Escape") this.about(null);
		else if (key === "ArrowUp" && !field.value) {
			const isOwn = (row) => row.user === room.me && row.kind === "text" && !room.isDeleted(row.offset);
			const row = room.rows.findLast(isOwn);
			if (!row) return;
			event.preventDefault();
			this.about({ kind: "edit", row });
		}
	}
}
