// The model of a room against a hub of a few lines, with links and sessions that are lost at
// random moments: the list of what went wrong, of many runs with different seeds.
(async () => {
  const { Room } = await import("/room.js");
  const found = [];
  const check = (holds, ...what) => holds || found.push(what.map((each) => (typeof each === "object" ? JSON.stringify(each) : String(each))).join(" "));

  const randomOf = (seed) => () => {
    seed = (seed * 1664525 + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };

  /** A log, and what is on its way to the one client, whose user is another one in each session. */
  class Hub {
    constructor(random) {
      Object.assign(this, { random, epoch: "e0", log: [], first: 1, wire: [], joined: false, user: "guest-1", count: 0 });
    }
    get last() {
      return this.first + this.log.length - 1;
    }
    append(type, payload, user, id) {
      const double = this.log.find((each) => each.id === id && each.user === user);
      if (double) return double.offset;
      const offset = this.last + 1;
      this.log.push({ kind: "message", epoch: this.epoch, offset, id, user, device: "d", type, payload, at: offset });
      if (this.joined && this.random() > 0.02) this.wire.push({ ...this.log.at(-1) });
      else if (this.joined) this.wire.push({ kind: "room", ...this.look() });
      return offset;
    }
    look() {
      return { epoch: this.epoch, first: this.first, last: this.last, members: [{ user: this.user, info: { name: "Me" } }], count: 1 };
    }
    /** A command; its answer goes the same way as all else. */
    take(type, body, re) {
      const say = (more) => this.wire.push({ kind: "done", re, ...more });
      const refuse = (code) => this.wire.push({ kind: "refused", re, code, text: code });
      if (this.random() < 0.03) return refuse("unavailable");
      if (type === "hub.join") {
        this.wire = this.wire.filter((each) => each.re);
        this.joined = true;
        return say({ ...this.look(), user: this.user });
      }
      if (type === "hub.history") {
        if (body.epoch && body.epoch !== this.epoch) return refuse("foreign_epoch");
        const limit = Math.min(body.limit, 1 + Math.floor(this.random() * 20));
        let items = this.log;
        if (body.after !== undefined) items = items.filter((each) => each.offset > body.after).slice(0, limit);
        else items = items.filter((each) => each.offset < (body.before ?? Infinity)).slice(-limit);
        return say({ epoch: this.epoch, first: this.first, last: this.last, items });
      }
      if (!this.joined) return refuse("not_joined");
      if (type === "hub.publish" && body.store !== false) {
        return say({ epoch: this.epoch, offset: this.append(body.type, body.payload, this.user, body.id), id: body.id });
      }
      return say({});
    }
    forget() {
      Object.assign(this, { wire: [], joined: false, user: `guest-${(this.count += 1) + 1}` });
    }
    trim() {
      const gone = Math.floor(this.random() * this.log.length * 0.5);
      this.log.splice(0, gone);
      this.first += gone;
    }
    begin() {
      this.count += 1;
      Object.assign(this, { epoch: `e${this.count}`, log: [], first: 1 });
      if (this.joined) this.wire.push({ kind: "room", ...this.look() });
    }
  }

  function run(seed) {
    const random = randomOf(seed);
    const hub = new Hub(random);
    let clock = 0;
    let asked = 0;
    const commands = [];
    const room = new Room("lobby", {
      ask: (type, body) => (commands.push([type, body, `c${(asked += 1)}`]), `c${asked}`),
      changed: () => {},
      newId: () => `m${(asked += 1)}`,
    });
    for (let n = Math.floor(random() * 300); n > 0; n -= 1) hub.append("text", { content: `old ${n}` }, "ada", `o${n}`);
    room.up(clock);
    const said = [];
    const begins = seed % 3 === 0;
    const step = (isLast) => {
      clock += 100;
      const dice = random();
      if (dice < 0.35 && commands.length) hub.take(...commands.shift());
      else if (dice < 0.7 && hub.wire.length) room.take(hub.wire.shift(), clock);
      else if (dice < 0.75) room.tick(clock);
      else if (isLast) return;
      else if (dice < 0.84) hub.append("text", { content: `n ${clock}` }, "ada", `a${clock}`);
      else if (dice < 0.88) said.push(room.publishLater("text", { content: `mine ${clock}` }, clock, 0));
      else if (dice < 0.9) hub.append("edit", { target: hub.last, content: "edited" }, "ada", `e${clock}`);
      else if (dice < 0.92) room.older(clock);
      else if (dice < 0.925 && random() < 0.5) {
        commands.splice(Math.floor(random() * commands.length));
        hub.forget();
        room.lost(clock);
      } else if (dice < 0.93) room.down();
      else if (dice < 0.97) room.up(clock);
      else if (dice > 0.9985 && begins) hub.begin();
      else if (dice > 0.997 && !begins) hub.trim();
    };
    for (let n = 0; n < 1500; n += 1) step(false);
    room.up(clock);
    for (let n = 0; n < 6000; n += 1) step(true);
    const where = `seed ${seed}:`;
    check(room.pending.length === 0, where, "still pending", room.pending);
    check(room.epoch === hub.epoch && room.cursor === hub.last, where, "not at the end", room.epoch, room.cursor, hub.epoch, hub.last);
    const offsets = room.rows.map((row) => row.offset);
    check(offsets.every((offset, at) => at === 0 || offset > offsets[at - 1]), where, "out of order");
    const held = hub.log.filter((each) => each.type === "text" && each.offset >= room.low).map((each) => each.offset);
    const there = offsets.filter((offset) => offset >= Math.max(hub.first, room.low));
    check(JSON.stringify(held) === JSON.stringify(there), where, "other messages", held.length, there.length);
    for (const id of said) check(hub.log.filter((each) => each.id === id).length <= 1, where, "twice", id);
    if (hub.count === 0 && hub.first === 1) {
      for (const id of said) check(hub.log.some((each) => each.id === id), where, "never said", id);
    }
    for (const row of room.rows) {
      const edit = hub.log.findLast((each) => each.type === "edit" && each.payload.target === row.offset);
      if (row.offset >= room.low && edit) check(room.contentOf(row) === "edited", where, "an edit is missing");
    }
  }
  for (let seed = 1; seed <= 150; seed += 1) run(seed);

  // Amendments that come before their message do so in any order of pages.
  const late = new Room("x", { ask: () => "c", changed: () => {}, newId: () => "m" });
  late.take({ kind: "done", re: "c", user: "me", epoch: "e", first: 1, last: 4 }, 0);
  late.connected = true;
  late.tick(0);
  late.take({ kind: "done", re: "c", user: "me", epoch: "e", first: 1, last: 4, members: [] }, 0);
  const event = (offset, type, payload) => ({ kind: "message", epoch: "e", offset, type, payload, user: "ada", device: "d", at: 1 });
  late.olderPage({ epoch: "e", first: 1, items: [event(3, "edit", { target: 1, content: "new" }), event(4, "react", { target: 1, reaction: "x", on: false })] });
  late.olderPage({ epoch: "e", first: 1, items: [event(1, "text", { content: "a" }), event(2, "edit", { target: 1, content: "old" })] });
  check(late.contentOf(late.rows[0]) === "new", "an older edit won");

  // Typing: every 3 s, over after 6 s, or with a message; never oneself.
  const sent = [];
  const busy = new Room("x", { ask: (type, body) => (sent.push(body), "c"), changed: () => {}, newId: () => "m" });
  busy.up(0);
  busy.take({ kind: "done", re: "c", user: "me", epoch: "e", first: 1, last: 0 }, 0);
  for (let now = 0; now < 7000; now += 500) busy.types(true, now);
  check(sent.filter((body) => body.type === "typing").length === 3, "typing is told too often", sent);
  const types = (user, on) => busy.take({ kind: "message", type: "typing", user, device: "d", payload: { on } }, 0);
  types("ada", true);
  types("me", true);
  check(busy.typing.join() === "ada", "who types", busy.typing);
  busy.tick(5999);
  check(busy.typing.length === 1, "typing is over too early");
  busy.tick(6000);
  check(busy.typing.length === 0, "typing is never over");
  types("ada", true);
  busy.take(event(1, "text", { content: "a" }), 0);
  check(busy.typing.length === 0, "typing is not over with a message");
  check(busy.unread === 1, "unread");
  busy.read(1, 0);
  check(busy.unread === 0, "read");
  return found.slice(0, 20);
})()
