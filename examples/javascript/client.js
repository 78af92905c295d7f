// Two ways to an answer as it comes, for browsers and for Node 20 or later.

const headers = (key) => ({
  Authorization: `Bearer ${key}`,
  "Content-Type": "application/json",
  "ngrok-skip-browser-warning": "1", // free ngrok tunnels show browsers a page of their own without it
});

/** A short-lived token for `listen`. A public page gets it from its own server, which keeps the key. */
export async function getToken(url, key) {
  const response = await fetch(`${url}/chat-sse/token`, { method: "POST", headers: headers(key) });
  const { token, error } = await response.json();
  if (error) throw new Error(error.message);
  return token;
}

/** Asks through an EventSource; resolves to the whole answer. `query` has prompt, token and whatever else. */
export function listen(EventSource, url, query, onText) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`${url}/chat-sse?${new URLSearchParams(query)}`);
    let answer = "";
    const end = (settle, value) => {
      source.close(); // or it would connect again
      settle(value);
    };
    source.addEventListener("message", (event) => {
      const { text } = JSON.parse(event.data);
      answer += text;
      onText(text);
    });
    source.addEventListener("end", () => end(resolve, answer));
    source.addEventListener("failed", (event) => end(reject, new Error(JSON.parse(event.data).error.message)));
    source.addEventListener("error", () => end(reject, new Error("The connection was refused or broke off.")));
  });
}

/** Asks through fetch; yields pieces of the answer. */
export async function* stream(url, key, messages) {
  const body = JSON.stringify({ messages, stream: true });
  const response = await fetch(`${url}/v1/chat/completions`, { method: "POST", headers: headers(key), body });
  if (!response.ok) throw new Error((await response.json()).error.message);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: {")) continue; // a comment that keeps the connection open, or [DONE]
      const { choices, error } = JSON.parse(event.slice("data: ".length));
      if (error) throw new Error(error.message);
      const text = choices[0]?.delta.content;
      if (text) yield text;
    }
  }
}
