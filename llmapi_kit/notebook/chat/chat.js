// The whole chat: panes, what is typed, settings, and the way to the kernel and back.
//
// All of the chat stands in the trait `state`; an answer's pieces come as messages that count on from it. What renders
// answers is asked for once a page; until it comes, and in a notebook without a kernel, answers are plain text.

const ANSWER_WITHIN_MS = 1500;
const SILENT_TIMES = 2;
const SHARE_WITHIN_MS = 3000;
const UNASKED = ["hello", "libraries"]; // what a page asks by itself
const LIBRARIES = Symbol.for("llmapi_kit.chat.libraries");
const OPTIONS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: "any" }],
  ["top_p", "Top p", { min: 0, max: 1, step: "any" }],
  ["max_tokens", "Max tokens", { min: 1, step: 1 }],
  ["seed", "Seed", { step: 1 }],
];
const BUSY = "The kernel is busy with a cell; this is done when the cell ends. Jupyter holds clicks back until then.";
const SILENT = "The kernel does not answer: it is busy with a cell, or gone.";
const GONE = "The kernel of this chat is gone. What was said stays; to go on, run the cell again.";

async function loadLibraries(ask) {
  const { names, buffers } = await ask();
  const texts = buffers.map((buffer) => new TextDecoder().decode(buffer));
  const libraries = {};
  for (const [i, name] of names.entries()) {
    if (name === "katexCss") {
      make("style", { textContent: texts[i] }, document.head);
      continue;
    }
    // Those that are no modules yet find what CommonJS has, also where a page has an AMD loader
    const isModule = /export\s*\{[^}]*\}[^}]*$/.test(texts[i]);
    const code = isModule ? texts[i]
      : `const module = { exports: {} }; const exports = module.exports;\n${texts[i]}\nexport default module.exports;`;
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    libraries[name] = (await import(/* webpackIgnore: true */ url)).default;
    URL.revokeObjectURL(url);
  }
  return makeRenderer(libraries);
}

// Chats of one page share them. One whose kernel is gone may have asked, and gets no answer: then ask anew
async function sharedRenderer(ask) {
  const shared = globalThis[LIBRARIES]?.catch(() => null);
  const found = shared && await Promise.race([shared, new Promise((resolve) => setTimeout(resolve, SHARE_WITHIN_MS))]);
  if (found) return found;
  globalThis[LIBRARIES] = loadLibraries(ask);
  return globalThis[LIBRARIES];
}

