// What the server does now, for its owner. Looked at every few seconds while it is in sight.

import { byId } from "./controls.js";
import { make } from "./dom.js";
import { showInvisible } from "./markdown.js";
import { moment, number, t } from "./text.js";

const EVERY_MS = 3000;
const REQUEST_HEADS = ["key", "model", "route", "state", "tokens", "seconds"].map((name) => `status.${name}`);
const MODEL_HEADS = ["model", "running", "queued", "speed"].map((name) => `status.${name}`);
const KEY_HEADS = ["key", "state", "running", "today", "tokensToday"].map((name) => `status.${name}`);

export class StatusPanel {
  constructor(api) {
    this.api = api;
    this.dialog = byId("status");
    this.dialog.addEventListener("close", () => this.pause());
    document.addEventListener("visibilitychange", () => {
      if (this.dialog.open && !document.hidden) this.look();
      else this.pause();
    });
  }

  open() {
    this.dialog.showModal();
    this.look();
  }

  pause() {
    clearTimeout(this.timer);
    this.asking?.abort();
  }

  async look() {
    this.pause();
    const asking = new AbortController();
    this.asking = asking;
    try {
      this.draw(await this.api().status(asking.signal));
    } catch {
      if (!asking.signal.aborted) byId("status-line").textContent = t("status.lost");
    }
    if (asking.signal.aborted) return;
    this.timer = setTimeout(() => this.look(), EVERY_MS);
  }

  draw({ models = [], requests = [], keys = [], tunnel, started_at: startedAt }) {
    const time = typeof startedAt === "number" ? startedAt * 1000 : startedAt;
    byId("status-line").textContent = t("status.since", { time: moment(time), now: moment(Date.now(), { timeStyle: "medium" }) });
    byId("status-body").replaceChildren(
      part("status.requests", requests.length
        ? table(REQUEST_HEADS, requests.map(requestRow))
        : t("status.noRequests")),
      part("status.models", table(MODEL_HEADS, models.map(modelRow))),
      part("status.keys", keys.length
        ? table(KEY_HEADS, keys.map(keyRow))
        : t("status.noKeys")),
      part("status.tunnel", tunnel ? table(["status.tunnel", "status.state", "URL"], [tunnelRow(tunnel)]) : t("status.noTunnel")),
    );
  }
}

function requestRow({ key, model, route, state, prompt_tokens: asked, completion_tokens: made, seconds }) {
  return [key, model, route, state, `${number(asked ?? 0)} + ${number(made ?? 0)}`, number(seconds ?? 0, { maximumFractionDigits: 1 })];
}

function modelRow({ id, num_running: running, num_slots: slots, num_queued: queued, tokens_per_s: speed }) {
  return [id, slots ? `${number(running)} / ${number(slots)}` : number(running ?? 0), number(queued ?? 0), number(Math.round(speed ?? 0))];
}

function keyRow({ name, is_paused: isPaused, running, requests_today: requests, tokens_today: tokens }) {
  return [name, t(isPaused ? "status.paused" : "status.active"), number(running ?? 0), number(requests ?? 0), number(tokens ?? 0)];
}

function tunnelRow({ kind, state, public_url: url, reason }) {
  return [kind, [state, reason].filter(Boolean).join(": "), url];
}

function part(key, content) {
  const section = make("section");
  make("h3", { textContent: t(key) }, section);
  if (typeof content === "string") make("p", { className: "hint", textContent: content }, section);
  else section.append(content);
  return section;
}

function table(heads, rows) {
  const box = make("div", { className: "table", tabIndex: 0 });
  const whole = make("table", {}, box);
  const head = make("tr", {}, make("thead", {}, whole));
  for (const key of heads) make("th", { scope: "col", textContent: key === "URL" ? key : t(key) }, head);
  const body = make("tbody", {}, whole);
  for (const cells of rows) {
    const row = make("tr", {}, body);
    for (const cell of cells) make("td", { textContent: showInvisible(String(cell ?? "")) }, row);
  }
  return box;
}
