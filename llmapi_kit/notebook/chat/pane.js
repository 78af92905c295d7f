// One conversation: its messages, one below the other. A comparison has several, side by side.

const NEAR_END_PX = 40;

class PaneView {
  constructor(parent, index, chat) {
    this.index = index;
    this.chat = {
      render: chat.render,
      say: chat.say,
      run: (kind, content) => chat.run(kind, { pane: index, ...content }),
    };
    this.views = new Map(); // by the message's id
    this.element = make("section", { className: "lk-pane" }, parent);
    const head = make("div", { className: "lk-pane-head" }, this.element);
    this.name = make("span", {}, head);
    this.choice = make("label", { textContent: "Model " }, head);
    this.model = make("select", {}, this.choice);
    this.model.addEventListener("change", () => this.chat.run("set", { options: { model: this.model.value } }));
    this.log = make("div", { className: "lk-log", attributes: { tabindex: "0", role: "log", "aria-live": "off" } }, this.element);
    this.empty = make("div", { className: "lk-empty" }, this.log);
    this.log.addEventListener("scroll", () => { this.isAtEnd = this.distance() < NEAR_END_PX; });
    this.isAtEnd = true;
  }

  distance() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight;
  }

  update(pane) {
    this.updateModels(pane);
    this.log.setAttribute("aria-label", `Conversation with ${this.model.value || "the model"}`);
    this.log.setAttribute("aria-busy", String(pane.is_busy));
    const ids = new Set(pane.messages.map((message) => message.id));
    for (const [id, view] of this.views) {
      if (ids.has(id)) continue;
      view.element.remove();
      this.views.delete(id);
    }
    let place = this.empty;
    for (const message of pane.messages) {
      let view = this.views.get(message.id);
      if (!view) {
        view = new MessageView(message, this.chat);
        this.views.set(message.id, view);
        if (message.role === "user") this.isAtEnd = true;
      }
      view.update(message, pane.is_busy);
      if (place.nextSibling !== view.element) place.after(view.element);
      place = view.element;
    }
    this.empty.hidden = pane.messages.length > 0;
    this.empty.textContent = `Ask ${this.model.value ? showInvisible(this.model.value) : "the model"} something.`;
    if (pane.tools.length) this.empty.textContent += ` It may call ${pane.tools.join(", ")}.`;
    this.follow();
  }

  updateModels({ models, options }) {
    const chosen = options.model || models[0] || "";
    const names = models.includes(chosen) || !chosen ? models : [chosen, ...models];
    if ([...this.model.options].map((option) => option.value).join("\n") !== names.join("\n")) {
      this.model.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
    }
    this.model.value = chosen;
    this.choice.hidden = names.length < 2;
    this.name.hidden = !this.choice.hidden;
    this.name.textContent = showInvisible(chosen);
  }

  grow({ id, content, reasoning }) {
    this.views.get(id)?.grow(content, reasoning);
    this.follow();
  }

  redraw() {
    for (const view of this.views.values()) view.draw();
    this.follow();
  }

  // Stay at the end, unless somebody has scrolled up to read
  follow() {
    if (this.isAtEnd) this.log.scrollTop = this.log.scrollHeight;
  }
}
