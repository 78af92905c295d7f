// An answer through fetch, in Node, with nothing installed: node fetch.js "What is the capital of Italy?"
import { stream } from "./client.js";

const { LLMAPI_KIT_URL: url, LLMAPI_KIT_API_KEY: key } = process.env;
const prompt = process.argv[2] ?? "What is the capital of Italy?";

for await (const text of stream(url, key, [{ role: "user", content: prompt }])) process.stdout.write(text);
console.log();
