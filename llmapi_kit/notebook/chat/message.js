// One message of the chat: a question that can be edited, or an answer with its reasoning, calls and figures.

const COPIED = "Copied.";
const NO_CLIPBOARD = "The page may not write to the clipboard here.";

function formatFigures(message) {
  const number = (value) => value.toLocaleString("en-US");
  const { status, num_prompt_tokens: asked, num_completion_tokens: made } = message;
  return [
    status === "stopped" && "stopped",
    message.finish_reason === "length" && "cut off at max_tokens or the context's end",
    status !== "streaming" && asked && `${number(asked)} + ${number(made)} tokens`,
    message.ttft_s && `first after ${message.ttft_s.toFixed(2)} s`,
    message.tokens_per_s && `${number(Math.round(message.tokens_per_s))} tokens/s`,
  ].filter(Boolean).join(" · ");
}

// chat: {run, render, say}: sends a command of this pane, draws Markdown, tells the user something
class MessageView {
  constructor(message, chat) {
    this.chat = chat;
    this.isUser = message.role === "user";
    this.element = make("article", { className: `lk-message lk-${message.role}` });
    this.head = make("div", { className: "lk-who" }, this.element);
    if (!this.isUser) {
      this.reasoning = make("details", { className: "lk-reasoning", hidden: true }, this.element);
      make("summary", { textContent: "Reasoning" }, this.reasoning);
      this.reasoningBody = make("div", { className: "lk-body" }, this.reasoning);
    }
    this.images = make("div", { className: "lk-images", hidden: true }, this.element);
    this.body = make("div", { className: "lk-body", dir: "auto" }, this.element);
    this.calls = make("div", { className: "lk-calls" }, this.element);
    this.error = make("div", { className: "lk-error", hidden: true, attributes: { role: "alert" } }, this.element);
    this.foot = make("div", { className: "lk-foot" }, this.element);
    this.makeFoot();
    this.body.addEventListener("click", (event) => this.onBodyClick(event));
    this.update(message);
  }

  makeFoot() {
    this.back = makeButton("‹", this.foot, () => this.showBranch(-1), "Previous version");
    this.branch = make("span", { className: "lk-branch" }, this.foot);
    this.forth = makeButton("›", this.foot, () => this.showBranch(1), "Next version");
    makeButton("Copy", this.foot, () => this.copy(this.message.content), this.isUser ? "Copy question" : "Copy answer");
    if (this.isUser) this.again = makeButton("Edit", this.foot, () => this.edit(), "Edit question");
    else this.again = makeButton("Retry", this.foot, () => this.chat.run("retry", { id: this.message.id }), "Retry answer");
    this.figures = make("span", { className: "lk-figures" }, this.foot);
  }

  update(message, isBusy = false) {
    this.message = { ...message };
    this.head.textContent = this.isUser ? "You" : showInvisible(message.model || "Model");
    this.draw();
    this.drawImages();
    this.drawCalls();
    this.error.hidden = !message.error;
    this.error.textContent = showInvisible(message.error);
    this.figures.textContent = formatFigures(message);
    const count = message.branches.length;
    for (const each of [this.back, this.branch, this.forth]) each.hidden = count < 2;
    this.branch.textContent = `${message.branch + 1} / ${count}`;
    this.back.disabled = isBusy || message.branch === 0;
    this.forth.disabled = isBusy || message.branch === count - 1;
    this.again.disabled = isBusy;
  }

  grow(content, reasoning) {
    this.message.content += content;
    this.message.reasoning += reasoning;
    this.draw();
  }

  draw() {
    const { content, reasoning, status } = this.message;
    const isSettled = status !== "streaming";
    this.element.classList.toggle("lk-streaming", !isSettled);
    if (this.isUser) {
      renderPlain(this.body, showInvisible(content));
      return;
    }
    this.reasoning.hidden = !reasoning;
    if (reasoning) this.chat.render(this.reasoningBody, reasoning, isSettled || Boolean(content));
    this.chat.render(this.body, content, isSettled);
  }

  drawImages() {
    const { images } = this.message;
    if (this.images.children.length === images.length) return; // they never change
    this.images.hidden = !images.length;
    this.images.replaceChildren(...images.map(({ thumbnail, title }, i) => {
      const text = showInvisible(`Picture ${i + 1}: ${title}`);
      return thumbnail ? make("img", { src: thumbnail, alt: text, title: text }) : make("span", { textContent: text });
    }));
  }

  drawCalls() {
    const { tool_calls: calls, status } = this.message;
    const key = JSON.stringify([calls, status]);
    if (this.calls.lkKey === key) return;
    this.calls.lkKey = key;
    this.calls.replaceChildren();
    for (const call of calls) {
      const isOpen = call.status === "waiting";
      const details = make("details", { open: isOpen, className: `lk-call lk-call-${call.status}` }, this.calls);
      make("summary", { textContent: showInvisible(`${call.name}: ${call.status}`) }, details);
      make("div", { className: "lk-label", textContent: "Arguments" }, details);
      make("pre", { textContent: showInvisible(call.arguments || "{}"), attributes: { tabindex: "0" } }, details);
      if (call.result) {
        make("div", { className: "lk-label", textContent: "Result" }, details);
        make("pre", { textContent: showInvisible(call.result), attributes: { tabindex: "0" } }, details);
      }
    }
    if (status === "waiting") this.drawQuestion();
  }

  drawQuestion() {
    const row = make("div", { className: "lk-allow" }, this.calls);
    make("span", { textContent: "The model wants this run in your kernel." }, row);
    makeButton("Run", row, () => this.chat.run("allow", { allow: true })).classList.add("lk-primary");
    makeButton("Don't run", row, () => this.chat.run("allow", { allow: false }));
  }

  showBranch(step) {
    this.chat.run("show", { id: this.message.branches[this.message.branch + step] });
  }

  edit() {
    if (this.editor) return;
    this.editor = make("form", { className: "lk-edit" });
    const area = make("textarea", { value: this.message.content, attributes: { "aria-label": "Edited question" } }, this.editor);
    const kept = new Set(this.message.images.keys());
    const row = make("div", { className: "lk-row" }, this.editor);
    make("button", { type: "submit", textContent: "Ask", className: "lk-primary" }, row);
    const close = () => {
      this.editor?.remove();
      this.editor = null;
      this.body.hidden = this.foot.hidden = false;
      for (const image of this.images.children) image.hidden = false;
    };
    makeButton("Cancel", row, () => { close(); this.again.focus(); });
    for (const place of [...kept]) {
      const remover = makeButton(`Remove picture ${place + 1}`, row, () => {
        kept.delete(place);
        this.images.children[place].hidden = true;
        remover.remove();
        area.focus();
      });
    }
    this.editor.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!area.value.trim()) return;
      this.chat.run("edit", { id: this.message.id, text: area.value, kept: [...kept] });
      close();
    });
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.editor.requestSubmit();
      }
      if (event.key === "Escape") { event.stopPropagation(); close(); this.again.focus(); }
    });
    this.body.hidden = this.foot.hidden = true;
    this.body.after(this.editor);
    area.focus();
  }

  async copy(text) {
    this.chat.say((await copyText(text)) ? COPIED : NO_CLIPBOARD);
  }

  onBodyClick(event) {
    const button = event.target.closest?.('button[data-copy="code"]');
    if (button) this.copy(button.closest(".lk-code").querySelector("code").textContent);
  }
}
