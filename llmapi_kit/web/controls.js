// Buttons with pictures, and dialogs.

import { make } from "./dom.js";
import { hide, show } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function icon(name, parent) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "use"));
  svg.firstChild.setAttribute("href", `#icon-${name}`);
  parent.append(svg);
  return svg;
}

export function iconButton(parent, name, key, onClick, values) {
  const button = make("button", { type: "button", className: "icon-button" }, parent);
  icon(name, button);
  show(button, key, values, "label");
  button.addEventListener("click", onClick);
  return button;
}

// Its buttons with data-close close it, and so does a click beside it; what was said in it goes
export function prepareDialog(dialog) {
  dialog.addEventListener("close", () => {
    const said = dialog.querySelector("[data-say]");
    if (said) hide(said);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
  });
}
