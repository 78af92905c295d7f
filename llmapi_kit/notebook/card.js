// A server's card, alive: its state, copy buttons, the key on demand, stop, restart and the tunnel; team.js has the keys.
//
// The key is in no trait and in no HTML, so it is in no saved notebook: it is asked for, comes as a message, stands in
// the page for a while and is taken out again, at once when the server stops or the kernel goes.

const SHOWN_FOR_MS = 20_000;
const TUNNEL_WITHIN_MS = 120_000; // its agent may have to be downloaded, and several may be tried

function buildCard(element, call) {
  element.classList.add("llmapi-kit-card");
  const head = make("div", { className: "llmapi-kit-head" }, element);
  const dot = make("span", { className: "llmapi-kit-dot" }, head);
  const title = make("strong", {}, head);
  const models = make("span", { className: "llmapi-kit-dim" }, head);
  const speed = make("span", { className: "llmapi-kit-speed llmapi-kit-dim" }, head);
  const body = make("div", { className: "llmapi-kit-body" }, element);
  const rows = make("div", { className: "llmapi-kit-rows" }, body);
  const qrCode = make("img", { className: "llmapi-kit-qr", hidden: true }, body);
  const snippets = make("div", {}, element);
  const team = buildTeam(element, call);
  const foot = make("div", { className: "llmapi-kit-foot" }, element);
  const stop = make("button", { type: "button", textContent: "Stop" }, foot);
  const restart = make("button", { type: "button", textContent: "Restart" }, foot);
  const reopen = make("button", { type: "button", textContent: "Reopen tunnel", hidden: true }, foot);
  const close = make("button", { type: "button", textContent: "Close tunnel", hidden: true }, foot);
  const buttons = [stop, restart, reopen, close];
  const note = make("span", { className: "llmapi-kit-dim" }, foot);
  note.setAttribute("role", "status");
  title.setAttribute("role", "status");

  let state = null;
  let drawn = "";
  let opened = new Set([0]);
  let hideKey = () => {};

  async function act(action, doing) {
    for (const each of buttons) each.disabled = true;
    note.textContent = doing;
    try {
      await call(action, {}, TUNNEL_WITHIN_MS);
      note.textContent = state.hint;
    } catch (error) {
      note.textContent = error.message;
    } finally {
      for (const each of buttons) each.disabled = false;
    }
  }
  stop.addEventListener("click", () => act("stop", "Stopping; running requests may finish first …"));
  restart.addEventListener("click", () => act("restart", "Starting again …"));
  reopen.addEventListener("click", () => act("reopen_tunnel", "Opening the tunnel again …"));
  close.addEventListener("click", () => act("close_tunnel", "Closing the tunnel …"));

  function addKey(row, value) {
    let timer = null;
    const key = make("code", { className: "llmapi-kit-key", textContent: value }, row);
    const said = make("span", { className: "llmapi-kit-dim" });
    said.setAttribute("role", "status");
    const reveal = make("button", { type: "button", textContent: "Reveal" }, row);
    const copy = make("button", { type: "button", textContent: "Copy key" }, row);
    row.append(said);
    const hide = () => {
      clearTimeout(timer);
      timer = null;
      key.textContent = value;
      reveal.textContent = "Reveal";
      said.textContent = "";
    };
    async function withKey(use) {
      reveal.disabled = copy.disabled = true;
      said.textContent = "";
      try {
        await use((await call("key")).key);
      } catch (error) {
        said.textContent = error.message;
      } finally {
        reveal.disabled = copy.disabled = !state.isRunning;
      }
    }
    const show = (text) => {
      if (!state.isRunning) return;
      key.textContent = text;
      reveal.textContent = "Hide";
      clearTimeout(timer);
      timer = setTimeout(hide, SHOWN_FOR_MS);
    };
    reveal.addEventListener("click", () => {
      if (timer !== null) hide();
      else withKey((text) => { show(text); said.textContent = `hidden again after ${SHOWN_FOR_MS / 1000} s`; });
    });
    copy.addEventListener("click", () => withKey(async (text) => {
      try {
        await navigator.clipboard.writeText(text);
        said.textContent = "copied";
      } catch { // without https, or without permission, a page may not write to the clipboard
        show(text);
        const range = document.createRange();
        range.selectNodeContents(key);
        window.getSelection().removeAllRanges();
        window.getSelection().addRange(range);
        said.textContent = "selected: copy it with Ctrl-C or ⌘C";
      }
    }));
    hideKey = () => { hide(); reveal.disabled = copy.disabled = true; };
  }

  function drawRow(each) {
    const row = make("div", { className: "llmapi-kit-row" }, rows);
    make("span", { className: "llmapi-kit-label llmapi-kit-dim", textContent: each.label }, row);
    const value = make("span", { className: "llmapi-kit-value" }, row);
    if (each.tone) make("span", { className: `llmapi-kit-dot llmapi-kit-${each.tone}` }, value);
    if (each.isKey) {
      addKey(value, each.text);
      return;
    }
    if (each.text) make(each.isStruck ? "s" : each.isCode ? "code" : "span", { textContent: each.text }, value);
    if (each.note) make("span", { textContent: each.note, className: each.isWarning ? "llmapi-kit-warning" : "llmapi-kit-dim" }, value);
    if (each.isCode && !each.isStruck) copyButton(each.label, each.text, value);
  }

  function drawSnippet(each, index) {
    const box = make("details", { open: opened.has(index) }, snippets);
    box.addEventListener("toggle", () => { box.open ? opened.add(index) : opened.delete(index); });
    make("summary", { textContent: each.title }, box);
    const code = make("div", { className: "llmapi-kit-code" }, box);
    make("pre", { textContent: each.code, tabIndex: 0 }, code);
    copyButton(each.title, each.code, code);
  }

  function update(next) {
    state = next;
    dot.className = `llmapi-kit-dot llmapi-kit-${state.tone}`;
    title.textContent = state.title;
    models.textContent = state.models;
    speed.textContent = state.speed;
    stop.hidden = !state.isRunning;
    restart.hidden = false;
    reopen.hidden = !state.canReopenTunnel;
    close.hidden = !state.hasTunnel;
    team.update(state.team);
    if (!state.isRunning) hideKey();
    if (!stop.disabled) note.textContent = state.hint;
    qrCode.hidden = !state.qrCode;
    if (state.qrCode && qrCode.src !== state.qrCode) {
      qrCode.src = state.qrCode;
      qrCode.alt = `QR code of ${state.pageUrl}`;
    }
    const content = JSON.stringify([state.rows, state.snippets, state.isRunning]);
    if (content === drawn) return; // speed changes often, and a selection in the rows should stay
    drawn = content;
    hideKey();
    rows.replaceChildren();
    state.rows.forEach(drawRow);
    snippets.replaceChildren();
    state.snippets.forEach(drawSnippet);
    if (!state.isRunning) hideKey();
  }

  function gone(text) {
    hideKey();
    dot.className = "llmapi-kit-dot llmapi-kit-stopped";
    title.textContent = "Model server gone";
    speed.textContent = "";
    for (const each of [...buttons, qrCode]) each.hidden = true;
    team.update(null);
    note.textContent = text;
    snippets.replaceChildren();
    drawn = "";
  }

  return { update, gone, end: () => { hideKey(); team.forget(); } };
}

export default bringToLife(buildCard);
