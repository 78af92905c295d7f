// One answer as it comes: the server is asked, its stream is read into a message. What has come stays, however it ends.

import { ApiError } from "./api.js";

const KEEP_EVERY_MS = 2000;
const LEAST_MEASURED_S = 0.05; // what comes in one burst tells nothing of the speed

export class Answer {
  // on: {grow, keep, end}, called with this answer; grow as often as something comes
  constructor(api, conversation, message, on) {
    Object.assign(this, { api, conversation, message, on });
    this.controller = new AbortController();
    this.keptAt = performance.now();
  }

  stop() {
    this.controller.abort();
  }

  async run() {
    const { message } = this;
    const startedAt = performance.now();
    let firstAt = 0;
    try {
      for await (const chunk of this.api.chat(this.body(), this.controller.signal)) {
        if (!this.take(chunk)) continue;
        firstAt ||= performance.now();
        this.on.grow(this);
        this.keepNowAndThen();
      }
      message.status = "done";
    } catch (error) {
      this.endWith(error);
    }
    if (firstAt) this.measure(startedAt, firstAt);
    this.conversation.touch();
    this.on.end(this);
  }

  body() {
    const { model, sampling } = this.conversation.record;
    const question = this.conversation.record.messages[this.message.parent];
    return { model, ...sampling, messages: this.conversation.toOpenAI(question) };
  }

  // Whether a chunk brought anything to see
  take({ choices = [], usage }) {
    const { message } = this;
    if (usage) Object.assign(message, { promptTokens: usage.prompt_tokens, completionTokens: usage.completion_tokens });
    const [choice] = choices;
    if (!choice) return false;
    if (choice.finish_reason) message.finishReason = choice.finish_reason;
    const { content, reasoning_content: thought, reasoning, tool_calls: calls = [] } = choice.delta ?? {};
    message.content += content ?? "";
    message.reasoning += thought ?? (typeof reasoning === "string" ? reasoning : "");
    for (const call of calls ?? []) addCall(message.calls, call);
    return Boolean(content || thought || reasoning || calls?.length);
  }

  endWith(error) {
    const { message } = this;
    if (this.controller.signal.aborted) {
      message.status = "stopped";
      return;
    }
    const known = error instanceof ApiError ? error : new ApiError("failed", { message: String(error) });
    const { kind, status, message: text, retryAfterS } = known;
    message.status = "failed";
    message.error = { kind, status, message: text, retryAt: retryAfterS && Date.now() + retryAfterS * 1000 };
  }

  measure(startedAt, firstAt) {
    const { message } = this;
    const seconds = (performance.now() - firstAt) / 1000;
    message.firstAfterS = (firstAt - startedAt) / 1000;
    if (message.completionTokens > 1 && seconds > LEAST_MEASURED_S) message.tokensPerS = (message.completionTokens - 1) / seconds;
  }

  keepNowAndThen() {
    if (performance.now() - this.keptAt < KEEP_EVERY_MS) return;
    this.keptAt = performance.now();
    this.on.keep(this);
  }
}

function addCall(calls, { index = 0, function: part = {} }) {
  calls[index] ??= { name: "", arguments: "" };
  calls[index].name += part.name ?? "";
  calls[index].arguments += part.arguments ?? "";
}
