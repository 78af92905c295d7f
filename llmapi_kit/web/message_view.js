// One message: a question that can be edited, or an answer with its reasoning, calls, figures, and what went wrong.

import { icon, iconButton } from "./controls.js";
import { make, makeButton } from "./dom.js";
import { renderPlain, showInvisible } from "./markdown.js";
import { number, show, t } from "./text.js";

// chat: {draw, say, copy, siblings, retry, edit, choose, enterKey, isLoaded}
export class MessageView {
  constructor(message, chat) {
    Object.assign(this, { message, chat, isUser: message.role === "user" });
    this.element = make("article", { className: `message ${message.role}` });
    this.who = make("h2", { className: "who" }, this.element);
    if (this.isUser) show(this.who, "you");
    else this.makeReasoning();
    this.pictures = make("div", { className: "pictures", hidden: true }, this.element);
    this.body = make("div", { className: "lk-body", dir: "auto" }, this.element);
    this.calls = make("div", { className: "calls" }, this.element);
    this.problem = make("div", { className: "problem", hidden: true, attributes: { role: "alert" } }, this.element);
    this.makeFoot();
    this.element.addEventListener("click", (event) => this.onClick(event));
  }

  makeReasoning() {
    this.reasoning = make("details", { className: "reasoning", hidden: true }, this.element);
    this.reasoningTitle = make("summary", {}, this.reasoning);
    this.reasoningBody = make("div", { className: "lk-body", dir: "auto" }, this.reasoning);
    // What is folded is not drawn while it grows
    this.reasoning.addEventListener("toggle", () => this.drawText());
  }

  makeFoot() {
    this.foot = make("div", { className: "foot" }, this.element);
    const { isUser, foot, chat } = this;
    this.branches = make("span", { className: "branches", hidden: true }, foot);
    this.back = iconButton(this.branches, "left", "previous", () => chat.choose(this.message, -1));
    this.branch = make("span", {}, this.branches);
    this.forth = iconButton(this.branches, "right", "next", () => chat.choose(this.message, 1));
    this.copyButton = iconButton(foot, "copy", isUser ? "copyQuestion" : "copyAnswer", () => chat.copy(this.message.content));
    this.again = isUser ? iconButton(foot, "edit", "edit", () => this.edit())
      : iconButton(foot, "retry", "retry", () => chat.retry(this.message));
    this.figures = make("span", { className: "figures" }, foot);
  }

  // All of it anew; isBusy: an answer is being made in this conversation
  update(isBusy) {
    const { message } = this;
    if (!this.isUser) this.who.textContent = showInvisible(message.model);
    this.element.classList.toggle("streaming", message.status === "streaming");
    this.drawText();
    this.drawPictures();
    this.drawProblem(isBusy);
    this.figures.textContent = figuresOf(message);
    this.drawBranches(isBusy);
    this.again.disabled = isBusy;
    this.again.hidden = Boolean(message.error); // what says so has one
    this.copyButton.hidden = !message.content;
  }

  drawText() {
    const { content, reasoning, status } = this.message;
    if (this.isUser) {
      renderPlain(this.body, showInvisible(content));
      return;
    }
    const isSettled = status !== "streaming";
    this.element.classList.toggle("waiting", !isSettled && !content && !reasoning);
    this.body.dataset.waiting = t(this.chat.isLoaded(this.message.model) ? "waiting" : "waitingToLoad");
    this.reasoning.hidden = !reasoning;
    if (reasoning) {
      this.reasoningTitle.textContent = t(isSettled || content ? "reasoning" : "thinking");
      if (this.reasoning.open) this.chat.draw(this.reasoningBody, reasoning, isSettled || Boolean(content));
    }
    this.chat.draw(this.body, content, isSettled);
    this.drawCalls();
  }

  drawCalls() {
    const calls = (this.message.calls ?? []).filter(Boolean);
    while (this.calls.children.length < calls.length) {
      const details = make("details", { className: "call" }, this.calls);
      make("summary", {}, details);
      make("pre", { attributes: { tabindex: "0" } }, details);
      make("p", { className: "hint", textContent: t("calls_hint") }, details);
    }
    calls.forEach((call, i) => {
      const [summary, pre] = this.calls.children[i].children;
      summary.textContent = t("calls", { name: showInvisible(call.name) });
      pre.textContent = showInvisible(call.arguments);
    });
  }

