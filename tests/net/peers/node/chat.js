// A chat server on npm `ws` that speaks the plain envelope: rooms, and no memory.
"use strict";

const { randomUUID } = require("node:crypto");
const { WebSocketServer } = require("ws");

const port = Number(process.argv[2]);
const server = new WebSocketServer({ host: "127.0.0.1", port }, () => console.log("port", port));

server.on("connection", (link) => {
  const rooms = new Set();
  link.isIn = (room) => rooms.has(room);
  link.on("error", () => {});
  link.on("message", (data) => {
    const { type, payload, id, priority } = JSON.parse(data);
    switch (type) {
      case "heartbeat":
        say(link, "heartbeat", null);
        break;
      case "join_room":
        rooms.add(payload.roomId);
        say(link, "joined", { roomId: payload.roomId });
        break;
      case "chat_message":
        for (const other of server.clients) {
          if (other.isIn(payload.roomId)) {
            say(other, "chat_message", payload, id, priority);
          }
        }
        break;
      default:
        say(link, "error", { message: `no such type: ${type}` });
    }
  });
});

function say(link, type, payload, id = randomUUID(), priority = "normal") {
  link.send(JSON.stringify({ type, payload, id, timestamp: Date.now(), priority }));
}
