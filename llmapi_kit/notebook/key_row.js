// The key's row under a server's card: Reveal and Copy.
//
// The key is in no trait, so it is in no saved notebook: it is asked for by a custom message, comes as one, stands in
// the page for a while and is taken out again. Plain DOM; the styles are those of the card.

const SHOWN_FOR_MS = 20_000;
const ANSWER_WITHIN_MS = 10_000;

function make(tag, properties, parent) {
  const element = Object.assign(document.createElement(tag), properties);
  parent.append(element);
  return element;
}

function render({ model, el }) {
  const waiting = new Map(); // request to [resolve, timer]
  let hideTimer = null;

  const row = make("div", { className: "llmapi-kit-key-row" }, el);
  const key = make("code", { className: "llmapi-kit-key" }, row);
  const reveal = make("button", { type: "button" }, row);
  const copy = make("button", { type: "button", textContent: "Copy key" }, row);
  const note = make("span", { className: "llmapi-kit-note" }, row);
  note.setAttribute("role", "status");

  function ask() {
    // Several pages may show this widget: each takes only the answer to its own question
    const request = `${Date.now()}-${Math.random()}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.delete(request);
        reject(new Error("The kernel does not answer: it is busy with a cell, or gone."));
      }, ANSWER_WITHIN_MS);
      waiting.set(request, [resolve, reject, timer]);
      model.send({ kind: "ask", request });
    });
  }

  function onMessage(message) {
    const waiter = waiting.get(message?.request);
    if (!waiter) return;
    const [resolve, reject, timer] = waiter;
    waiting.delete(message.request);
    clearTimeout(timer);
    if (message.kind === "key") resolve(message.key);
    else reject(new Error(message.text));
  }

  function hide() {
    clearTimeout(hideTimer);
    hideTimer = null;
    key.textContent = model.get("masked");
    reveal.textContent = "Reveal";
  }

  function show(text) {
    key.textContent = text;
    reveal.textContent = "Hide";
    clearTimeout(hideTimer);
    hideTimer = setTimeout(() => { hide(); note.textContent = ""; }, SHOWN_FOR_MS);
  }

  function select() {
    const range = document.createRange();
    range.selectNodeContents(key);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }

  async function guarded(work) {
    note.textContent = "";
    reveal.disabled = copy.disabled = true;
    try {
      await work();
    } catch (error) {
      note.textContent = error.message;
    } finally {
      reveal.disabled = copy.disabled = false;
    }
  }

  reveal.addEventListener("click", () => {
    if (hideTimer !== null) {
      hide();
      note.textContent = "";
    } else {
      guarded(async () => {
        show(await ask());
        note.textContent = `hidden again after ${SHOWN_FOR_MS / 1000} s`;
      });
    }
  });

  copy.addEventListener("click", () => guarded(async () => {
    const text = await ask();
    try {
      await navigator.clipboard.writeText(text);
      note.textContent = "copied";
    } catch {
      // Without https, or without permission, a page may not write to the clipboard
      show(text);
      select();
      note.textContent = "selected: copy it with Ctrl-C or ⌘C";
    }
  }));

  model.on("msg:custom", onMessage);
  model.on("change:masked", hide);
  hide();

  return () => {
    clearTimeout(hideTimer);
    for (const [, , timer] of waiting.values()) clearTimeout(timer);
    model.off("msg:custom", onMessage);
    model.off("change:masked", hide);
    el.replaceChildren();
  };
}

export default { render };
