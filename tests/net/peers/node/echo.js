// An echo server on npm `ws`; what it does at a word is said in ../words.py.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const { WebSocketServer } = require("ws");

const [port, certificate] = process.argv.slice(2);
const pem = certificate && fs.readFileSync(certificate);
const server = pem ? https.createServer({ cert: pem, key: pem }) : http.createServer();
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: true });

server.on("upgrade", (request, socket, head) => {
  const status = request.url.match(/^\/status\/(\d+)$/);
  if (status) {
    socket.end(`HTTP/1.1 ${status[1]} No\r\nContent-Length: 8\r\nConnection: close\r\n\r\nas told\n`);
    return;
  }
  sockets.handleUpgrade(request, socket, head, echo);
});

function echo(link) {
  link.on("error", () => {});
  link.on("close", (code) => console.log("closed", code));
  link.on("message", (data, isBinary) => {
    const [word, number] = isBinary ? [] : data.toString().split(" ");
    if (word === "close") {
      link.close(Number(number), "as told");
    } else if (word === "big") {
      link.send(Buffer.alloc(Number(number)));
    } else {
      link.send(data, { binary: isBinary });
    }
  });
}

process.on("SIGTERM", () => {
  server.close();
  for (const link of sockets.clients) {
    link.close(1001);
  }
});
server.listen(Number(port), "127.0.0.1", () => console.log("port", port));
