// Answers as safe HTML: for the page, and as a part of the module of the notebook's chat, where widget.py joins the parts.
//
// A model's text is never trusted: markdown-it escapes its markup, DOMPurify looks over what comes out, links lead to
// the web only, and no picture is fetched, as that would tell its server what was said. What is drawn already is changed
// as little as possible, so that a selection stays while the answer grows.
//
// No style stands in the markup: KaTeX's are set one by one, so that the page's policy can forbid all others.

// These turn what follows around or hide in it; shown by their numbers. Joiners stay: emoji and Persian need them.
const INVISIBLE =
  /[\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g;
const SAFE_LINK = /^(?:https?:|mailto:|#)/i;
const MAX_RENDERED = 100_000; // characters; longer texts are shown as they are
const MAX_HIGHLIGHTED = 50_000;
const PURIFY = {
  USE_PROFILES: { html: true, mathMl: true }, FORBID_ATTR: ["style"], RETURN_DOM_FRAGMENT: true,
  // What KaTeX draws roots, arrows and strokes with; only it can, as the text's own markup is escaped
  ADD_TAGS: ["svg", "path", "line"],
  ADD_ATTR: ["target", "viewBox", "preserveAspectRatio", "d", "x1", "y1", "x2", "y2", "stroke-width"],
  ADD_FORBID_CONTENTS: ["annotation"], // a formula's source, which would be read out after the formula
};
const KATEX = { throwOnError: true, trust: false, maxExpand: 500, maxSize: 50, strict: false, errorColor: "inherit" };

export function showInvisible(text) {
  return text.replace(INVISIBLE, (c) => `\u27e6U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e7`);
}

// $…$, $$…$$, \(…\) and \[…\] within a line of text. A price is no formula: as in pandoc, no space stands inside of
// single dollars, and no digit follows them.
const INLINE_MATH = [
  [/^\$\$([\s\S]+?)\$\$/, true],
  [/^\\\[([\s\S]+?)\\\]/, true],
  [/^\\\(([\s\S]+?)\\\)/, false],
  [/^\$(?!\s)((?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)/, false],
];

function inlineMath(state, silent) {
  const first = state.src[state.pos];
  if (first !== "$" && first !== "\\") return false;
  const rest = state.src.slice(state.pos);
  for (const [pattern, isBlock] of INLINE_MATH) {
    const found = pattern.exec(rest);
    if (!found) continue;
    if (!silent) Object.assign(state.push("math", "", 0), { content: found[1], block: isBlock });
    state.pos += found[0].length;
    return true;
  }
  return false;
}

// A formula over several lines, in $$ or \[ \] of their own; blank lines within are part of it.
function blockMath(state, startLine, endLine, silent) {
  const line = (n) => state.src.slice(state.bMarks[n] + state.tShift[n], state.eMarks[n]).trim();
  const close = { "$$": "$$", "\\[": "\\]" }[line(startLine).slice(0, 2)];
  if (!close) return false;
  let next = startLine;
  let text = line(startLine).slice(2);
  while (!text.trimEnd().endsWith(close)) {
    next += 1;
    if (next >= endLine) return false;
    text += `\n${line(next)}`;
  }
  if (silent) return true;
  const token = state.push("math", "", 0);
  Object.assign(token, { content: text.trimEnd().slice(0, -2), block: true, map: [startLine, next + 1] });
  state.line = next + 1;
  return true;
}

export function makeRenderer({ markdownit, DOMPurify, katex, hljs }, copyLabel = () => "Copy") {
  const md = markdownit({ html: false, linkify: false, breaks: false });
  md.disable("image");
  md.validateLink = (url) => SAFE_LINK.test(url.trim());
  md.inline.ruler.before("escape", "math", inlineMath);
  md.block.ruler.before("fence", "math", blockMath, { alt: ["paragraph"] });
  const escape = md.utils.escapeHtml;

  md.renderer.rules.math = (tokens, i) => {
    try {
      const html = katex.renderToString(tokens[i].content, { ...KATEX, displayMode: tokens[i].block });
      return html.replaceAll(' style="', ' data-style="'); // no text of it has a quotation mark: KaTeX escapes them
    } catch {
      return `<code class="lk-bad-math">${escape(tokens[i].content)}</code>`;
    }
  };
  md.renderer.rules.link_open = (tokens, i, options, env, self) => {
    tokens[i].attrSet("target", "_blank");
    tokens[i].attrSet("rel", "noopener noreferrer");
    return self.renderToken(tokens, i, options);
  };
  for (const cell of ["th_open", "td_open"]) {
    md.renderer.rules[cell] = (tokens, i, options, env, self) => {
      const side = /text-align:(left|center|right)/.exec(tokens[i].attrGet("style") ?? "");
      tokens[i].attrs = side && [["class", `lk-${side[1]}`]];
      return self.renderToken(tokens, i, options);
    };
  }
  md.renderer.rules.table_open = () => '<div class="lk-table" tabindex="0"><table>';
  md.renderer.rules.table_close = () => "</table></div>";
  const code = (tokens, i, options, env) => {
    const { content, info } = tokens[i];
    const language = (info ?? "").trim().split(/\s+/)[0];
    const canColor = env.isSettled && hljs.getLanguage(language) && content.length < MAX_HIGHLIGHTED;
    const inner = canColor ? hljs.highlight(content, { language, ignoreIllegals: true }).value : escape(content);
    const bar = `<span>${escape(language)}</span><button type="button" data-copy="code">${escape(copyLabel())}</button>`;
    return `<div class="lk-code"><div class="lk-bar">${bar}</div><pre tabindex="0"><code>${inner}</code></pre></div>`;
  };
  md.renderer.rules.fence = code;
  md.renderer.rules.code_block = code;

  // The text's blocks, each with what it was made of, so that only what changed is drawn again
  function* blocks(text, isSettled) {
    const env = {};
    const lines = text.split("\n");
    const tokens = md.parse(text, env);
    let start = 0;
    let depth = 0;
    for (let i = 0; i < tokens.length; i++) {
      depth += tokens[i].nesting;
      if (depth !== 0) continue;
      const group = tokens.slice(start, i + 1);
      start = i + 1;
      const isOpen = !isSettled && start === tokens.length;
      const [from, to] = group[0].map ?? [0, lines.length];
      yield {
        key: `${isOpen}\u0000${lines.slice(from, to).join("\n")}`,
        draw: () => setStyles(DOMPurify.sanitize(
          md.renderer.render(group, md.options, { ...env, isSettled: !isOpen }), PURIFY)),
      };
    }
  }

  return function render(element, text, isSettled) {
    const shown = showInvisible(text);
    if (shown.length > MAX_RENDERED) return renderPlain(element, shown);
    element.classList.remove("lk-plain");
    if (element.dataset.drawn !== "markdown") element.replaceChildren();
    element.dataset.drawn = "markdown";
    let index = 0;
    for (const { key, draw } of blocks(shown, isSettled)) {
      const block = element.children[index] ?? element.appendChild(document.createElement("div"));
      if (block.lkKey !== key) {
        block.lkKey = key;
        morph(block, draw());
      }
      index += 1;
    }
    while (element.children.length > index) element.lastElementChild.remove();
  };
}

function setStyles(fragment) {
  for (const element of fragment.querySelectorAll(".katex [data-style]")) {
    element.style.cssText = element.dataset.style;
    delete element.dataset.style;
  }
  return fragment;
}

// Without the libraries, and for very long texts
export function renderPlain(element, text) {
  if (element.dataset.drawn !== "plain") element.replaceChildren(document.createTextNode(""));
  element.dataset.drawn = "plain";
  element.classList.add("lk-plain");
  changeText(element.firstChild, text);
}

function changeText(node, text) {
  if (node.data === text) return;
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

// Make an element's children those of another one, keeping the nodes that are the same
function morph(element, wanted) {
  const old = [...element.childNodes];
  const fresh = [...wanted.childNodes];
  fresh.forEach((node, i) => {
    const was = old[i];
    if (!was) element.append(node);
    else if (was.nodeType === Node.TEXT_NODE && node.nodeType === Node.TEXT_NODE) changeText(was, node.data);
    else if (was.nodeType === Node.ELEMENT_NODE && isAlike(was, node)) morph(was, node);
    else was.replaceWith(node);
  });
  old.slice(fresh.length).forEach((node) => node.remove());
}

function isAlike(a, b) {
  return a.nodeName === b.nodeName && a.attributes.length === b.attributes.length &&
    [...a.attributes].every(({ name, value }) => b.getAttribute(name) === value);
}
