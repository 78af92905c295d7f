// The way in: a key that is typed, or an invitation that stands behind the # of the address, which no server gets to see.

import { Api } from "./api.js";
import { byId } from "./controls.js";
import { isRemembered, keepKey, keptKey } from "./kept.js";
import { showInvisible } from "./markdown.js";
import { show, t } from "./text.js";

const USED_UP = ["missing", "refused", "unauthorized", "forbidden"]; // what an invitation that is used up is answered with

// The invitation in the address, which is gone from it, and from the history, at once
export function takeInvitation() {
  const { hash, pathname, search } = location;
  if (!hash.includes("invite=")) return null;
  history.replaceState(history.state, "", pathname + search);
  return new URLSearchParams(hash.slice(1)).get("invite");
}

export class Door {
  // onOpen: gets the key, what is known of it, and the models
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.invitation = null;
    byId("door-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.open();
    });
    byId("door-use-key").addEventListener("click", () => this.ask(null));
  }

  // Show it; problem: why, in words
  ask(invitation, problem = "") {
    this.invitation = invitation;
    const isInvited = Boolean(invitation);
    show(byId("door-lead"), isInvited ? "door.invited" : "door.lead");
    show(byId("door-open"), "door.open");
    byId("door-key-row").hidden = isInvited;
    byId("door-use-key").hidden = !isInvited;
    // An invitation works once: whoever closes the tab would be locked out
    byId("door-remember").checked = isInvited || isRemembered();
    byId("door-problem").textContent = problem;
    byId("app").hidden = true;
    byId("door").hidden = false;
    byId(isInvited ? "door-open" : "door-key").focus();
  }

  async open() {
    const button = byId("door-open");
    if (button.disabled) return;
    button.disabled = true;
    show(button, "door.opening");
    byId("door-problem").textContent = "";
    try {
      const key = this.invitation ? await this.exchange() : byId("door-key").value.trim() || keptKey();
      await this.enter(key, byId("door-remember").checked);
    } catch (error) {
      this.tell(error);
    } finally {
      button.disabled = false;
      show(button, "door.open");
    }
  }

  // What was exchanged is kept before anything else is asked: there is no second time
  async exchange() {
    const { api_key: key } = await new Api().exchangeInvitation(this.invitation);
    keepKey(key, byId("door-remember").checked);
    this.invitation = null;
    return key;
  }

  async enter(key, isRemembered) {
    const api = new Api(key);
    const models = await api.models();
    const info = await api.keyInfo();
    keepKey(key, isRemembered);
    byId("door-key").value = "";
    await this.onOpen(api, info, models);
  }

  tell({ kind, status, message }) {
    const isUsedUp = this.invitation && USED_UP.includes(kind);
    const key = isUsedUp ? "door.noInvitation" : `error.${kind ?? "failed"}`;
    byId("door-problem").textContent = [t(key, { status }), showInvisible(message ?? "")].filter(Boolean).join(" ");
  }
}
