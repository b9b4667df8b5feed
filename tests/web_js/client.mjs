// openid-client against the sandbox: discovery, code flow without a form, refresh, revocation. Prints one JSON object.

import { strict as assert } from "node:assert";
import * as client from "openid-client";

const { issuer, clientId, clientSecret, redirectUri, transferToken, refreshToken, nativeId } = JSON.parse(process.env.SANDBOX);
const insecure = { execute: [client.allowInsecureRequests] }; // plain http, on loopback
const found = {};

const web = await client.discovery(new URL(issuer), clientId, clientSecret, undefined, insecure);
found.issuer = web.serverMetadata().issuer;

// Signed in by the token alone: every answer of the provider on the way is a redirect.
const verifier = client.randomPKCECodeVerifier();
const state = client.randomState();
const nonce = client.randomNonce();
const asked = client.buildAuthorizationUrl(web, {
  redirect_uri: redirectUri,
  scope: "openid profile offline_access",
  code_challenge: await client.calculatePKCECodeChallenge(verifier),
  code_challenge_method: "S256",
  state,
  nonce,
  session_transfer_token: transferToken,
});
const answer = await fetch(asked, { redirect: "manual" });
found.authorize = answer.status;
const back = new URL(answer.headers.get("location"));
const checks = { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce };
const tokens = await client.authorizationCodeGrant(web, back, checks);
found.name = tokens.claims().name;
found.webRefreshToken = tokens.refresh_token !== undefined;

// The same token again: no OAuth error, the person meets the login page.
const again = await fetch(asked, { redirect: "manual" });
found.again = [again.status, (await again.text()).includes("<form")];

const native = await client.discovery(new URL(issuer), nativeId, undefined, client.None(), insecure);
const first = await client.refreshTokenGrant(native, refreshToken);
found.rotated = first.refresh_token !== undefined && first.refresh_token !== refreshToken;
const current = first.refresh_token ?? refreshToken;
await client.tokenRevocation(native, current, { token_type_hint: "refresh_token" });
const refused = await client.refreshTokenGrant(native, current).then(
  () => "taken",
  (error) => error.error,
);
found.afterRevocation = refused;
assert.ok(found.issuer);
console.log(JSON.stringify(found));
