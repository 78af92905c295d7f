// The server as the page asks it: with the key in a header, never in an address. Every failure is an ApiError, whose kind
// says what the user can do about it.

import { readServerSentEvents } from "./sse.js";

export const BASE = new URL(".", location.href);
const SILENCE_MS = 60_000; // the server sends a comment every 15 s
const KINDS = { 401: "unauthorized", 403: "forbidden", 404: "missing", 413: "tooLarge", 429: "busy", 503: "unavailable" };
const KINDS_BY_CODE = {
  context_length_exceeded: "tooLong", insufficient_quota: "quota", invalid_api_key: "unauthorized", key_paused: "paused",
};
const SENDABLE = /^[\x21-\x7e]+$/; // what a header can carry

export class ApiError extends Error {
  constructor(kind, { status = 0, message = "", retryAfterS = null } = {}) {
    super(message);
    Object.assign(this, { kind, status, retryAfterS });
  }
}

export class Api {
  constructor(key = "") {
    this.key = key;
  }

  async models(signal) {
    const { data } = await this.json("v1/models", { signal });
    const canChat = ({ llmapi_kit: kit }) => !kit?.capabilities?.length || kit.capabilities.includes("chat");
    return data.filter(canChat);
  }

  // Whose key this is; null on a server that has one key only and tells nothing of it
  async keyInfo() {
    try {
      return await this.json("v1/key");
    } catch (error) {
      if (error.kind === "missing") return null;
      throw error;
    }
  }

  status(signal) {
    return this.json("v1/status", { signal });
  }

  exchangeInvitation(code) {
    return this.json("invitations", { method: "POST", body: { code } });
  }

  async json(path, options) {
    const response = await this.request(path, options);
    try {
      return await response.json();
    } catch (error) {
      throw options?.signal?.aborted ? error : new ApiError("elsewhere", { status: response.status });
    }
  }

  // The chunks of a streamed answer, as objects
  async* chat(body, signal) {
    const request = { method: "POST", signal, body: { ...body, stream: true, stream_options: { include_usage: true } } };
    const response = await this.request("v1/chat/completions", request);
    if (!isKind(response, "text/event-stream")) throw new ApiError("elsewhere", { status: response.status });
    let isComplete = false;
    try {
      for await (const data of readServerSentEvents(response.body, SILENCE_MS)) {
        if (data === "[DONE]") { isComplete = true; break; }
        const chunk = JSON.parse(data);
        if (chunk.error) throw errorOf(chunk.error, 0, null);
        yield chunk;
      }
    } catch (error) {
      if (signal.aborted || error instanceof ApiError) throw error;
      throw new ApiError("cut", { message: error instanceof SyntaxError ? error.message : "" });
    }
    if (!isComplete) throw new ApiError("cut");
  }

  async request(path, { method = "GET", body, signal } = {}) {
    if (this.key && !SENDABLE.test(this.key)) throw new ApiError("unauthorized", { status: 401 });
    const headers = { Accept: "application/json", "ngrok-skip-browser-warning": "1" };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    if (body) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(new URL(path, BASE), {
        method, headers, signal, body: body && JSON.stringify(body), cache: "no-store", credentials: "same-origin",
      });
    } catch (error) {
      throw signal?.aborted ? error : new ApiError("unreachable");
    }
    if (!response.ok) throw await failureOf(response);
    return response;
  }
}

async function failureOf(response) {
  const { status } = response;
  if (!isKind(response, "application/json")) return new ApiError("elsewhere", { status });
  const seconds = Number(response.headers.get("Retry-After"));
  const body = await response.json().catch(() => null);
  return errorOf(body?.error, status, seconds > 0 ? seconds : null);
}

function errorOf(told, status, retryAfterS) {
  const kind = KINDS_BY_CODE[told?.code] ?? KINDS[status] ?? (status >= 400 && status < 500 ? "refused" : "failed");
  return new ApiError(kind, { status, message: String(told?.message ?? ""), retryAfterS });
}

function isKind(response, mediaType) {
  return (response.headers.get("Content-Type") ?? "").startsWith(mediaType);
}
