"use strict";

// The token of this page's session: with it the API accepts the session itself.
const token = document.querySelector("form.account input[name=csrf]")?.value;

function asSignedIn(request) {
  if (token && !request.headers.Authorization) request.headers["X-CSRF-Token"] = token;
  return request;
}

SwaggerUIBundle({
  url: "/api/v0/openapi.json",
  dom_id: "#docs",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: false,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  validatorUrl: null,
  syntaxHighlight: { activated: false },
  requestInterceptor: asSignedIn,
  // The command for curl is without the token, which is of no use there.
  showMutatedRequest: false,
});

// What Swagger UI draws without a name, for those who cannot see it.
const NAMES = [
  [".copy-to-clipboard button", () => "Copy"],
  [".body-param textarea", () => "Body of the request"],
  ["[role=region]", (e) => `Responses: ${e.closest(".opblock").querySelector(".opblock-summary").innerText}`],
];

function nameAll() {
  for (const [selector, name] of NAMES) {
    for (const e of document.querySelectorAll(`#docs ${selector}:not([aria-label])`)) e.ariaLabel = name(e);
  }
}

new MutationObserver(nameAll).observe(document.getElementById("docs"), { childList: true, subtree: true });
