// Server-sent events of a response's body, as their data. Source: WHATWG HTML, section "Server-sent events".

export async function* readServerSentEvents(body, silenceMs) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let data = [];
  try {
    for await (const line of readLines(reader, silenceMs)) {
      if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      } else if (line.startsWith("data:")) {
        data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function* readLines(reader, silenceMs) {
  const parts = []; // of a line whose end has not come
  while (true) {
    const { done, value } = await readWithin(reader, silenceMs);
    if (done) return;
    const lines = value.split("\n");
    for (const line of lines.slice(0, -1)) {
      parts.push(line);
      yield parts.join("").replace(/\r$/, "");
      parts.length = 0;
    }
    parts.push(lines.at(-1));
  }
}

// A connection that is gone without a word would be waited on forever
async function readWithin(reader, silenceMs) {
  let timer;
  const silence = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error("silent")), silenceMs);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } finally {
    clearTimeout(timer);
  }
}
