// Brings HTML of a cell's output to life; see live_view.py for why no widget is displayed.
//
// `bringToLife(build)` makes the module's exports. `build(element, call)` fills an element and returns
// {update(state), receive(message), gone(text), end()}; `call(action, fields, withinMs)` asks Python for something.

const LOOK_EVERY_MS = 1000;
const ANSWER_WITHIN_MS = 30_000;
const KERNEL_ENDS = ["restarting", "autorestarting", "terminating", "dead"];

function make(tag, properties, parent) {
  const element = Object.assign(document.createElement(tag), properties);
  parent?.append(element);
  return element;
}

async function copyText(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here"; // without https, or without permission
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

function copyButton(label, text, parent) {
  const button = make("button", { type: "button", textContent: "Copy", className: "llmapi-kit-copy" }, parent);
  button.setAttribute("aria-label", `Copy ${label}`);
  button.addEventListener("click", () => copyText(text, button));
  return button;
}

function bringToLife(build) {
  function initialize({ model }) {
    const place = model.get("place");
    const views = new Map(); // element to what build returned
    const waiting = new Map(); // request to [resolve, reject, timer]
    const seen = new Set(); // elements in sight
    let state = null;
    let goneText = "";
    let wasVisible = null;
    const page = `${Date.now()}-${Math.random()}`;

    function call(action, fields = {}, withinMs = ANSWER_WITHIN_MS) {
      const request = `${Date.now()}-${Math.random()}`; // several pages may ask: each takes its own answer
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          waiting.delete(request);
          reject(new Error("The kernel does not answer: it is busy with a cell, or gone."));
        }, withinMs);
        waiting.set(request, [resolve, reject, timer]);
        model.send({ kind: "do", action, request, ...fields });
      });
    }

    function settle(message) {
      const waiter = waiting.get(message.request);
      if (!waiter) return;
      const [resolve, reject, timer] = waiter;
      waiting.delete(message.request);
      clearTimeout(timer);
      if (message.kind === "done") resolve(message);
      else reject(new Error(message.text));
    }

    function onMessage(message) {
      if (message.kind === "state") {
        state = message.state;
        goneText = "";
        attach();
        for (const view of views.values()) view.update(state);
      } else if (message.kind === "done" || message.kind === "failed") {
        settle(message);
      } else if (message.kind === "end") {
        end(message.text);
      } else {
        for (const view of views.values()) view.receive?.(message);
      }
    }

    function tellVisibility() {
      const isVisible = document.visibilityState === "visible" && seen.size > 0;
      if (isVisible === wasVisible || state === null || goneText) return;
      wasVisible = isVisible;
      model.send({ kind: "visible", page, value: isVisible });
    }

    function sayGoodbye() {
      if (wasVisible) model.send({ kind: "visible", page, value: false });
    }

    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.isIntersecting ? seen.add(entry.target) : seen.delete(entry.target);
      tellVisibility();
    });

    function attach() {
      for (const [element, view] of views) {
        if (element.isConnected) continue; // drawn again, or scrolled out of a notebook that drops such cells
        observer.unobserve(element);
        seen.delete(element);
        view.end?.();
        views.delete(element);
      }
      if (state === null) return;
      for (const element of document.getElementsByClassName(place)) {
        if (views.has(element)) continue;
        element.replaceChildren();
        element.removeAttribute("style");
        const view = build(element, call);
        views.set(element, view);
        observer.observe(element);
        view.update(state);
        if (goneText) view.gone(goneText);
      }
    }

    function end(text) {
      if (goneText || state === null) return;
      goneText = text;
      for (const [, reject, timer] of waiting.values()) {
        clearTimeout(timer);
        reject(new Error(text));
      }
      waiting.clear();
      for (const view of views.values()) view.gone(text);
    }

    // JupyterLab and Notebook 7 have the kernel here; other front-ends tell by the comm alone
    let kernel = null;
    function onKernelStatus(sender, status) {
      if (KERNEL_ENDS.includes(status)) end(ENDED);
    }
    const ENDED = "The kernel was restarted or has ended, and the server with it. Run the launch cell again.";

    function look() {
      const manager = model.widget_manager;
      if (manager && "kernel" in manager) {
        if (manager.kernel !== kernel) {
          kernel?.statusChanged?.disconnect(onKernelStatus);
          const had = kernel;
          kernel = manager.kernel;
          kernel?.statusChanged?.connect(onKernelStatus);
          if (had) end(ENDED);
        }
        if (kernel && KERNEL_ENDS.includes(kernel.status)) end(ENDED);
      }
      attach();
      tellVisibility();
    }

    function onCommChange() {
      end(ENDED);
      greet(); // whoever lives answers
    }

    function greet() {
      try {
        model.send({ kind: "hello" });
      } catch {
        // The comm is closed
      }
    }

    model.on("msg:custom", onMessage);
    model.on("comm_live_update", onCommChange);
    document.addEventListener("visibilitychange", tellVisibility);
    window.addEventListener("pagehide", sayGoodbye);
    const timer = setInterval(look, LOOK_EVERY_MS);
    look();
    greet();

    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", tellVisibility);
      window.removeEventListener("pagehide", sayGoodbye);
      kernel?.statusChanged?.disconnect(onKernelStatus);
      end(ENDED);
      observer.disconnect();
    };
  }

  function render({ model, el }) {
    make("div", { className: model.get("place") }, el); // found at the next look
  }

  return { initialize, render };
}
