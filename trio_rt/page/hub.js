// A connection to the hub, and the rooms on it.

import { connect } from "./trio-rt.js";
import { Room } from "./room.js";
import { tried } from "./text.js";

const now = () => performance.now();

export class Hub {
	/** `changed(notice)` is called as for a room. */
	constructor(url, { name, token, changed }) {
		Object.assign(this, { name, changed, rooms: new Map(), state: { phase: "connecting" } });
		this.conn = connect(url, token ? { token } : {});
		this.watch();
		this.listen(null, "hub.done", "hub.refused").catch(() => {}); // the states say why
		this.timer = setInterval(() => this.rooms.forEach((room) => room.tick(now())), 1000);
	}

	get isUp() {
		return this.state.phase === "connected";
	}

	/** It will not come back by itself. */
	get isOver() {
		return ["failed", "disconnected"].includes(this.state.phase);
	}

	/** How many own messages are not stored yet. */
	get queued() {
		return [...this.rooms.values()].reduce((sum, room) => sum + room.waiting, 0);
	}

	/** A member of this room, from when there is a link. */
	join(name) {
		if (this.rooms.has(name)) return this.rooms.get(name);
		const room = new Room(name, {
			ask: (type, payload) => this.send(type, payload),
			changed: this.changed,
			newId: () => crypto.getRandomValues(new Uint8Array(16)).reduce((id, n) => id + n.toString(36), ""),
		});
		this.rooms.set(name, room);
		this.listen(room, `room:${name}`).catch(() => {});
		if (this.isUp) room.up(now());
		return room;
	}

	leave(name) {
		const room = this.rooms.get(name);
		this.rooms.delete(name);
		room.stream.return();
		if (this.isUp && room.joined) this.send("hub.leave", { room: name });
	}

	setName(name) {
		this.name = name;
		if (name && this.isUp) this.profile = this.send("chat.profile", { name });
	}

	close() {
		clearInterval(this.timer);
		this.conn.close(0);
	}

	/** The id of what is sent, or "" where it cannot be. */
	send(type, payload) {
		return tried(() => this.conn.send(type, payload).id) ?? "";
	}

	async watch() {
		for await (const state of this.conn.states()) {
			this.state = state;
			if (this.isUp && !state.resumed) this.setName(this.name);
			for (const room of this.rooms.values()) this.isUp ? room.up(now()) : room.down();
		}
	}

	async listen(room, ...types) {
		const stream = this.conn.subscribe(...types);
		if (room) room.stream = stream;
		for await (const { kind, payload } of stream) {
			if (kind !== "message") room?.lost(now());
			else if (room) room.take(payload, now());
			else this.answered(payload);
		}
	}

	answered(event) {
		const { re, kind, text } = event ?? {};
		if (re === this.profile && kind === "refused") this.changed(`The name was not taken: ${text}`);
		for (const room of this.rooms.values()) if (room.asked(re)) room.take(event, now());
	}
}
