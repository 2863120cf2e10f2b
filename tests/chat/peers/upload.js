// Uploads a file by npm's tus-js-client: node upload.js <endpoint> <file> <token> <options as JSON>.
// With `abort_at` it aborts there, and a second client goes on with the upload.
"use strict";

const fs = require("fs");
const path = require("path");
const { PassThrough } = require("stream");
const tus = require("tus-js-client");

const [, , endpoint, file, token, given] = process.argv;
const { abort_at: abortAt, filename, filetype, deferred, ...options } = JSON.parse(given || "{}");

function source() {
  // A stream of a file itself would be asked for its length.
  return deferred ? fs.createReadStream(file).pipe(new PassThrough()) : fs.readFileSync(file);
}

function start(more) {
  let address = null;
  const metadata = { filename: filename || path.basename(file) };
  if (filetype) metadata.filetype = filetype;
  const upload = new tus.Upload(source(), {
    endpoint,
    metadata,
    headers: { Authorization: `Bearer ${token}` },
    retryDelays: [50, 100, 200, 400],
    uploadLengthDeferred: Boolean(deferred),
    onAfterResponse: (request, response) => {
      address = response.getHeader("Content-Location") || address;
    },
    onError: (error) => {
      const response = error.originalResponse;
      console.log(`failed ${response ? response.getStatus() : error.message}`);
    },
    onSuccess: () => console.log(`stored ${address}`),
    onProgress: (sent) => {
      if (abortAt && !more && sent >= abortAt) {
        upload.abort().then(() => {
          console.log("aborted");
          start({ uploadUrl: upload.url });
        });
      }
    },
    ...options,
    ...more,
  });
  upload.start();
}

start(null);
