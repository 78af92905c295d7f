// System prompt and sampling of the conversation that is shown, and its export.

import { byId } from "./controls.js";
import { make } from "./dom.js";
import { show, t } from "./text.js";

const FIELDS = {
  temperature: { min: 0, max: 2, step: "any" },
  top_p: { min: 0, max: 1, step: "any" },
  max_tokens: { min: 1, step: 1 },
  seed: { step: 1 },
};

export class Settings {
  // on: {change(name, value), export(format), copy()}; a value of null is the model's own
  constructor(on) {
    this.on = on;
    this.dialog = byId("settings");
    this.system = byId("system");
    this.inputs = {};
    for (const [name, limits] of Object.entries(FIELDS)) this.makeField(name, limits);
    this.system.addEventListener("change", () => on.change("system", this.system.value));
    byId("export-markdown").addEventListener("click", () => on.export("md"));
    byId("export-json").addEventListener("click", () => on.export("json"));
    byId("copy-conversation").addEventListener("click", () => on.copy());
  }

  makeField(name, limits) {
    const label = make("label", {}, byId("sampling"));
    show(make("span", {}, label), `settings.${name}`);
    const input = make("input", { type: "number", inputMode: "decimal", ...limits }, label);
    const problem = make("span", { className: "field-problem", id: `${name}-problem` }, label);
    input.setAttribute("aria-describedby", problem.id);
    input.addEventListener("input", () => {
      const isGood = input.validity.valid;
      input.setAttribute("aria-invalid", String(!isGood));
      problem.textContent = isGood ? "" : wanted(limits);
      if (isGood) this.on.change(name, input.value === "" ? null : Number(input.value));
    });
    this.inputs[name] = input;
  }

  // defaults: what the model takes where nothing is given, as far as it is known
  open({ system, sampling }, defaults = {}) {
    this.system.value = system;
    for (const [name, input] of Object.entries(this.inputs)) {
      const value = defaults[name];
      show(input, value === undefined ? "settings.own" : "settings.ownValue", { value }, "placeholder");
      input.value = sampling[name] ?? "";
      input.dispatchEvent(new Event("input"));
    }
    this.dialog.showModal();
  }
}

function wanted(limits) {
  if (limits.max !== undefined) return t("settings.bad", limits);
  return limits.min === undefined ? t("settings.whole") : t("settings.least", limits);
}
