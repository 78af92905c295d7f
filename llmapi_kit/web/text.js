// The page's words, in the language chosen. An element keeps which of them it shows, so that a switch changes all at once.

import { en } from "./en.js";
import { preference, setPreference } from "./kept.js";
import { zh } from "./zh.js";

export const DICTIONARIES = { en, zh };
const LANG = { en: "en", zh: "zh-Hans" };
const PLACES = {
  text: (element, text) => { element.textContent = text; },
  label: (element, text) => { element.title = text; element.setAttribute("aria-label", text); },
  name: (element, text) => { element.setAttribute("aria-label", text); },
  placeholder: (element, text) => { element.placeholder = text; },
};
const given = new WeakMap(); // element to what fills the gaps in its words

export let language = "en";

export function t(key, values = {}) {
  return DICTIONARIES[language][key].replace(/\{(\w+)\}/g, (gap, name) => (name in values ? values[name] : gap));
}

// Show words in an element: as its text, its label (and tooltip), its name (without) or its placeholder
export function show(element, key, values, place = "text") {
  element.dataset[`${place}Key`] = key;
  given.set(element, { ...given.get(element), [place]: values });
  PLACES[place](element, t(key, values));
  return element;
}

// Show none of them
export function hide(element) {
  delete element.dataset.textKey;
  element.textContent = "";
}

export function setLanguage(code) {
  language = code in DICTIONARIES ? code : "en";
  document.documentElement.lang = LANG[language];
  document.title = t("title");
  for (const place of Object.keys(PLACES)) {
    for (const element of document.querySelectorAll(`[data-${place}-key]`)) {
      show(element, element.dataset[`${place}Key`], given.get(element)?.[place], place);
    }
  }
}

export function chooseLanguage(code) {
  setPreference("language", code);
  setLanguage(code);
}

// The one chosen here before, else the first of the browser's that there is
export function firstLanguage() {
  const wanted = [preference("language"), ...navigator.languages].filter(Boolean);
  return wanted.map((each) => each.toLowerCase().split("-")[0]).find((each) => each in DICTIONARIES) ?? "en";
}

export function number(value, options) {
  return value.toLocaleString(LANG[language], options);
}

export function moment(time, options = { dateStyle: "medium", timeStyle: "short" }) {
  return new Date(time).toLocaleString(LANG[language], options);
}
