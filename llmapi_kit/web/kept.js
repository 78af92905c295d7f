// What the browser keeps between visits, but for conversations: the key where the user wants it, and preferences.
//
// Names have the page's path in them, as several servers may stand behind paths of one host. Without storage, as in some
// private windows, everything lasts as long as the page.

export const SCOPE = `llmapi_kit:${new URL(".", location.href).pathname}:`;
const inMemory = new Map();

function read(storage, name) {
  try {
    return JSON.parse(globalThis[storage].getItem(SCOPE + name));
  } catch {
    return null;
  }
}

function write(storage, name, value) {
  try {
    if (value === null) globalThis[storage].removeItem(SCOPE + name);
    else globalThis[storage].setItem(SCOPE + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export function preference(name) {
  return inMemory.get(name) ?? read("localStorage", name);
}

export function setPreference(name, value) {
  inMemory.set(name, value);
  write("localStorage", name, value);
}

export function keptKey() {
  return inMemory.get("key") ?? read("sessionStorage", "key") ?? read("localStorage", "key") ?? "";
}

// Beyond this tab where it is to be remembered on the device
export function keepKey(key, isRemembered) {
  forgetKey();
  inMemory.set("key", key);
  write(isRemembered ? "localStorage" : "sessionStorage", "key", key);
}

export function isRemembered() {
  return Boolean(read("localStorage", "key"));
}

export function forgetKey() {
  inMemory.delete("key");
  for (const storage of ["localStorage", "sessionStorage"]) write(storage, "key", null);
}
