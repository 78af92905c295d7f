// Conversations in this browser's IndexedDB: nowhere else. Where there is none, they last as long as the page.

import { SCOPE } from "./kept.js";

export const MAX_CONVERSATIONS = 200;
const STORE = "conversations";

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function openDatabase() {
  const request = indexedDB.open(SCOPE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
  return done(request);
}

export class ConversationStore {
  static async open() {
    try {
      return new ConversationStore(await openDatabase());
    } catch {
      return new ConversationStore(null);
    }
  }

  constructor(database) {
    this.database = database;
    this.inMemory = new Map();
  }

  get isLasting() { return this.database !== null; }

  // Those that are kept, newest first
  async all() {
    const records = this.database ? await done(this.objects("readonly").getAll()) : [...this.inMemory.values()];
    return records.sort((a, b) => b.updatedAt - a.updatedAt);
  }

  // The oldest make room for a new one
  async put(record) {
    if (!this.database) {
      this.inMemory.set(record.id, record);
      return;
    }
    const isNew = (await done(this.objects("readonly").count(record.id))) === 0;
    await done(this.objects("readwrite").put(record));
    if (isNew) for (const { id } of (await this.all()).slice(MAX_CONVERSATIONS)) await this.remove(id);
  }

  async remove(id) {
    this.inMemory.delete(id);
    if (this.database) await done(this.objects("readwrite").delete(id));
  }

  async clear() {
    this.inMemory.clear();
    if (this.database) await done(this.objects("readwrite").clear());
  }

  objects(mode) {
    return this.database.transaction(STORE, mode).objectStore(STORE);
  }
}
