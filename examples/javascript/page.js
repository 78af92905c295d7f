// The page asks with the key that its reader types, and keeps it nowhere.
import { getToken, listen, stream } from "./client.js";

const form = document.querySelector("form");
const output = document.querySelector("output");
const problem = document.querySelector("[role=alert]");
const show = (text) => output.append(text);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { url, key, prompt } = Object.fromEntries(new FormData(form));
  output.textContent = problem.textContent = "";
  output.ariaBusy = true;
  try {
    if (event.submitter.value === "eventsource") {
      await listen(EventSource, url, { prompt, token: await getToken(url, key) }, show);
    } else {
      for await (const text of stream(url, key, [{ role: "user", content: prompt }])) show(text);
    }
  } catch (error) {
    problem.textContent = error.message;
  }
  output.ariaBusy = false;
});