class ChatView {
  constructor(model, el) {
    this.model = model;
    this.waiting = new Map(); // request to {resolve, reject, timer}
    this.expected = 0; // number of the next piece
    this.renderer = null;
    this.isGone = false;
    this.panes = [];
    this.root = make("div", { className: "llmapi-kit-chat", attributes: { "data-lm-suppress-shortcuts": "true" } }, el);
    this.columns = make("div", { className: "lk-columns" }, this.root);
    this.makeComposer();
    this.makeStatus();
    this.makeSettings();
    // A notebook's own shortcuts must not hear what is typed here
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isBusy) this.run("stop");
      event.stopPropagation();
    });
    this.listeners = {
      "msg:custom": (message, buffers) => this.hear(message, buffers),
      "change:state": () => this.update(),
    };
    for (const [name, listener] of Object.entries(this.listeners)) model.on(name, listener);
    this.update();
    this.watchKernel();
    this.run("hello");
    this.prepareRenderer();
  }

  makeStatus() {
    const row = make("div", { className: "lk-status-row" }, this.root);
    this.status = make("div", { className: "lk-status", attributes: { role: "status" } }, row);
    this.clearButton = makeButton("New chat", row, () => this.run("clear"));
  }

  makeComposer() {
    const above = make("div", {}, this.root);
    const form = make("form", { className: "lk-composer" }, this.root);
    const before = make("div", {}, form);
    this.input = make("textarea", {
      rows: 2, placeholder: "Message (Enter sends, Shift+Enter is a new line)", attributes: { "aria-label": "Message" },
    }, form);
    this.sendButton = make("button", { type: "submit", textContent: "Send", className: "lk-primary" }, form);
    this.stopButton = makeButton("Stop", form, () => this.run("stop"), "Stop answering (Escape)");
    this.pictures = new ComposerPictures({ tray: above, button: before, input: this.input, area: this.root }, {
      say: (text) => this.say(text),
      blindness: () => this.blindness(),
    });
    form.addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
  }

  makeSettings() {
    const details = make("details", { className: "lk-settings" }, this.root);
    make("summary", { textContent: "Settings and export" }, details);
    const label = make("label", { textContent: "System prompt" }, details);
    this.system = make("textarea", { rows: 2 }, label);
    this.system.addEventListener("change", () => this.set("system", this.system.value));
    const row = make("div", { className: "lk-row" }, details);
    this.numbers = {};
    for (const [name, title, limits] of OPTIONS) {
      const each = make("label", { textContent: title }, row);
      const input = make("input", { type: "number", placeholder: "model's own", ...limits }, each);
      input.addEventListener("change", () => {
        if (input.validity.badInput) this.say(`${title} takes a number.`);
        else this.set(name, input.value === "" ? null : Number(input.value));
      });
      this.numbers[name] = input;
    }
    const actions = make("div", { className: "lk-row" }, details);
    const format = make("select", { attributes: { "aria-label": "Export format" } }, actions);
    for (const [value, text] of [[".md", "Markdown"], [".json", "JSON"], [".py", "Python"]]) {
      make("option", { value, textContent: text }, format);
    }
    makeButton("Copy", actions, () => this.export(format.value, false), "Copy conversation");
    makeButton("Download", actions, () => this.export(format.value, true), "Download conversation");
  }

  get isBusy() {
    return this.model.get("state").panes.some((pane) => pane.is_busy);
  }

  get isWaiting() {
    return this.model.get("state").panes.some((pane) => pane.messages.at(-1)?.status === "waiting");
  }

  // Why no picture is taken; empty where they are
  blindness() {
    if (this.isGone) return GONE;
    const blind = this.model.get("state").panes.find((pane) => !pane.sees);
    return blind ? `${blind.options.model || blind.models[0] || "The model"} takes text only, and no pictures.` : "";
  }

  update() {
    const { panes, version } = this.model.get("state");
    this.version = version;
    this.expected = 0;
    const chat = { render: (...given) => this.draw(...given), say: (text) => this.say(text), run: (...given) => this.run(...given) };
    while (this.panes.length < panes.length) this.panes.push(new PaneView(this.columns, this.panes.length, chat));
    panes.forEach((pane, i) => this.panes[i].update(pane));
    const { options } = panes[0];
    const active = this.root.getRootNode().activeElement;
    if (active !== this.system) this.system.value = options.system;
    for (const [name, input] of Object.entries(this.numbers)) {
      if (active !== input) input.value = options[name] ?? "";
    }
    this.announce();
    this.enable();
  }

  announce() {
    const isBusy = this.isBusy;
    if (isBusy && !this.wasBusy) this.say("Answering …");
    if (!isBusy && this.wasBusy) this.say(this.isWaiting ? "The model asks to run a function." : "Answer complete.");
    this.wasBusy = isBusy;
  }

  enable() {
    const isBusy = this.isBusy;
    const active = this.root.getRootNode().activeElement;
    this.sendButton.hidden = isBusy;
    this.stopButton.hidden = !isBusy;
    // Whoever pressed a button that goes away must not find the focus at the page's beginning
    if (active === this.sendButton && isBusy) this.stopButton.focus();
    if (active === this.stopButton && !isBusy) this.input.focus();
    const controls = [this.sendButton, this.stopButton, this.clearButton, this.system, ...Object.values(this.numbers)];
    for (const each of controls) each.disabled = this.isGone;
    this.input.disabled = this.isGone;
    this.clearButton.disabled ||= isBusy;
    this.pictures.update();
    this.root.classList.toggle("lk-gone", this.isGone);
  }

  draw(element, text, isSettled) {
    const key = `${Boolean(this.renderer)} ${isSettled} ${text}`;
    if (element.lkKey === key) return; // every state has every message, and most are as they were
    element.lkKey = key;
    if (this.renderer) this.renderer(element, text, isSettled);
    else renderPlain(element, showInvisible(text));
  }

  async prepareRenderer() {
    try {
      this.renderer = await sharedRenderer(() => this.ask("libraries"));
    } catch {
      return; // answers stay plain text
    }
    for (const pane of this.panes) pane.redraw();
  }

  hear(message, buffers) {
    if (message.kind === "delta") this.grow(message);
    const waiter = this.waiting.get(message.request);
    if (message.kind !== "answer" || !waiter) return;
    this.waiting.delete(message.request);
    clearTimeout(waiter.timer);
    if ([BUSY, SILENT].includes(this.status.textContent)) this.say("");
    this.setGone(false);
    if (message.error) waiter.reject(new Error(message.error));
    else waiter.resolve({ ...message, buffers });
  }

  grow(delta) {
    if (delta.version !== this.version) return; // of another state: that one has it, or the next
    if (delta.number !== this.expected) {
      this.run("hello");
      return;
    }
    this.expected += 1;
    for (const pane of this.panes) pane.grow(delta);
  }

  // Ask the kernel for something. Several pages may show this widget: each takes the answers to its own questions
  ask(kind, content, buffers) {
    const request = `${Date.now()}-${Math.random()}`;
    return new Promise((resolve, reject) => {
      this.waiting.set(request, { resolve, reject });
      this.expectAnswer(request, kind);
      this.model.send({ kind, request, ...content }, undefined, buffers);
    });
  }

  expectAnswer(request, kind) {
    const waiter = this.waiting.get(request);
    waiter.timer = setTimeout(() => {
      waiter.silences = (waiter.silences ?? 0) + 1;
      this.onSilence(request, kind, waiter.silences);
      if (!this.isGone) this.expectAnswer(request, kind);
    }, ANSWER_WITHIN_MS);
  }

  // What the kernel answers; null where it refuses or is gone, which the user is told
  async run(kind, content, buffers) {
    if (this.isGone) {
      this.say(GONE);
      return null;
    }
    try {
      return await this.ask(kind, content, buffers);
    } catch (error) {
      this.say(error.message);
      return null;
    }
  }

  set(name, value) {
    this.run("set", { options: { [name]: value } });
  }

  async send() {
    const text = this.input.value;
    if (!text.trim() || this.isGone || this.input.readOnly) return;
    if (this.isBusy) {
      this.say("An answer is being made. Stop it first, or wait for its end.");
      return;
    }
    this.input.readOnly = true; // until the kernel has it, which a busy one takes a while for
    const { tray } = this.pictures;
    await tray.ready;
    const pictures = tray.take();
    const names = pictures.map(({ name }) => name);
    if (await this.run("send", { text, names }, pictures.map(({ data }) => data))) this.input.value = "";
    else tray.putBack(pictures);
    this.input.readOnly = false;
  }

  async export(format, isDownload) {
    const answer = await this.run("export", { format });
    if (!answer) return;
    if (!isDownload) {
      this.say((await copyText(answer.text)) ? COPIED : NO_CLIPBOARD);
      return;
    }
    const url = URL.createObjectURL(new Blob([answer.text], { type: "text/plain" }));
    const link = make("a", { href: url, download: `chat${format}` }, this.root);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  say(text) {
    this.status.textContent = showInvisible(text);
  }

  // JupyterLab and Notebook 7 tell what becomes of the kernel; elsewhere only its silence does
  watchKernel() {
    const kernel = this.model.widget_manager?.kernel;
    this.kernel = kernel;
    this.onKernel = () => this.checkKernel();
    kernel?.statusChanged?.connect(this.onKernel);
    kernel?.disposed?.connect(this.onKernel);
    this.checkKernel();
  }

  checkKernel() {
    const status = this.kernel?.status;
    const isEnded = ["dead", "terminating", "restarting", "autorestarting"].includes(status);
    if (isEnded || this.kernel?.isDisposed) this.setGone(true);
  }

  onSilence(request, kind, times) {
    const status = this.kernel?.status;
    if (status === "idle" && times < SILENT_TIMES) return; // a slow way there
    if (status === "idle") this.checkOwnKernel(request);
    if (!UNASKED.includes(kind)) this.say(status === "busy" ? BUSY : SILENT);
  }

  // A kernel that answers others, and not this chat, is another one than this chat's. It is asked, as JupyterLab calls one
  // idle whose cell runs: what goes over a subshell meanwhile ends in "idle" too. What is asked waits for the cell's end
  async checkOwnKernel(request) {
    if (this.isChecking) return;
    this.isChecking = true;
    try {
      await this.kernel.requestKernelInfo();
      if (this.waiting.has(request)) this.setGone(true);
    } catch {
      // The connection is closed, which checkKernel() hears of
    } finally {
      this.isChecking = false;
    }
  }

  setGone(isGone) {
    if (this.isGone === isGone) return;
    this.isGone = isGone;
    this.say(isGone ? GONE : "");
    // Where nothing has come that renders answers, as in a notebook that was opened again, the transcript reads better
    const below = this.root.closest(".jp-OutputArea-child")?.nextElementSibling;
    const isBetter = isGone && !this.renderer && below?.querySelector(".llmapi-kit-transcript");
    this.root.classList.toggle("llmapi-kit-chat", !isBetter);
    this.root.hidden = Boolean(isBetter);
    this.enable();
  }

  close() {
    for (const [name, listener] of Object.entries(this.listeners)) this.model.off(name, listener);
    for (const { timer } of this.waiting.values()) clearTimeout(timer);
    this.kernel?.statusChanged?.disconnect(this.onKernel);
    this.kernel?.disposed?.disconnect(this.onKernel);
    this.root.remove();
  }
}

function render({ model, el }) {
  const view = new ChatView(model, el);
  return () => view.close();
}

export default { render };
