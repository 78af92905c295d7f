// A conversation: messages that each follow another one, so that a question asked anew and an answer made again are
// branches. Knows nothing of how it is shown or kept; `record` is plain data.

const TITLE_LENGTH = 60;
const FENCE = "```";

export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Conversation {
  constructor(record = {}) {
    const now = Date.now();
    this.record = {
      id: newId(), title: "", isNamed: false, model: "", system: "", sampling: {},
      messages: {}, chosen: {}, createdAt: now, updatedAt: now, ...record,
    };
  }

  get id() { return this.record.id; }

  get isEmpty() { return Object.keys(this.record.messages).length === 0; }

  // The messages of the branch that is shown
  path() {
    const path = [];
    for (let id = this.record.chosen.root; id; id = this.record.chosen[id]) path.push(this.record.messages[id]);
    return path;
  }

  // A message and its alternatives, oldest first
  siblings({ parent }) {
    return Object.values(this.record.messages).filter((each) => each.parent === parent);
  }

  add(parent, role, fields) {
    const message = { id: newId(), parent: parent?.id ?? "root", role, content: "", status: "done", ...fields };
    this.record.messages[message.id] = message;
    this.choose(message);
    if (role === "user" && !this.record.isNamed && message.parent === "root") this.record.title = titleOf(message.content);
    return message;
  }

  choose(message) {
    this.record.chosen[message.parent] = message.id;
    this.touch();
  }

  // Only one that nothing follows
  drop(message) {
    delete this.record.messages[message.id];
    const left = this.siblings(message).at(-1);
    if (left) this.record.chosen[message.parent] = left.id;
    else delete this.record.chosen[message.parent];
  }

  rename(title) {
    Object.assign(this.record, { title, isNamed: true });
  }

  touch() {
    this.record.updatedAt = Date.now();
  }

  // What the model is told: everything up to a message, in OpenAI's form
  toOpenAI(last) {
    const line = [];
    for (let each = last; each; each = this.record.messages[each.parent]) line.unshift(...told(each));
    return this.record.system ? [{ role: "system", content: this.record.system }, ...line] : line;
  }

  toJSON() {
    const { model, sampling } = this.record;
    return JSON.stringify({ model, ...sampling, messages: this.toOpenAI(this.path().at(-1)) }, null, 2);
  }

  toMarkdown(words) {
    const parts = this.record.title ? [`# ${this.record.title.replaceAll("\n", " ")}`] : [];
    if (this.record.system) parts.push(`**${words.system}:** ${this.record.system}`);
    for (const message of this.path()) parts.push(...markdownOf(message, words));
    return `${parts.join("\n\n")}\n`;
  }
}

function titleOf(text) {
  const line = text.trim().split("\n")[0];
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH).trimEnd()}…` : line;
}

function told({ role, content, images = [] }) {
  if (role === "assistant") return content ? [{ role, content }] : [];
  if (!images.length) return [{ role, content }];
  const pictures = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return [{ role, content: [...pictures, { type: "text", text: content }] }];
}

function markdownOf(message, words) {
  const speaker = message.role === "user" ? words.you : message.model || words.model;
  const parts = [`**${speaker}:**`];
  if (message.images?.length) parts.push(`*(${words.images}: ${message.images.length})*`);
  if (message.reasoning) parts.push(message.reasoning.trim().replace(/^/gm, "> "));
  if (message.content) parts.push(message.content);
  for (const { name, arguments: given } of message.calls ?? []) parts.push(`\`${name}\`\n\n${fenced(given)}`);
  if (message.status === "stopped") parts.push(`*(${words.stopped})*`);
  if (message.status === "failed") parts.push(`*(${words.failed})*`);
  return parts;
}

function fenced(text) {
  let fence = FENCE;
  while (text.includes(fence)) fence += "`";
  return `${fence}json\n${text}\n${fence}`;
}
