// What the cases of the JavaScript SDK stand on: a window for it to live in, the sandbox's controls, a small runner.
//
// The SDK is used as it comes from the registry. It wants a browser; jsdom gives it window, document and storage, Node
// the rest. Every case begins with empty storage, so nobody is signed in.

import { strict as assert } from "node:assert";
import { webcrypto } from "node:crypto";
import { JSDOM } from "jsdom";

const { base, authority, clientId, authorityOnly } = JSON.parse(process.env.SANDBOX);
export const PASSWORD = "correct-horse-7-battery";
export const CAPABILITIES = ["mfa_required", "registration_required"];
export const TYPES = ["password", "oob", "redirect"];

const dom = new JSDOM("<!doctype html><title>app</title>", { url: "https://app.contoso.example/" });
Object.defineProperty(dom.window, "crypto", { value: webcrypto });
for (const name of ["window", "document", "location", "sessionStorage", "localStorage", "navigator", "crypto"]) {
  const value = name === "window" ? dom.window : dom.window[name];
  Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
}
dom.window.fetch = (...args) => fetch(...args);

// The SDK looks for a window when it is loaded, so it is loaded after there is one.
const { CustomAuthPublicClientApplication } = await import("@azure/msal-browser/custom-auth");

export const requests = []; // [path, status] of what the SDK has sent since the case began
const realFetch = globalThis.fetch;
globalThis.fetch = async (url, options) => {
  const answer = await realFetch(url, options);
  requests.push([new URL(url).pathname.split("/").slice(2).join("/"), answer.status]);
  return answer;
};

export async function order(path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await realFetch(`${base}/sandbox/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  assert.ok(answer.ok, `${path}: ${await answer.clone().text()}`);
  return answer.json();
}

export async function mail(address) {
  const answer = await realFetch(`${base}/sandbox/mailbox/${encodeURIComponent(address)}?wait_s=5`);
  assert.equal(answer.status, 200, `no code for ${address}`);
  return answer.text();
}

export async function events(kind) {
  const { events: found } = await (await realFetch(`${base}/sandbox/events`)).json();
  return found.filter((event) => event.kind === kind);
}

let people = 0;
export async function person(more = {}) {
  const username = `person-${++people}@contoso.example`;
  await order("users", { username, ...more });
  return username;
}

export async function application({ types = TYPES, capabilities = CAPABILITIES, client = clientId, cp1 = false } = {}) {
  return CustomAuthPublicClientApplication.create({
    auth: {
      clientId: client,
      authority: authorityOnly ?? "https://contoso.ciamlogin.com/",
      ...(cp1 ? { clientCapabilities: ["CP1"] } : {}),
    },
    cache: { cacheLocation: "sessionStorage" },
    system: { loggerOptions: { loggerCallback: () => {} } },
    customAuth: {
      ...(authorityOnly ? {} : { authApiProxyUrl: authority }),
      ...(types ? { challengeTypes: types } : {}),
      ...(capabilities ? { capabilities } : {}),
    },
  });
}

// A result of the SDK that must not be a failure.
export function good(result) {
  const error = result.error?.errorData ?? result.error;
  assert.ok(!result.isFailed(), `${error?.error} ${error?.subError ?? ""} ${error?.errorDescription ?? error}`);
  return result;
}

// A result that must be a failure for which this predicate of the SDK holds.
export function bad(result, predicate) {
  assert.ok(result.isFailed(), "this was meant to fail");
  const data = result.error.errorData;
  assert.ok(result.error[predicate](), `not ${predicate}: ${data.error} ${data.subError} ${data.errorDescription}`);
  return result;
}

export function other(code) {
  return code.slice(0, -1) + ((Number(code.at(-1)) + 1) % 10);
}

export async function signInByPassword(app, username, more = {}) {
  const result = good(await app.signIn({ username, password: PASSWORD, ...more }));
  assert.ok(result.isCompleted(), result.state.stateType);
  return result.data;
}

const cases = [];
export function test(name, run) {
  cases.push([name, run]);
}

export async function runAll() {
  for (const [name, run] of cases) {
    sessionStorage.clear();
    localStorage.clear();
    requests.length = 0;
    let problem = "";
    try {
      await run();
    } catch (error) {
      problem = String(error.stack ?? error).slice(0, 2000) + `\nrequests: ${JSON.stringify(requests)}`;
    }
    process.stdout.write(JSON.stringify({ name, problem }) + "\n");
  }
  process.exit(0); // jsdom keeps timers
}
