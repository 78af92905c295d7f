// The team of a server's card: who has a key, who is on, what each used today; pause, resume, revoke and invite.
//
// An invitation's link is a secret, as the key is: it comes as a message to the page that asked, stands in the page for
// a while, and is taken out again, at once when the server stops or the kernel goes. It can't be had a second time.

const LINK_SHOWN_FOR_MS = 120_000;
const SURE_WITHIN_MS = 5_000;
const STATES = { active: "", paused: "paused", invited: "invited, not here yet" };

function buildTeam(parent, call) {
  const box = make("details", { className: "llmapi-kit-team", hidden: true }, parent);
  const summary = make("summary", {}, box);
  const scroll = make("div", { className: "llmapi-kit-members" }, box);
  const table = make("table", {}, scroll);
  const head = make("tr", {}, make("thead", {}, table));
  for (const text of ["Key", "On now", "Requests today", "Tokens today"]) make("th", { scope: "col", textContent: text }, head);
  make("td", {}, head); // of the buttons
  const body = make("tbody", {}, table);
  const form = make("form", { className: "llmapi-kit-invite" }, box);
  const label = make("label", { textContent: "Invite " }, form);
  const name = make("input", { type: "text", required: true, maxLength: 64, placeholder: "a teammate's name", autocomplete: "off", spellcheck: false }, label);
  const press = make("button", { type: "submit", textContent: "Make a link" }, form);
  const said = make("span", { className: "llmapi-kit-dim" }, form);
  said.setAttribute("role", "status");
  box.setAttribute("data-lm-suppress-shortcuts", "true"); // or letters typed into the name would be commands
  const invitation = make("div", { className: "llmapi-kit-invitation", hidden: true }, box);

  const lines = new Map(); // by name: what draws a member's line again
  let wasAsked = false;
  let timer = null;

  function forget() {
    clearTimeout(timer);
    invitation.replaceChildren();
    invitation.hidden = true;
  }

  function showInvitation(made) {
    forget();
    invitation.hidden = false;
    const picture = make("img", { className: "llmapi-kit-qr", src: made.qrCode, alt: `QR code of the invitation of ${made.name}` });
    const text = make("div", { className: "llmapi-kit-rows" }, invitation);
    invitation.append(picture);
    const where = made.isLocal ? " It opens on this machine only, as there is no tunnel." : "";
    make("div", { textContent: `For ${made.name}, once. It can't be shown again.${where}` }, text);
    make("code", { textContent: made.url }, text);
    const buttons = make("div", { className: "llmapi-kit-foot" }, text);
    const copy = make("button", { type: "button", textContent: "Copy link" }, buttons);
    const hide = make("button", { type: "button", textContent: "Hide" }, buttons);
    make("span", { className: "llmapi-kit-dim", textContent: `hidden after ${LINK_SHOWN_FOR_MS / 60_000} minutes` }, buttons);
    copy.addEventListener("click", () => copyText(made.url, copy));
    hide.addEventListener("click", () => { forget(); name.focus(); });
    timer = setTimeout(forget, LINK_SHOWN_FOR_MS);
    copy.focus();
  }

  async function ask(action, fields, button) {
    button.disabled = true;
    said.textContent = "";
    try {
      return await call(action, fields);
    } catch (error) {
      said.textContent = error.message;
      return null;
    } finally {
      button.disabled = false;
    }
  }

  name.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault(); // JupyterLab keeps Enter from forms in outputs
    form.requestSubmit();
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const made = await ask("invite", { name: name.value }, press);
    if (made === null || box.hidden) return;
    name.value = "";
    showInvitation(made);
  });

  function addButton(cell, text, member, work) {
    const button = make("button", { type: "button" }, cell);
    const write = (shown) => {
      button.textContent = shown;
      button.setAttribute("aria-label", `${shown} ${member}`);
    };
    write(text);
    button.addEventListener("click", () => work(button));
    return { button, write };
  }

  function addRevoke(cell, member) {
    let sure = null;
    const { write } = addButton(cell, "Revoke", member, (button) => {
      if (sure === null) {
        write("Revoke for ever?");
        sure = setTimeout(() => { sure = null; write("Revoke"); }, SURE_WITHIN_MS);
        return;
      }
      clearTimeout(sure);
      sure = null;
      write("Revoke");
      ask("revoke", { name: member }, button);
    });
  }

  function addLine(member) {
    const row = make("tr", {});
    const who = make("th", { scope: "row" }, row);
    make("span", { textContent: member.name }, who);
    const state = make("em", {}, who);
    const [running, requests, tokens, cell] = Array.from({ length: 4 }, () => make("td", {}, row));
    const bar = make("div", { className: "llmapi-kit-bar" });
    const number = make("span", {}, tokens);
    tokens.append(bar);
    cell.className = "llmapi-kit-actions";
    let action = "";
    const pause = member.isOwner ? null : addButton(cell, "Pause", member.name, (button) => ask(action, { name: member.name }, button));
    if (pause) addRevoke(cell, member.name);
    const update = (next) => {
      state.textContent = STATES[next.state] ? ` ${STATES[next.state]}` : "";
      running.textContent = next.running ? next.running.toLocaleString("en") : "–";
      requests.textContent = next.requests.toLocaleString("en");
      number.textContent = next.tokens.toLocaleString("en");
      bar.style.width = `${next.share * 100}%`;
      bar.hidden = next.share === 0;
      if (!pause) return;
      const wanted = next.state === "paused" ? "resume" : "pause";
      if (wanted !== action) pause.write(wanted === "pause" ? "Pause" : "Resume");
      action = wanted;
      pause.button.hidden = next.state === "invited";
    };
    return { row, update };
  }

  function update(team) {
    box.hidden = team === null;
    if (team === null) {
      forget();
      said.textContent = "";
      lines.clear();
      body.replaceChildren();
      return;
    }
    summary.textContent = team.summary;
    if (!wasAsked && team.members.length > 1) box.open = wasAsked = true;
    const names = new Set(team.members.map((member) => member.name));
    for (const [member, line] of lines) {
      if (names.has(member)) continue;
      line.row.remove();
      lines.delete(member);
    }
    for (const member of team.members) { // a line that stays keeps the focus that is in it
      if (!lines.has(member.name)) {
        lines.set(member.name, addLine(member));
        body.append(lines.get(member.name).row);
      }
      lines.get(member.name).update(member);
    }
  }

  return { update, forget };
}
