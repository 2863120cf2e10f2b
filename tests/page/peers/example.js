// The program of docs/javascript.md.

import { connect } from "../../../trio_rt/page/trio-rt.js";
import { WebSocket, say } from "./common.js";

const [url] = process.argv.slice(2);
const shown = [];
const show = (text) => shown.push(text);

const conn = connect(url, { WebSocket });
const stream = conn.subscribe("chat");
const delivery = conn.send("chat", { text: "hi" }, { priority: "high", ttlMs: 60_000 });

for await (const item of stream) {
  if (item.kind === "message") show(item.payload);
  else show(`missed something: ${item.kind}`);
  if (item.payload?.text === "hi") break;
}

show((await delivery.outcome).kind);
const reply = await conn.request("sum", [1, 2], { timeoutMs: 5_000 });
show(reply.payload);
for await (const part of conn.exchange("story")) show(part.payload);
await conn.close();

say({ shown });
say("end");
