// The same question from curl, Python and JavaScript. Nothing here ever holds a key.

import { BASE } from "./api.js";
import { byId, iconButton } from "./controls.js";
import { make } from "./dom.js";

const VARIABLE = "OPENAI_API_KEY";
const QUESTION = "Hello!";

function inShell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

export function snippets(model) {
  const url = new URL("v1", BASE).href;
  const body = JSON.stringify({ model, messages: [{ role: "user", content: QUESTION }] });
  return {
    curl: [
      `curl ${inShell(`${url}/chat/completions`)} \\`,
      `  -H "Authorization: Bearer $${VARIABLE}" \\`,
      "  -H 'Content-Type: application/json' \\",
      `  -d ${inShell(body)}`,
    ],
    Python: [
      `# pip install openai; the client takes the key from ${VARIABLE}`,
      "from openai import OpenAI",
      "",
      `client = OpenAI(base_url=${JSON.stringify(url)})`,
      "answer = client.chat.completions.create(",
      `    model=${JSON.stringify(model)},`,
      `    messages=[{"role": "user", "content": ${JSON.stringify(QUESTION)}}],`,
      ")",
      "print(answer.choices[0].message.content)",
    ],
    JavaScript: [
      `// npm install openai; the client takes the key from ${VARIABLE}`,
      'import OpenAI from "openai";',
      "",
      `const client = new OpenAI({ baseURL: ${JSON.stringify(url)} });`,
      "const answer = await client.chat.completions.create({",
      `  model: ${JSON.stringify(model)},`,
      `  messages: [{ role: "user", content: ${JSON.stringify(QUESTION)} }],`,
      "});",
      "console.log(answer.choices[0].message.content);",
    ],
  };
}

export function openCode(model, copy) {
  const blocks = Object.entries(snippets(model)).map(([name, lines]) => {
    const text = lines.join("\n");
    const section = make("section", { className: "snippet" });
    const head = make("div", { className: "snippet-head" }, section);
    make("h3", { textContent: name }, head);
    iconButton(head, "copy", "code.copy", () => copy(text), { name });
    make("pre", { textContent: text, attributes: { tabindex: "0", "aria-label": name } }, section);
    return section;
  });
  byId("snippets").replaceChildren(...blocks);
  byId("code").showModal();
}
