// Codex by the Responses API and Claude Code by the Messages API: one turn each, in which the model calls the shell.

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

const baseURL = process.env.OPENAI_BASE_URL;
const TASK = "Let the shell say hello.";
const require = createRequire(import.meta.url);
const packageOf = (name) => dirname(require.resolve(`${name}/package.json`));
const work = mkdtempSync(join(homedir(), "work-"));

function run(program, args, variables) {
  const env = { ...process.env, ...variables };
  const done = spawnSync(process.execPath, [program, ...args], { cwd: work, env, encoding: "utf-8", timeout: 120_000 });
  if (done.status !== 0) throw new Error(`it ended with ${done.status}: ${done.stdout}${done.stderr}`);
  return done.stdout;
}

const steps = {
  codex_tool() {
    const home = join(homedir(), "codex");
    mkdirSync(home, { recursive: true });
    const provider = `name = "kit"\nbase_url = "${baseURL}"\nenv_key = "OPENAI_API_KEY"\nwire_api = "responses"\n`;
    const config = `model = "player"\nmodel_provider = "kit"\nweb_search = "disabled"\n[model_providers.kit]\n${provider}`;
    writeFileSync(join(home, "config.toml"), config);
    const args = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK];
    return run(join(packageOf("@openai/codex"), "bin", "codex.js"), args, { CODEX_HOME: home }).trim();
  },
  claude_tool() {
    const args = ["-p", TASK, "--dangerously-skip-permissions", "--output-format", "json"];
    const quiet = { CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", IS_SANDBOX: "1", ANTHROPIC_MODEL: "claude-player" };
    const said = run(join(packageOf("@anthropic-ai/claude-code"), "cli-wrapper.cjs"), args, quiet);
    const { result, num_turns, is_error } = JSON.parse(said);
    return [result, num_turns, is_error];
  },
};

const results = {};
for (const [name, step] of Object.entries(steps)) {
  try {
    results[name] = { value: step() };
  } catch (error) {
    results[name] = { error: String(error) };
  }
}
console.log("\n" + JSON.stringify(results));
