// The chat: which conversation is shown, what is asked, and who answers. Answers go on while another one is shown.

import { Answer } from "./answer.js";
import { openCode } from "./code_panel.js";
import { Composer } from "./composer.js";
import { byId } from "./controls.js";
import { Conversation } from "./conversation.js";
import { copyText, make, makeButton } from "./dom.js";
import { preference, setPreference } from "./kept.js";
import { Log } from "./log.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { showInvisible } from "./markdown.js";
import { hide, show, t } from "./text.js";

const MEDIA_TYPES = { md: "text/markdown", json: "application/json" };

export class Chat {
  // on: {keyNeeded: another key is to be entered, answered: an answer is over}
  constructor(store, libraries, on) {
    Object.assign(this, { store, on });
    this.models = [];
    this.records = [];
    this.answers = new Map(); // conversation's id to the answer that is being made
    this.conversation = new Conversation();
    this.say = this.say.bind(this);
    this.log = new Log({
      say: this.say, enterKey: on.keyNeeded,
      isLoaded: (model) => !this.isOut(this.models.find(({ id }) => id === model)),
      copy: (text) => this.copy(text),
      siblings: (message) => this.conversation.siblings(message),
      retry: (message) => this.retry(message),
      edit: (message, text) => this.edit(message, text),
      choose: (message, step) => this.choose(message, step),
    }, libraries);
    this.composer = new Composer({
      say: this.say,
      send: (text, images) => this.send(text, images),
      stop: () => this.answers.get(this.conversation.id)?.stop(),
    });
    this.sidebar = new Sidebar({
      open: (id) => this.open(id),
      begin: () => this.begin(),
      rename: (id, title) => this.rename(id, title),
      remove: (id) => this.remove(id),
    });
    this.settings = new Settings({
      change: (name, value) => this.change(name, value),
      export: (format) => this.export(format),
      copy: () => this.copy(this.conversation.toMarkdown(words())),
    });
    byId("model").addEventListener("change", () => this.chooseModel(byId("model").value));
    byId("open-settings").addEventListener("click", () => {
      this.settings.open(this.conversation.record, this.modelCard.llmapi_kit?.defaults);
    });
    byId("open-code").addEventListener("click", () => openCode(this.model, (text) => this.copy(text)));
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.readAgain(); });
  }

  async start(api, models) {
    Object.assign(this, { api, models });
    await this.readAgain();
    const last = this.records.find(({ id }) => id === preference("conversation"));
    if (last) this.conversation = new Conversation(mended(last));
    else this.conversation = this.fresh();
    if (!this.store.isLasting) show(byId("store-note"), "store.none");
    this.update();
    this.log.showEnd();
    this.composer.focus();
  }

  get isBusy() { return this.answers.has(this.conversation.id); }

  // The model that is asked: the conversation's own while there is such a one
  get model() {
    const { model } = this.conversation.record;
    return this.models.some(({ id }) => id === model) ? model : this.models[0].id;
  }

  get modelCard() { return this.models.find(({ id }) => id === this.model); }

  fresh() {
    const { model = "", system = "", sampling = {} } = preference("defaults") ?? {};
    return new Conversation({ model, system, sampling: { ...sampling } });
  }

  begin() {
    this.conversation = this.fresh();
    setPreference("conversation", null);
    this.update();
    this.composer.focus();
  }

  open(id) {
    const running = this.answers.get(id);
    const record = this.records.find((each) => each.id === id);
    if (id === this.conversation.id || !(running || record)) return;
    this.conversation = running ? running.conversation : new Conversation(mended(record));
    setPreference("conversation", id);
    this.say();
    this.update();
    this.log.showEnd();
  }

  send(text, images = []) {
    if (this.isBusy) {
      this.say("say.busy");
      return false;
    }
    const question = this.conversation.add(this.conversation.path().at(-1), "user", { content: text, images: [...images] });
    this.answer(question);
    return true;
  }

  edit(message, text) {
    if (this.isBusy) return;
    const parent = this.conversation.record.messages[message.parent];
    this.answer(this.conversation.add(parent, "user", { content: text, images: message.images ?? [] }));
  }

  // A failed answer that brought nothing is no branch to go back to
  retry(message) {
    if (this.isBusy) return;
    const isEmpty = message.status === "failed" && !message.content && !message.reasoning;
    if (isEmpty && !this.conversation.record.chosen[message.id]) this.conversation.drop(message);
    this.answer(this.conversation.record.messages[message.parent]);
  }

  choose(message, step) {
    const siblings = this.conversation.siblings(message);
    this.conversation.choose(siblings[siblings.indexOf(message) + step]);
    this.keep(this.conversation);
    this.update();
  }

  answer(question) {
    const { conversation } = this;
    conversation.record.model = this.model;
    const message = conversation.add(question, "assistant", {
      reasoning: "", calls: [], status: "streaming", model: this.model,
    });
    const answer = new Answer(this.api, conversation, message, {
      grow: () => { if (conversation === this.conversation) this.log.grow(message); },
      keep: () => { if (this.answers.get(conversation.id) === answer) this.keep(conversation); },
      end: () => this.onEnd(answer),
    });
    this.answers.set(conversation.id, answer);
    setPreference("conversation", conversation.id);
    this.keep(conversation);
    this.say("say.answering");
    this.update();
    answer.run();
  }

  onEnd(answer) {
    const { conversation, message } = answer;
    if (this.answers.get(conversation.id) !== answer) return; // deleted meanwhile
    this.answers.delete(conversation.id);
    this.keep(conversation);
    if (conversation === this.conversation) this.say(`say.${message.status}`);
    this.update();
    if (message.error || this.models.some(this.isOut)) this.readModels();
    this.on.answered();
  }

  // After one was loaded, or is gone
  async readModels() {
    const models = await this.api.models().catch(() => []);
    if (!models.length) return;
    this.models = models;
    this.updateModels();
  }

  isOut(model) {
    return ["unloaded", "loading"].includes(model?.llmapi_kit?.state);
  }

  chooseModel(model) {
    this.conversation.record.model = model;
    this.rememberDefaults();
    this.update();
  }

  change(name, value) {
    const { record } = this.conversation;
    if (name === "system") record.system = value;
    else if (value === null) delete record.sampling[name];
    else record.sampling[name] = value;
    this.rememberDefaults();
  }

  rememberDefaults() {
    const { model, system, sampling } = this.conversation.record;
    setPreference("defaults", { model, system, sampling });
    if (!this.conversation.isEmpty) this.keep(this.conversation);
  }

  async rename(id, title) {
    const conversation = this.known(id);
    if (conversation.record.title !== title) {
      conversation.rename(title);
      await this.keep(conversation);
    }
    this.update();
  }

  async remove(id) {
    const { record } = this.known(id);
    this.answers.get(id)?.stop();
    this.answers.delete(id);
    this.records = this.records.filter((each) => each.id !== id);
    if (id === this.conversation.id) this.begin();
    await this.store.remove(id);
    this.update();
    this.say("deleted");
    makeButton(t("undo"), byId("say"), async () => {
      await this.keep(new Conversation(mended(record)));
      this.say();
    });
  }

  // The one with this id, whether it is shown, answered or kept
  known(id) {
    if (id === this.conversation.id) return this.conversation;
    return this.answers.get(id)?.conversation ?? new Conversation(this.records.find((each) => each.id === id));
  }

  async keep(conversation) {
    const { record } = conversation;
    this.records = [record, ...this.records.filter(({ id }) => id !== record.id)].sort((a, b) => b.updatedAt - a.updatedAt);
    this.updateList();
    try {
      await this.store.put(record);
    } catch {
      show(byId("store-note"), "store.full");
    }
  }

  // Other tabs write there too
  async readAgain() {
    const kept = await this.store.all();
    const running = [...this.answers.values()].map(({ conversation }) => conversation.record);
    const own = new Set(running.map(({ id }) => id));
    this.records = [...running, ...kept.filter(({ id }) => !own.has(id))];
    this.updateList();
  }

  async forgetAll() {
    for (const answer of this.answers.values()) answer.stop();
    this.answers.clear();
    await this.store.clear();
    this.records = [];
    setPreference("defaults", null);
    this.begin();
  }

  stopAll() {
    for (const answer of this.answers.values()) answer.stop();
  }

  export(format) {
    const text = format === "md" ? this.conversation.toMarkdown(words()) : this.conversation.toJSON();
    const url = URL.createObjectURL(new Blob([text], { type: MEDIA_TYPES[format] }));
    const link = make("a", { href: url, download: `chat.${format}` }, document.body);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async copy(text) {
    this.say((await copyText(text)) ? "copied" : "noClipboard");
  }

  // Something for the user, which screen readers read out
  say(key, values) {
    const line = document.querySelector("dialog[open] [data-say]") ?? byId("say"); // what a dialog covers is not heard
    if (key) show(line, key, values);
    else hide(line);
  }

  redraw() {
    this.log.redraw(this.conversation.path(), this.isBusy);
    this.update();
  }

  update() {
    this.updateModels();
    this.log.update(this.conversation.path(), this.isBusy);
    this.composer.setBusy(this.isBusy);
    byId("title").textContent = showInvisible(this.conversation.record.title);
    show(byId("empty-title"), "empty.title", { model: showInvisible(this.model) });
    show(byId("empty-text"), "empty.text");
    this.updateList();
  }

  updateList() {
    this.sidebar.update(this.records, this.conversation.id, new Set(this.answers.keys()));
  }

  updateModels() {
    const select = byId("model");
    select.replaceChildren(...this.models.map((each) => {
      const name = showInvisible(each.id);
      const textContent = this.isOut(each) ? t(`model.${each.llmapi_kit.state}`, { name }) : name;
      return make("option", { value: each.id, textContent });
    }));
    select.value = this.model;
    this.composer.pictures.switch(Boolean(this.modelCard.llmapi_kit?.capabilities?.includes("vision")));
  }
}

function words() {
  return {
    you: t("you"), model: t("model"), system: t("export.system"), images: t("export.images"),
    stopped: t("figures.stopped"), failed: t("export.failed"),
  };
}

// A page that was left amid an answer has kept what had come by then
function mended(record) {
  for (const message of Object.values(record.messages)) {
    if (message.status === "streaming") Object.assign(message, { status: "failed", error: { kind: "cut", status: 0, message: "" } });
  }
  return record;
}
