// Runs the JSON vectors of docs/protocol.md that a client can be, and prints a line for each:
// {"name", "error"}, with null if all was as the vector says.

import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";

import { Entry, Outbox, Session } from "../../../trio_rt/page/trio-rt-session.js";

const folder = new URL("../../protocol/vectors/", import.meta.url);
const WANTED = ["chat", "slow"];

function check(actual, expected, what) {
  if (!isDeepStrictEqual(actual, expected)) {
    throw new Error(`${what}: ${JSON.stringify(actual)}, and not ${JSON.stringify(expected)}`);
  }
}

/** The header and the frames of a batch; those that cannot be read as they are. */
const read = (text) => text.split("\n").map((line) => parse(line) ?? line);

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** These need a program that answers requests; here they are refused at once. */
const NEED_ANSWERS = ["a request twice", "more parts taken than were sent"];

/** The same talk with the sides changed behind the welcome, or null where that cannot be. */
function mirror(steps) {
  const [hello, welcome] = steps.slice(0, 2).map(({ data }) => parse(data));
  const isPlain = hello?.[0] === "hello" && welcome?.[0] === "welcome";
  const names = ["from", "at"];
  if (!isPlain || steps[1].then?.close || steps.slice(2).some(({ from, at }) => !from && !at)) return null;
  [hello[3], welcome[4]] = [welcome[4], hello[3]];
  const swap = { client: "server", server: "client" };
  const rest = steps.slice(2).map((step) => {
    const name = names.find((each) => step[each]);
    return { ...step, [name]: swap[step[name]] };
  });
  return [
    { ...steps[0], data: JSON.stringify(hello.slice(0, 5)) },
    { ...steps[1], data: JSON.stringify(welcome) },
    ...rest,
  ];
}

/** A program that takes messages when it is told to. */
class Program {
  session = null;
  outbox = new Outbox();
  entries = new Map();
  arrived = [];
  parts = new Map();
  outcomes = {};
  unread = 0;
  over = null;
  reply = null;
  close = null;
  held = [0, 0];
  late = [];

  message(message, entry) {
    this.held = [this.held[0] + 1, this.held[1] + entry.size];
    this.arrived.push({ message, entry });
    if (!WANTED.includes(message.type)) this.#remove(this.arrived.pop(), true);
  }

  aside(message) {
    this.arrived.push({ message, entry: null });
  }

  malformed() {
    this.unread += 1;
  }

  bye(reason) {
    this.over = reason;
  }

