// An answer through an EventSource, in Node: node eventsource.js "What is the capital of Italy?"
import { EventSource } from "eventsource"; // browsers have it built in
import { getToken, listen } from "./client.js";

const { LLMAPI_KIT_URL: url, LLMAPI_KIT_API_KEY: key } = process.env;
const prompt = process.argv[2] ?? "What is the capital of Italy?";

const token = await getToken(url, key);
await listen(EventSource, url, { prompt, token }, (text) => process.stdout.write(text));
console.log();
