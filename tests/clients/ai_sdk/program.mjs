// Vercel's AI SDK: plain and typed answers, tools, both together, whole and streaming, by three providers.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.env.OPENAI_BASE_URL;
const apiKey = process.env.OPENAI_API_KEY;
const compatible = createOpenAICompatible({
  name: "kit",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey });
const MODELS = {
  compatible: compatible("pocket"),
  openai: openai.chat("pocket"),
  responses: openai("pocket"),
  anthropic: createAnthropic({ baseURL, apiKey })("claude-opus-5-5"),
};
const FRANCE = "What is the capital of France?";
const WEATHER = "What is the weather in Paris?";
const PERSON = "Give me a JSON object describing a person.";

function toolSet(called) {
  return {
    get_weather: tool({
      description: "Get the weather in a city",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => {
        called.push(city);
        return `18 degrees and sunny in ${city}`;
      },
    }),
  };
}

const person = () => Output.object({ schema: z.object({ name: z.string(), age: z.int() }) });

async function gather(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}

// The steps of one model, by name
function stepsOf(model) {
  const options = { model, temperature: 0, maxOutputTokens: 200, maxRetries: 0 };
  const throwing = { ...options, onError: ({ error }) => { throw error; } };
  return {
    async plain() {
      const { text, finishReason, usage } = await generateText({ ...options, prompt: FRANCE });
      return [text, finishReason, usage.outputTokens > 0];
    },
    async stream() {
      const result = streamText({ ...throwing, prompt: FRANCE });
      const text = (await gather(result.textStream)).join("");
      return [text, await result.finishReason, (await result.usage).outputTokens > 0];
    },
    async history() {
      const messages = [
        { role: "user", content: "Hello!" },
        { role: "assistant", content: "Hello! How can I help you?" },
        { role: "user", content: FRANCE },
      ];
      return (await generateText({ ...options, messages })).text;
    },
    async tool() {
      const called = [];
      const asked = { ...options, prompt: WEATHER, tools: toolSet(called), stopWhen: stepCountIs(3) };
      const { text, steps } = await generateText(asked);
      return [called, steps.map((step) => step.finishReason), text];
    },
    async tool_stream() {
      const called = [];
      const result = streamText({ ...throwing, prompt: WEATHER, tools: toolSet(called), stopWhen: stepCountIs(3) });
      return [called, (await gather(result.textStream)).join("")];
    },
    async typed() {
      return (await generateText({ ...options, prompt: PERSON, output: person() })).output;
    },
    async typed_stream() {
      const result = streamText({ ...throwing, prompt: PERSON, output: person() });
      return (await gather(result.partialOutputStream)).at(-1);
    },
    async tool_and_type() {
      const called = [];
      const asked = { prompt: WEATHER, tools: toolSet(called), output: person(), stopWhen: stepCountIs(3) };
      const { output } = await generateText({ ...options, ...asked });
      return [called, Object.keys(output).sort()];
    },
    async tool_and_type_stream() {
      const called = [];
      const asked = { prompt: WEATHER, tools: toolSet(called), output: person(), stopWhen: stepCountIs(3) };
      const result = streamText({ ...throwing, ...asked });
      const last = (await gather(result.partialOutputStream)).at(-1);
      return [called, Object.keys(last).sort()];
    },
  };
}

const results = {};
for (const [provider, model] of Object.entries(MODELS)) {
  for (const [name, step] of Object.entries(stepsOf(model))) {
    try {
      results[`${provider}_${name}`] = { value: await step() };
    } catch (error) {
      results[`${provider}_${name}`] = { error: String(error) };
    }
  }
}
console.log("\n" + JSON.stringify(results));
