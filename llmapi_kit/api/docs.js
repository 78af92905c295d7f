// Asks for the API key, gets the OpenAPI document with it, and shows it in Swagger UI.
//
// The key stays in `start`'s closure: not in storage, not in the URL, and not with Swagger UI, which would print it in
// its curl commands. Swagger UI knows a placeholder, which is replaced in the very request.

"use strict";

// Next to the page's folder, whatever slash or proxy's path the page's own address has
const DOCUMENT = new URL("../openapi.json", document.currentScript.src);
const PLACEHOLDER = "YOUR_API_KEY";
const form = document.getElementById("ask");
const input = document.getElementById("key");
const problem = document.getElementById("problem");

async function fetchDocument(key) {
  const response = await fetch(DOCUMENT, {
    headers: { Authorization: `Bearer ${key}` },
    cache: "no-store",
    credentials: "omit",
  });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

function withKey(request, key) {
  const isOurs = new URL(request.url, location.href).origin === location.origin;
  if (!isOurs || request.headers.Authorization !== `Bearer ${PLACEHOLDER}`) return request;
  return { ...request, headers: { ...request.headers, Authorization: `Bearer ${key}` } };
}

function start(spec, key) {
  const known = spec.components.securitySchemes;
  for (const name in known) if (known[name].in === "header") delete known[name]; // Authorization is enough here
  const schemes = Object.keys(known);
  const ui = SwaggerUIBundle({
    domNode: document.getElementById("viewer"),
    spec,
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    persistAuthorization: false,
    queryConfigEnabled: false,
    requestInterceptor: (request) => withKey(request, key),
    showMutatedRequest: false, // the curl command has the placeholder
    tryItOutEnabled: true,
    validatorUrl: null,
    onComplete: () => schemes.forEach((name) => ui.preauthorizeApiKey(name, PLACEHOLDER)),
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  const key = input.value.trim();
  problem.textContent = "";
  button.disabled = true;
  try {
    const spec = await fetchDocument(key);
    input.value = "";
    form.hidden = true;
    document.getElementById("bar").hidden = false;
    start(spec, key);
  } catch (error) {
    // A TypeError is fetch's: no server there, or a key that no header can carry
    const isUnsent = error instanceof TypeError;
    problem.textContent = isUnsent ? `The server can't be asked with this key: ${error.message}` : error.message;
    input.select();
  } finally {
    button.disabled = false;
  }
});

document.getElementById("forget").addEventListener("click", () => location.reload());
form.hidden = false;
input.focus();
