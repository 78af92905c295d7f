// Where a question is written.

import { byId } from "./controls.js";
import { Pictures } from "./pictures.js";

const MAX_ROWS_PX = 240;

export class Composer {
  // on: {send(text, images) → whether it was taken, stop, say}
  constructor(on) {
    this.on = on;
    this.input = byId("question");
    this.sendButton = byId("send");
    this.stopButton = byId("stop");
    this.pictures = new Pictures(on.say);
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.input.addEventListener("input", () => this.fit());
    this.stopButton.addEventListener("click", () => on.stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open]")) on.stop();
    });
  }

  send() {
    const text = this.input.value;
    if (!text.trim()) return;
    if (!this.on.send(text, this.pictures.urls)) return;
    this.pictures.take();
    this.input.value = "";
    this.fit();
  }

  // As high as what is written, up to a limit
  fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight, MAX_ROWS_PX)}px`;
  }

  setBusy(isBusy) {
    const active = document.activeElement;
    this.sendButton.hidden = isBusy;
    this.stopButton.hidden = !isBusy;
    // Whoever pressed a button that goes away must not find the focus at the page's beginning
    if (active === this.sendButton && isBusy) this.stopButton.focus();
    if (active === this.stopButton && !isBusy) this.input.focus();
  }

  focus() {
    this.input.focus();
  }
}
