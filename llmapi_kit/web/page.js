// Begins the page: language and colours, the way in, then the chat.

import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { byId, prepareDialog } from "./controls.js";
import { ConversationStore } from "./conversation_store.js";
import { make } from "./dom.js";
import { Door, takeInvitation } from "./door.js";
import { forgetKey, keptKey, preference, setPreference } from "./kept.js";
import hljs from "./lib/highlight.js";
import { showInvisible } from "./markdown.js";
import { StatusPanel } from "./status_panel.js";
import { chooseLanguage, firstLanguage, language, moment, number, setLanguage, show, t } from "./text.js";

const LANGUAGES = { en: "English", zh: "中文" };
const THEMES = ["system", "light", "dark"];

class Page {
  constructor(store) {
    const { markdownit, DOMPurify, katex } = globalThis;
    this.door = new Door((...given) => this.enter(...given));
    this.chat = new Chat(store, { markdownit, DOMPurify, katex, hljs }, {
      keyNeeded: () => this.door.ask(null),
      answered: () => { if (this.info?.budget) this.readInfo(); },
    });
    this.status = new StatusPanel(() => this.api);
    byId("open-status").addEventListener("click", () => this.status.open());
    byId("sign-out").addEventListener("click", () => byId("leave").showModal());
    byId("leave-yes").addEventListener("click", () => this.leave());
    // Following an invitation while the page is open changes nothing but what is behind the #
    addEventListener("hashchange", () => this.invite());
  }

  async start() {
    if (this.invite()) return;
    const key = keptKey();
    const api = new Api(key);
    try {
      const models = await api.models();
      await this.enter(api, await api.keyInfo(), models);
    } catch (error) {
      this.door.ask(null);
      if (key || error.kind !== "unauthorized") this.door.tell(error);
    }
  }

  invite() {
    const invitation = takeInvitation();
    if (invitation) this.door.ask(invitation);
    return Boolean(invitation);
  }

  async enter(api, info, models) {
    if (!models.length) {
      this.door.ask(null, t("door.noModels"));
      return;
    }
    Object.assign(this, { api, info });
    byId("door").hidden = true;
    byId("app").hidden = false;
    byId("open-status").hidden = !info?.is_owner;
    byId("sign-out").hidden = !api.key;
    this.showWho();
    await this.chat.start(api, models);
  }

  // What is left of the budget
  async readInfo() {
    this.info = await this.api.keyInfo().catch(() => this.info);
    this.showWho();
  }

  async leave() {
    byId("leave").close();
    this.chat.stopAll();
    if (byId("leave-clear").checked) await this.chat.forgetAll();
    forgetKey();
    this.door.ask(null);
  }

  showWho() {
    const lines = this.info ? whoLines(this.info) : [];
    byId("who").replaceChildren(...lines.map((textContent) => make("p", { textContent })));
  }

  translate() {
    setLanguage(language);
    for (const select of document.querySelectorAll('[data-choice="theme"]')) fillThemes(select);
    this.showWho();
    if (!byId("app").hidden) this.chat.redraw();
  }
}

function whoLines({ name, is_owner: isOwner, limits, budget, expires_at: end }) {
  const lines = [isOwner ? t("who.owner") : t("who.name", { name: showInvisible(name ?? "") })];
  for (const [limit, value] of Object.entries(limits ?? {})) {
    if (value && ["rpm", "tpm", "concurrency"].includes(limit)) lines.push(t(`who.${limit}`, { value: number(value) }));
  }
  if (budget) lines.push(t("who.budget", { used: number(budget.used), tokens: number(budget.tokens) }));
  if (end) lines.push(t("who.until", { time: moment(typeof end === "number" ? end * 1000 : end) }));
  return lines;
}

function fillThemes(select) {
  select.replaceChildren(...THEMES.map((value) => make("option", { value, textContent: t(`theme.${value}`) })));
  select.value = preference("theme") ?? "system";
}

function chooseTheme(theme) {
  setPreference("theme", theme);
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  for (const select of document.querySelectorAll('[data-choice="theme"]')) select.value = theme;
}

function prepareChoices(onLanguage) {
  for (const select of document.querySelectorAll('[data-choice="language"]')) {
    select.replaceChildren(...Object.entries(LANGUAGES).map(([value, textContent]) => make("option", { value, textContent })));
    select.value = language;
    select.addEventListener("change", () => onLanguage(select.value));
  }
  for (const select of document.querySelectorAll('[data-choice="theme"]')) {
    fillThemes(select);
    select.addEventListener("change", () => chooseTheme(select.value));
  }
}

async function begin() {
  setLanguage(firstLanguage());
  document.querySelectorAll("dialog").forEach(prepareDialog);
  const page = new Page(await ConversationStore.open());
  prepareChoices((code) => {
    chooseLanguage(code);
    for (const select of document.querySelectorAll('[data-choice="language"]')) select.value = code;
    page.translate();
  });
  await page.start();
}

begin();
