// Elements, and the clipboard. Shared by the page and the notebook's chat.

export function make(tag, properties, parent) {
  const { attributes = {}, ...others } = properties ?? {};
  const element = Object.assign(document.createElement(tag), others);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent?.append(element);
  return element;
}

export function makeButton(label, parent, onClick, title) {
  const button = make("button", { type: "button", textContent: label, title: title ?? "" }, parent);
  if (title) button.setAttribute("aria-label", title);
  button.addEventListener("click", onClick);
  return button;
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https, or without permission, there is only the old way
    const area = make("textarea", { value: text, className: "lk-offscreen" }, document.querySelector("dialog:modal") ?? document.body);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
