// A client on npm `ws`: talks with an echo server, closes, and prints what it saw.
// With "stay" it is echoed once, and then stays until it is ended.
"use strict";

const fs = require("node:fs");
const { WebSocket } = require("ws");

const [url, mode, authority] = process.argv.slice(2);
const options = {
  perMessageDeflate: mode === "deflate",
  ca: authority && fs.readFileSync(authority),
};
const texts = Array.from({ length: mode === "stay" ? 1 : 200 }, (_, number) => `${number} é😀`);
const binary = Buffer.from(Array.from({ length: 100_000 }, (_, number) => number % 251));
const heard = [];

const link = new WebSocket(url, options);
link.on("open", () => [...texts, binary].forEach((words) => link.send(words)));
link.on("message", (data, isBinary) => {
  if (heard.push(isBinary ? data : data.toString()) <= texts.length) {
    return;
  }
  if (mode === "stay") {
    console.log("staying");
  } else {
    link.close(1000, "done");
  }
});
link.on("error", (error) => console.log("error", error.message));
link.on("close", (code) => {
  const result = {
    texts: texts.filter((words, number) => words === heard[number]).length,
    binary: binary.equals(heard[texts.length] ?? Buffer.alloc(0)),
    deflated: link.extensions.includes("permessage-deflate"),
    code,
  };
  console.log("result", JSON.stringify(result));
});