  drawPictures() {
    const images = this.message.images ?? [];
    this.pictures.hidden = !images.length;
    if (this.pictures.children.length === images.length) return;
    this.pictures.replaceChildren(...images.map((src, i) => make("img", { src, alt: t("image", { number: i + 1 }) })));
  }

  drawProblem(isBusy) {
    clearInterval(this.timer);
    const { error } = this.message;
    this.problem.hidden = !error;
    this.problem.replaceChildren();
    if (!error) return;
    make("p", { textContent: t(`error.${error.kind}`, { status: error.status }) }, this.problem);
    if (error.message) make("p", { className: "told", textContent: showInvisible(error.message) }, this.problem);
    if (error.retryAt) this.countDown(error.retryAt);
    const row = make("div", { className: "row" }, this.problem);
    const retry = make("button", { type: "button", disabled: isBusy }, row);
    icon("retry", retry);
    show(make("span", {}, retry), "retry");
    retry.addEventListener("click", () => this.chat.retry(this.message));
    if (error.kind === "unauthorized") makeButton(t("error.enterKey"), row, () => this.chat.enterKey());
  }

  // Silent to screen readers, which would read each second
  countDown(until) {
    const line = make("p", { attributes: { "aria-live": "off" } }, this.problem);
    const tick = () => {
      const seconds = Math.ceil((until - Date.now()) / 1000);
      if (seconds > 0 && this.element.isConnected) line.textContent = t("error.again", { seconds: number(seconds) });
      else { line.remove(); clearInterval(this.timer); }
    };
    this.timer = setInterval(tick, 1000);
    line.textContent = t("error.again", { seconds: number(Math.max(1, Math.ceil((until - Date.now()) / 1000))) });
  }

  drawBranches(isBusy) {
    const siblings = this.chat.siblings(this.message);
    const at = siblings.indexOf(this.message);
    this.branches.hidden = siblings.length < 2;
    this.branch.textContent = `${at + 1} / ${siblings.length}`;
    show(this.branch, "branch", { number: at + 1, count: siblings.length }, "name");
    this.branch.setAttribute("role", "img");
    this.back.disabled = isBusy || at === 0;
    this.forth.disabled = isBusy || at === siblings.length - 1;
  }

  edit() {
    if (this.editor) return;
    this.editor = make("form", { className: "editor" });
    const area = make("textarea", { value: this.message.content }, this.editor);
    show(area, "edited", {}, "name");
    const row = make("div", { className: "row" }, this.editor);
    make("button", { className: "primary", textContent: t("ask") }, row);
    makeButton(t("cancel"), row, () => this.closeEditor());
    this.editor.addEventListener("submit", (event) => {
      event.preventDefault();
      if (area.value.trim()) this.chat.edit(this.message, area.value);
      this.closeEditor();
    });
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.editor.requestSubmit();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        this.closeEditor();
      }
    });
    this.element.classList.add("editing");
    this.body.after(this.editor);
    area.focus();
  }

  closeEditor() {
    this.editor?.remove();
    this.editor = null;
    this.element.classList.remove("editing");
    if (this.element.isConnected) this.again.focus();
  }

  onClick(event) {
    const button = event.target.closest?.('button[data-copy="code"]');
    if (button) this.chat.copy(button.closest(".lk-code").querySelector("code").textContent);
  }

  close() {
    clearInterval(this.timer);
    this.element.remove();
  }
}

function figuresOf({ role, status, finishReason, promptTokens, completionTokens, tokensPerS, firstAfterS }) {
  if (role === "user" || status === "streaming") return "";
  return [
    status === "stopped" && t("figures.stopped"),
    finishReason === "length" && t("figures.length"),
    completionTokens !== undefined && t("figures.tokens", { asked: number(promptTokens), made: number(completionTokens) }),
    tokensPerS && t("figures.speed", { speed: number(Math.round(tokensPerS)) }),
    firstAfterS && t("figures.first", { seconds: number(firstAfterS, { maximumFractionDigits: 2 }) }),
  ].filter(Boolean).join(" · ");
}
