// The messages of the conversation that is shown. An answer that grows is drawn at most once a frame, and the rarer the
// longer drawing takes, so that a long one leaves the page room for everything else.

import { byId } from "./controls.js";
import { makeRenderer, renderPlain, showInvisible } from "./markdown.js";
import { MessageView } from "./message_view.js";
import { t } from "./text.js";

const NEAR_END_PX = 60;
const REST = 3; // times as long as the last drawing took

export class Log {
  // chat: what messages need, see MessageView; draw is added here
  constructor(chat, libraries) {
    this.chat = { ...chat, draw: (...given) => this.draw(...given) };
    this.render = libraries ? makeRenderer(libraries, () => t("copy")) : null;
    this.element = byId("log");
    this.messages = byId("messages");
    this.views = new Map(); // by the message's id
    this.grown = new Set();
    this.restUntil = 0;
    this.isAtEnd = true;
    this.element.addEventListener("scroll", () => { this.isAtEnd = this.distance() < NEAR_END_PX; });
    new ResizeObserver(() => this.follow()).observe(this.element);
  }

  // Show a conversation as it is now; what of it was shown already stays, with its selection
  update(path, isBusy) {
    const ids = new Set(path.map(({ id }) => id));
    for (const [id, view] of this.views) {
      if (ids.has(id)) continue;
      view.close();
      this.views.delete(id);
    }
    path.forEach((message, i) => {
      const view = this.viewOf(message);
      view.update(isBusy);
      if (this.messages.children[i] !== view.element) this.messages.insertBefore(view.element, this.messages.children[i] ?? null);
    });
    byId("empty").hidden = path.length > 0;
    this.element.setAttribute("aria-busy", String(isBusy));
    this.follow();
  }

  viewOf(message) {
    let view = this.views.get(message.id);
    if (!view) {
      view = new MessageView(message, this.chat);
      this.views.set(message.id, view);
      if (message.role === "user") this.isAtEnd = true;
    }
    view.message = message;
    return view;
  }

  // Every word anew, in another language
  redraw(path, isBusy) {
    for (const view of this.views.values()) view.close();
    this.views.clear();
    this.update(path, isBusy);
  }

  grow(message) {
    this.grown.add(message.id);
    if (this.frame) return;
    this.frame = requestAnimationFrame((now) => this.paint(now));
  }

  paint(now) {
    this.frame = null;
    if (now < this.restUntil) {
      this.frame = requestAnimationFrame((later) => this.paint(later));
      return;
    }
    const startedAt = performance.now();
    for (const id of this.grown) this.views.get(id)?.drawText();
    this.grown.clear();
    this.follow();
    this.restUntil = now + REST * (performance.now() - startedAt);
  }

  draw(element, text, isSettled) {
    const key = `${isSettled} ${text}`;
    if (element.drawnKey === key) return;
    element.drawnKey = key;
    if (this.render) this.render(element, text, isSettled);
    else renderPlain(element, showInvisible(text));
  }

  distance() {
    return this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight;
  }

  // Stay at the end, unless somebody has scrolled up to read
  follow() {
    if (this.isAtEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  showEnd() {
    this.isAtEnd = true;
    this.follow();
  }
}
