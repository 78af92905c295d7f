// The list of conversations: open, rename, delete. A drawer where the window is narrow.

import { byId, iconButton } from "./controls.js";
import { make } from "./dom.js";
import { showInvisible } from "./markdown.js";
import { show, t } from "./text.js";

const NARROW = matchMedia("(max-width: 760px)");

export class Sidebar {
  // on: {open(id), begin(), rename(id, title), remove(id)}
  constructor(on) {
    this.on = on;
    this.element = byId("sidebar");
    this.list = byId("conversation-list");
    byId("new-chat").addEventListener("click", () => { on.begin(); this.hide(); });
    byId("open-sidebar").addEventListener("click", () => this.unfold());
    byId("close-sidebar").addEventListener("click", () => this.hide());
    byId("shade").addEventListener("click", () => this.hide());
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isUnfolded) { event.stopPropagation(); this.hide(); }
    });
    NARROW.addEventListener("change", () => this.setUnfolded(false));
    this.setUnfolded(false);
  }

  unfold() {
    this.setUnfolded(true);
    byId("close-sidebar").focus();
  }

  hide() {
    if (!this.isUnfolded) return;
    this.setUnfolded(false);
    byId("open-sidebar").focus();
  }

  setUnfolded(isUnfolded) {
    this.isUnfolded = isUnfolded;
    this.element.classList.toggle("unfolded", isUnfolded);
    // What is out of sight is out of reach: the drawer when it is closed, the chat when it is covered
    this.element.inert = NARROW.matches && !isUnfolded;
    byId("main").inert = isUnfolded;
    byId("shade").hidden = !isUnfolded;
    byId("open-sidebar").setAttribute("aria-expanded", String(isUnfolded));
  }

  // records: newest first; current: the id of the one shown; busy: ids of those that are answered
  update(records, current, busy) {
    if (this.list.contains(document.activeElement) && this.isRenaming) return;
    const at = [...this.list.querySelectorAll("button")].indexOf(document.activeElement);
    this.list.replaceChildren(...records.map((record) => this.item(record, record.id === current, busy.has(record.id))));
    if (at >= 0) this.list.querySelectorAll("button")[at]?.focus();
  }

  item({ id, title }, isCurrent, isBusy) {
    const shown = showInvisible(title) || t("untitled");
    const item = make("li", { className: isCurrent ? "current" : "" });
    const open = make("button", { type: "button", className: "conversation", dir: "auto", textContent: shown }, item);
    if (isCurrent) open.setAttribute("aria-current", "true");
    if (isBusy) make("span", { className: "dot", attributes: { role: "img", "aria-label": t("answering") } }, open);
    open.addEventListener("click", () => { this.on.open(id); this.hide(); });
    const values = { title: shown };
    iconButton(item, "edit", "rename", () => this.rename(item, id, title), values);
    iconButton(item, "trash", "delete", () => this.on.remove(id), values);
    return item;
  }

  rename(item, id, title) {
    const input = make("input", { value: title, maxLength: 200 });
    show(input, "renamed", {}, "name");
    this.isRenaming = true;
    const end = (isKept) => {
      if (!this.isRenaming) return;
      this.isRenaming = false;
      this.on.rename(id, isKept && input.value.trim() ? input.value.trim() : title);
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) end(true);
      if (event.key === "Escape") { event.stopPropagation(); end(false); }
    });
    input.addEventListener("blur", () => end(true));
    item.replaceChildren(input);
    input.select();
  }
}