  #remove({ entry }, isDrop = false) {
    if (!entry) return;
    this.held = [this.held[0] - 1, this.held[1] - entry.size];
    this.session.take(entry, isDrop);
  }

  take(type, count) {
    const found = this.arrived.filter(({ message }) => message.type === type).slice(0, count);
    this.arrived = this.arrived.filter((each) => !found.includes(each));
    for (const each of found) this.#remove(each);
    return found.map(({ message }) => message.payload);
  }

  takeParts(id, count) {
    const { request, waiting } = this.parts.get(id);
    return waiting.splice(0, count).map(({ message, size }) => {
      this.session.takePart(request, size);
      return message.payload;
    });
  }

  withdraw(number) {
    this.entries.get(number).back = ["withdrawn", null];
  }

  /** Put into the books what `text` says anew, as a program would; then what is really said. */
  say(text) {
    if (text.startsWith('["hello"')) {
      const [, , , terms] = JSON.parse(text);
      return Session.hello({ ...terms, held: this.held }, this.session);
    }
    const [header, ...frames] = text.split("\n");
    let [number] = JSON.parse(header);
    let bye = null;
    const asides = [];
    for (const [place, frame] of frames.entries()) {
      const [kind, id, third, parts] = frame[0] === "[" ? JSON.parse(frame) : [];
      if (kind === "bye") bye = id;
      else if (kind === "aside") asides.push([place + 1, frame]);
      else {
        if (number > this.session.sent) this.#put(frame, number, kind, id, parts);
        number += 1;
      }
    }
    // The client says none, but they change nothing in its books.
    const lines = this.session.batch(this.outbox, true, bye).split("\n");
    for (const [place, frame] of asides) lines.splice(place, 0, frame);
    return lines.join("\n");
  }

  #put(frame, number, kind, id, parts) {
    const settle = (how, reason) => (this.outcomes[number] = reason ? `${how} (${reason})` : how);
    const more = { urgency: 1, at: number, count: number, settle };
    if (kind === "req") more.request = this.#request(id, parts);
    if (kind === "more") return;
    if (kind === "cancel") this.session.cancel(this.parts.get(id).request);
    else if (kind === "void") this.session.probe();
    else {
      const entry = new Entry(frame, more);
      this.entries.set(number, entry);
      this.outbox.put(entry, [1e9, 1e9]);
    }
  }

  #request(id, offered) {
    const waiting = [];
    const request = {
      id, offered, got: [0, 0], taken: [0, 0], told: [0, 0],
      part: (message, size) => waiting.push({ message, size }),
      answer: (message, code, text) => {
        this.reply = message ? { id, end: message.payload } : { id, fail: [code, text] };
      },
    };
    this.parts.set(id, { request, waiting });
    return request;
  }

  hear(text, hello, isText) {
    try {
      if (this.session === null || hello !== null) this.#welcome(text, hello);
      else this.session.feed(isText ? text : new ArrayBuffer(1));
    } catch (error) {
      if (error.code === undefined) throw error;
      this.close = error.code;
    }
  }

  #welcome(text, hello) {
    const welcome = Session.readWelcome(text, this.session);
    this.resumed = welcome[3];
    if (welcome[3]) this.session.resume(welcome);
    else {
      for (const entry of this.session?.unsettled.values() ?? []) entry.settle("indeterminate");
      if (this.session) this.outcomesBefore = this.outcomes;
      this.session = new Session(hello[3], welcome, this);
    }
  }

  look(then) {
    const known = {
      received: () => this.session.received,
      consumed: () => this.session.consumed,
      in_flight: () => this.session.inFlight,
      outcomes: () => this.outcomes,
      malformed: () => this.unread,
      resumed: () => this.resumed,
      reply: () => this.reply,
      over: () => this.over,
      close: () => this.close,
    };
    for (const [name, value] of Object.entries(then)) check(known[name](), value, name);
  }
}

function play(steps) {
  const program = new Program();
  let hello = null;
  for (const [place, step] of steps.entries()) {
    try {
      if (step.from === "client") {
        const said = program.say(step.data);
        check(read(said), read(step.data), "said");
        if (step.data.startsWith('["hello"')) hello = JSON.parse(step.data);
      } else if (step.from === "server" && !step.lost) {
        program.hear(step.data, hello, step.kind !== "binary");
        hello = null;
        program.look(step.then ?? {});
      } else if (step.at === "client") {
        for (const [type, count] of Object.entries(step.takes ?? {})) {
          check(program.take(type, count), step.gets, "gets");
        }
        for (const [id, count] of Object.entries(step.takes_parts ?? {})) {
          check(program.takeParts(Number(id), count), step.gets, "gets");
        }
        for (const number of step.withdraws ?? []) program.withdraw(number);
      }
    } catch (error) {
      throw new Error(`step ${place}: ${error.stack}`);
    }
  }
}

function tell(name, steps) {
  let error = null;
  try {
    play(steps);
  } catch (problem) {
    error = problem.message;
  }
  process.stdout.write(`${JSON.stringify({ name, error })}\n`);
}

for (const file of ["talk", "resume", "requests", "illegal"]) {
  const { vectors } = JSON.parse(readFileSync(new URL(`${file}.json`, folder)));
  const own = vectors.filter(({ syntax }) => syntax === "json");
  for (const vector of own) {
    const before = own.find(({ name }) => name === vector.after)?.steps ?? [];
    const all = [...before, ...vector.steps];
    if (vector.roles.includes("client")) tell(`${file}: ${vector.name}`, all);
    else if (mirror(all) && !NEED_ANSWERS.includes(vector.name)) tell(`${file}, mirrored: ${vector.name}`, mirror(all));
  }
}

process.stdout.write('"end"\n');
