// Every flow of Microsoft's JavaScript SDK for native authentication, unmodified, against the sandbox.

import { strict as assert } from "node:assert";
import {
  PASSWORD, application, bad, events, good, mail, order, other, person, requests, runAll, signInByPassword, test,
} from "./kit.mjs";

const steps = () => requests.map(([path]) => path.replace(/\?.*/, ""));

// -- sign-in ------------------------------------------------------------------------------------------------------------

test("password given with the user name", async () => {
  const username = await person({ password: PASSWORD });
  const account = await signInByPassword(await application(), username);
  assert.equal(account.getAccount().username, username);
  assert.equal(account.getClaims().preferred_username, username);
  assert.deepEqual(steps(), ["oauth2/v2.0/initiate", "oauth2/v2.0/challenge", "oauth2/v2.0/token"]);
});

test("password asked for, wrong once, then right on the same state", async () => {
  const username = await person({ password: PASSWORD });
  const result = good(await (await application()).signIn({ username }));
  assert.ok(result.isPasswordRequired());
  bad(await result.state.submitPassword("wrong"), "isInvalidPassword");
  assert.ok(good(await result.state.submitPassword(PASSWORD)).isCompleted());
});

test("wrong password given with the user name", async () => {
  const username = await person({ password: PASSWORD });
  bad(await (await application()).signIn({ username, password: "wrong" }), "isPasswordIncorrect");
});

test("code by e-mail, wrong once, resent, then right", async () => {
  const username = await person();
  const result = good(await (await application()).signIn({ username }));
  assert.ok(result.isCodeRequired());
  assert.equal(result.state.getCodeLength(), 8);
  const first = await mail(username);
  bad(await result.state.submitCode(other(first)), "isInvalidCode");
  bad(await result.state.submitCode("123"), "isInvalidCode"); // never sent: the SDK looks at the length
  const resent = good(await result.state.resendCode());
  const second = await mail(username);
  bad(await resent.state.submitCode(first === second ? other(first) : first), "isInvalidCode");
  const done = good(await resent.state.submitCode(second));
  assert.ok(done.isCompleted());
  assert.equal(done.data.getAccount().username, username);
});

test("unknown person", async () => {
  bad(await (await application()).signIn({ username: "nobody@contoso.example" }), "isUserNotFound");
});

test("user name that is none", async () => {
  bad(await (await application()).signIn({ username: "two words" }), "isInvalidUsername");
});

test("redirect when the client offers nothing else", async () => {
  const username = await person({ password: PASSWORD });
  bad(await (await application({ types: null })).signIn({ username }), "isRedirectRequired");
});

test("redirect when the account signs in by code and the client cannot", async () => {
  const username = await person();
  bad(await (await application({ types: ["password", "redirect"] })).signIn({ username }), "isRedirectRequired");
});

test("a client without native authentication and an unknown one", async () => {
  const username = await person({ password: PASSWORD });
  await order("clients", { client_id: "00001111-aaaa-2222-bbbb-3333cccc5555", native_auth: false });
  const off = await (await application({ client: "00001111-aaaa-2222-bbbb-3333cccc5555" })).signIn({ username });
  assert.equal(off.error.errorData.subError, "nativeauthapi_disabled");
  const unknown = await (await application({ client: "00001111-aaaa-2222-bbbb-3333cccc6666" })).signIn({ username });
  assert.equal(unknown.error.errorData.error, "unauthorized_client");
});

test("password reset required", async () => {
  const username = await person({ password: PASSWORD });
  await order("revoke", { username, event: "password_expired" });
  bad(await (await application()).signIn({ username, password: PASSWORD }), "isPasswordResetRequired");
});

test("an expired flow", async () => {
  const username = await person({ password: PASSWORD });
  const result = good(await (await application()).signIn({ username }));
  await order("clock", { advance_s: 901 });
  const late = await result.state.submitPassword(PASSWORD);
  assert.equal(late.error.errorData.error, "expired_token");
});

test("a challenge type that the server does not support", async () => {
  const username = await person({ password: PASSWORD });
  await order("faults", { name: "refuse", endpoint: "initiate", code: 901007, error: "unsupported_challenge_type" });
  bad(await (await application()).signIn({ username }), "isUnsupportedChallengeType");
});

test("another name for the account, with the password", async () => {
  const username = await person({ password: PASSWORD, alias: "ann-7" });
  const account = await signInByPassword(await application(), "ann-7");
  assert.equal(account.getAccount().username, username);
});

// -- second factor ------------------------------------------------------------------------------------------------------

const METHODS = [
  { channel: "email", target: "second@contoso.example" },
  { channel: "sms", target: "+14255550199" },
];

test("second factor by e-mail, wrong once", async () => {
  const username = await person({ password: PASSWORD, mfa: "required", methods: METHODS });
  const result = good(await (await application()).signIn({ username, password: PASSWORD }));
  assert.ok(result.isMfaRequired());
  const methods = result.state.getAuthMethods();
  assert.deepEqual(methods.map((method) => method.challenge_channel), ["email", "sms"]);
  const asked = good(await result.state.requestChallenge(methods[0].id));
  assert.ok(asked.isVerificationRequired());
  assert.deepEqual([asked.state.getChannel(), asked.state.getCodeLength()], ["email", 8]);
  const code = await mail("second@contoso.example");
  bad(await asked.state.submitChallenge(other(code)), "isIncorrectChallenge");
  const done = good(await asked.state.submitChallenge(code));
  assert.ok(done.isCompleted());
  assert.equal(done.data.getAccount().username, username);
});

test("second factor by SMS after a change of mind", async () => {
  const username = await person({ password: PASSWORD, mfa: "required", methods: METHODS });
  const result = good(await (await application()).signIn({ username }));
  const wanted = good(await result.state.submitPassword(PASSWORD));
  assert.ok(wanted.isMfaRequired());
  const [email, sms] = wanted.state.getAuthMethods();
  const first = good(await wanted.state.requestChallenge(email.id));
  const second = good(await first.state.requestChallenge(sms.id));
  assert.equal(second.state.getChannel(), "sms");
  assert.ok(good(await second.state.submitChallenge(await mail("+14255550199"))).isCompleted());
});

test("second factor to a blocked contact and to an unknown method", async () => {
  const username = await person({ password: PASSWORD, mfa: "required", methods: METHODS });
  const result = good(await (await application()).signIn({ username, password: PASSWORD }));
  const [email, sms] = result.state.getAuthMethods();
  await order("policy", { blocked_contacts: ["+14255550199"] });
  bad(await result.state.requestChallenge(sms.id), "isVerificationContactBlocked");
  await order("policy", { blocked_contacts: [] });
  assert.ok((await result.state.requestChallenge("no-such-method")).isFailed());
  good(await result.state.requestChallenge(email.id)); // the token was not used up
});

test("redirect when the client does not declare the second factor", async () => {
  const username = await person({ password: PASSWORD, mfa: "required" });
  const app = await application({ capabilities: null });
  bad(await app.signIn({ username, password: PASSWORD }), "isRedirectRequired");
});

test("a tenant's rule asks for a second factor at the next sign-in", async () => {
  const username = await person({ password: PASSWORD, methods: METHODS });
  await order("policy", { conditional_access: 50076 });
  try {
    const result = good(await (await application()).signIn({ username, password: PASSWORD }));
    assert.ok(result.isMfaRequired());
  } finally {
    await order("policy", { conditional_access: null });
  }
});

// -- registration -------------------------------------------------------------------------------------------------------

test("method registered by code", async () => {
  const username = await person({ password: PASSWORD, mfa: "register" });
  const app = await application();
  const result = good(await app.signIn({ username, password: PASSWORD }));
  assert.ok(result.isAuthMethodRegistrationRequired());
  const [email, sms] = result.state.getAuthMethods();
  assert.deepEqual([email.id, email.login_hint, sms.id], ["email", username, "sms"]);
  bad(
    await result.state.challengeAuthMethod({ authMethodType: email, verificationContact: "not an address" }),
    "isInvalidInput",
  );
  const target = "registered@contoso.example";
  const asked = good(await result.state.challengeAuthMethod({ authMethodType: email, verificationContact: target }));
  assert.ok(asked.isVerificationRequired());
  assert.deepEqual([asked.state.getChannel(), asked.state.getSentTo()], ["email", target]);
  const code = await mail(target);
  bad(await asked.state.submitChallenge(other(code)), "isIncorrectChallenge");
  const done = good(await asked.state.submitChallenge(code));
  assert.ok(done.isCompleted());
  good(await done.data.signOut());
  const again = good(await app.signIn({ username, password: PASSWORD }));
  assert.ok(again.isMfaRequired()); // and now it is there
  assert.equal(again.state.getAuthMethods().length, 1);
});

test("phone number registered by code", async () => {
  const username = await person({ password: PASSWORD, mfa: "register" });
  const result = good(await (await application()).signIn({ username, password: PASSWORD }));
  const sms = result.state.getAuthMethods().find((method) => method.challenge_channel === "sms");
  const asked = good(
    await result.state.challengeAuthMethod({ authMethodType: sms, verificationContact: "+1 425 555 0142" }),
  );
  assert.ok(good(await asked.state.submitChallenge(await mail("+14255550142"))).isCompleted());
});

test("proven address registered without a code", async () => {
  const username = await person({ password: PASSWORD, mfa: "register", email_proven: true });
  const result = good(await (await application()).signIn({ username, password: PASSWORD }));
  const [email] = result.state.getAuthMethods();
  const done = good(await result.state.challengeAuthMethod({ authMethodType: email, verificationContact: username }));
  assert.ok(done.isCompleted());
  assert.deepEqual(steps().slice(-3), ["register/v1.0/challenge", "register/v1.0/continue", "oauth2/v2.0/token"]);
});

test("redirect when the client does not declare registration", async () => {
  const username = await person({ password: PASSWORD, mfa: "register" });
  const app = await application({ capabilities: ["mfa_required"] });
  bad(await app.signIn({ username, password: PASSWORD }), "isRedirectRequired");
});

// -- sign-up ------------------------------------------------------------------------------------------------------------

let newcomers = 0;
const newcomer = () => `newcomer-${++newcomers}@contoso.example`;

test("sign-up step by step: code, password, attributes, then signed in", async () => {
  const username = newcomer();
  await order("policy", { required_attributes: ["displayName", { name: "postalCode", regex: "[0-9]{5}" }] });
  try {
    const begun = good(await (await application()).signUp({ username }));
    assert.ok(begun.isCodeRequired());
    const code = await mail(username);
    bad(await begun.state.submitCode(other(code)), "isInvalidCode");
    const resent = good(await begun.state.resendCode());
    const wanted = good(await resent.state.submitCode(await mail(username)));
    assert.ok(wanted.isPasswordRequired());
    bad(await wanted.state.submitPassword("short1!"), "isInvalidPassword");
    bad(await wanted.state.submitPassword("alllowercaseletters"), "isInvalidPassword");
    const more = good(await wanted.state.submitPassword("Wrong-Horse-8"));
    assert.ok(more.isAttributesRequired());
    assert.deepEqual(more.state.getRequiredAttributes().map(({ name }) => name), ["displayName", "postalCode"]);
    bad(await more.state.submitAttributes({ displayName: "New Comer" }), "isMissingRequiredAttributes");
    bad(await more.state.submitAttributes({ displayName: "N", postalCode: "x" }), "isAttributesValidationFailed");
    const done = good(await more.state.submitAttributes({ displayName: "New Comer", postalCode: "98052" }));
    assert.ok(done.isCompleted());
    const signedIn = good(await done.state.signIn());
    assert.ok(signedIn.isCompleted());
    assert.equal(signedIn.data.getClaims().name, "New Comer");
  } finally {
    await order("policy", { required_attributes: [] });
  }
});

test("sign-up with everything at the start", async () => {
  const username = newcomer();
  const app = await application();
  const attributes = { displayName: "One Shot", city: "Oslo" };
  const begun = good(await app.signUp({ username, password: "Wrong-Horse-8", attributes }));
  const done = good(await begun.state.submitCode(await mail(username)));
  assert.ok(done.isCompleted());
  assert.ok(good(await done.state.signIn()).isCompleted());
});

test("sign-up of an account that signs in by code", async () => {
  const username = newcomer();
  const begun = good(await (await application({ types: ["oob", "redirect"] })).signUp({ username }));
  const done = good(await begun.state.submitCode(await mail(username)));
  assert.ok(done.isCompleted());
  assert.ok(good(await done.state.signIn()).isCompleted());
});

test("sign-up with a name that is taken, a weak password, and bad attributes", async () => {
  const app = await application();
  bad(await app.signUp({ username: await person() }), "isUserAlreadyExists");
  bad(await app.signUp({ username: newcomer(), password: "Password1" }), "isInvalidPassword");
  bad(await app.signUp({ username: "no address" }), "isInvalidUsername");
  const attributes = { displayName: "x".repeat(300) };
  bad(await app.signUp({ username: newcomer(), attributes }), "isAttributesValidationFailed");
  bad(await (await application({ types: ["redirect"] })).signUp({ username: newcomer() }), "isRedirectRequired");
});

test("sign-up in a tenant that wants a second method registered", async () => {
  const username = newcomer();
  await order("policy", { sign_up_mfa: "register" });
  try {
    const begun = good(await (await application()).signUp({ username, password: "Wrong-Horse-8" }));
    const done = good(await begun.state.submitCode(await mail(username)));
    const result = good(await done.state.signIn());
    assert.ok(result.isAuthMethodRegistrationRequired());
    const [email] = result.state.getAuthMethods();
    const end = good(await result.state.challengeAuthMethod({ authMethodType: email, verificationContact: username }));
    assert.ok(end.isCompleted()); // proven at sign-up: no second code
  } finally {
    await order("policy", { sign_up_mfa: "none" });
  }
});

// -- password reset -----------------------------------------------------------------------------------------------------

async function resetting(app, username) {
  const begun = good(await app.resetPassword({ username }));
  assert.ok(begun.isCodeRequired());
  const wanted = good(await begun.state.submitCode(await mail(username)));
  assert.ok(wanted.isPasswordRequired());
  return wanted.state;
}

test("password reset, weak and recent passwords refused, then signed in", async () => {
  const username = await person({ password: PASSWORD });
  const app = await application();
  const begun = good(await app.resetPassword({ username }));
  const first = await mail(username);
  bad(await begun.state.submitCode(other(first)), "isInvalidCode");
  const resent = good(await begun.state.resendCode());
  const wanted = good(await resent.state.submitCode(await mail(username)));
  bad(await wanted.state.submitNewPassword("short"), "isInvalidPassword");
  bad(await wanted.state.submitNewPassword(PASSWORD), "isInvalidPassword");
  const done = good(await wanted.state.submitNewPassword("Other-Horse-9"));
  assert.ok(done.isCompleted());
  const signedIn = good(await done.state.signIn());
  assert.ok(signedIn.isCompleted());
  good(await signedIn.data.signOut());
  bad(await app.signIn({ username, password: PASSWORD }), "isPasswordIncorrect");
  assert.ok(good(await app.signIn({ username, password: "Other-Horse-9" })).isCompleted());
});

test("password reset that takes a moment is polled", async () => {
  const username = await person({ password: PASSWORD });
  await order("policy", { reset_duration_s: 0.5, poll_interval_s: 1 });
  try {
    const done = good(await (await resetting(await application(), username)).submitNewPassword("Other-Horse-9"));
    assert.ok(done.isCompleted());
    assert.ok(steps().filter((path) => path.endsWith("poll_completion")).length >= 2);
  } finally {
    await order("policy", { reset_duration_s: 0, poll_interval_s: 2 });
  }
});

test("password reset that fails", async () => {
  const username = await person({ password: PASSWORD });
  await order("policy", { reset_outcome: "failed" });
  try {
    const state = await resetting(await application(), username);
    bad(await state.submitNewPassword("Other-Horse-9"), "isPasswordResetFailed");
  } finally {
    await order("policy", { reset_outcome: "succeeded" });
  }
});

test("password reset of nobody, and of an account without a password", async () => {
  const app = await application();
  bad(await app.resetPassword({ username: "nobody@contoso.example" }), "isUserNotFound");
  assert.deepEqual((await app.resetPassword({ username: await person() })).error.errorData.errorCodes, [500222]);
});

// -- tokens -------------------------------------------------------------------------------------------------------------

test("three refreshes, each with the newest refresh token", async () => {
  const username = await person({ password: PASSWORD });
  const account = await signInByPassword(await application(), username);
  const seen = new Set();
  for (let turn = 0; turn < 3; turn++) {
    const { data } = good(await account.getAccessToken({ forceRefresh: true }));
    seen.add(data.accessToken);
  }
  assert.equal(seen.size, 3);
  const used = (await events("refresh_committed")).filter((event) => event.username === username);
  assert.deepEqual(used.map((event) => event.used_generation), [1, 2, 3]);
});

test("a token from the cache asks nobody", async () => {
  const account = await signInByPassword(await application(), await person({ password: PASSWORD }));
  const before = requests.length;
  good(await account.getAccessToken({ forceRefresh: false }));
  assert.equal(requests.length, before);
});

test("a revoked grant is refused", async () => {
  const username = await person({ password: PASSWORD });
  const account = await signInByPassword(await application(), username);
  await order("revoke", { username });
  const refused = await account.getAccessToken({ forceRefresh: true });
  assert.ok(refused.isFailed());
  assert.match(String(refused.error.errorData.errorDescription ?? refused.error.errorData), /AADSTS50173/);
});

test("a rule of the tenant at refresh asks for the person", async () => {
  const username = await person({ password: PASSWORD });
  for (const code of [50076, 53003, 70043]) {
    sessionStorage.clear();
    const account = await signInByPassword(await application(), username);
    await order("policy", { conditional_access: code });
    try {
      const refused = await account.getAccessToken({ forceRefresh: true });
      assert.ok(refused.isFailed());
      const shown = String(refused.error.errorData.errorDescription ?? refused.error.errorData);
      assert.match(shown, new RegExp(`AADSTS${code}`));
    } finally {
      await order("policy", { conditional_access: null });
    }
  }
});

test("a refresh token that the server calls bad is thrown away, the account stays", async () => {
  const username = await person({ password: PASSWORD });
  const app = await application();
  const account = await signInByPassword(app, username);
  await order("policy", { conditional_access: 70043 });
  try {
    assert.ok((await account.getAccessToken({ forceRefresh: true })).isFailed());
  } finally {
    await order("policy", { conditional_access: null });
  }
  const before = requests.length;
  assert.ok((await account.getAccessToken({ forceRefresh: true })).isFailed());
  assert.equal(requests.length, before); // it has no refresh token to ask with
  assert.ok(app.getCurrentAccount().isCompleted());
});

test("a refresh whose answer is lost is repeated with the old refresh token", async () => {
  const username = await person({ password: PASSWORD });
  const account = await signInByPassword(await application(), username);
  await order("faults", { name: "drop_after_commit", grant_type: "refresh_token" });
  const first = await account.getAccessToken({ forceRefresh: true });
  if (first.isFailed()) good(await account.getAccessToken({ forceRefresh: true })); // else fetch has asked twice by itself
  const used = (await events("refresh_committed")).filter((event) => event.username === username);
  assert.deepEqual(used.map((event) => event.used_generation), [1, 1]);
});

test("throttling stops the client for as long as it is told", async () => {
  const username = await person({ password: PASSWORD });
  const account = await signInByPassword(await application(), username);
  await order("faults", { name: "throttle_429", grant_type: "refresh_token", retry_after_s: 60 });
  assert.ok((await account.getAccessToken({ forceRefresh: true })).isFailed());
  const before = requests.length;
  assert.ok((await account.getAccessToken({ forceRefresh: true })).isFailed());
  assert.equal(requests.length, before); // the SDK did not even ask
});

test("claims challenge answered with a refresh", async () => {
  const username = await person({ password: PASSWORD });
  await order("policy", { cae: true });
  try {
    const account = await signInByPassword(await application({ cp1: true }), username);
    const first = good(await account.getAccessToken({ forceRefresh: true })).data.accessToken;
    await order("revoke", { username, event: "claims_challenge" });
    const claims = JSON.stringify({ access_token: { nbf: { essential: true, value: "1" } } });
    const second = good(await account.getAccessToken({ forceRefresh: true, claims })).data.accessToken;
    assert.notEqual(first, second);
    assert.deepEqual(JSON.parse(atob(second.split(".")[1])).xms_cc, ["CP1"]);
  } finally {
    await order("policy", { cae: false });
  }
});

test("the account is there for the next page, until signed out", async () => {
  const username = await person({ password: PASSWORD });
  await signInByPassword(await application(), username);
  const found = (await application()).getCurrentAccount();
  assert.ok(found.isCompleted());
  assert.equal(found.data.getAccount().username, username);
  good(await found.data.signOut());
  assert.ok((await application()).getCurrentAccount().isFailed());
});

// -- version 2 (preview) ------------------------------------------------------------------------------------------------

const is = (result, wanted) => {
  assert.equal(good(result).state.stateType, wanted);
  return result.state;
};

test("version 2: password, wrong once, then a refresh", async () => {
  const username = await person({ password: PASSWORD });
  const app = await application();
  const asked = is(await app.signInV2({ username, scopes: ["api://orders/Orders.Read"] }), "passwordRequired");
  bad(await asked.submitPassword("wrong"), "isInvalidPassword");
  const done = await asked.submitPassword(PASSWORD);
  is(done, "completed");
  assert.equal(done.data.getAccount().username, username);
  assert.deepEqual(steps().slice(-3), ["api/v2.0/verify", "oauth2/v2.0/authorize-challenge", "oauth2/v2.0/token"]);
  const scopes = ["api://orders/Orders.Read"];
  assert.ok(good(await done.data.getAccessToken({ forceRefresh: true, scopes })).data.accessToken);
  good(await done.data.signOut());
  bad(await app.signInV2({ username: "nobody@contoso.example" }), "isUserNotFound");
});

test("version 2: code by e-mail, wrong once, resent, then right", async () => {
  const username = await person();
  const sent = is(await (await application()).signInV2({ username }), "codeRequired");
  assert.deepEqual([sent.channel, sent.codeLength], ["email", 8]);
  bad(await sent.submitCode(other(await mail(username))), "isInvalidCode");
  const resent = is(await sent.resendCode(), "codeRequired");
  is(await resent.submitCode(await mail(username)), "completed");
});

test("version 2: second factor by SMS, and none where the first was a code", async () => {
  const username = await person({ password: PASSWORD, mfa: "required", methods: METHODS });
  const asked = is(await (await application()).signInV2({ username }), "passwordRequired");
  const wanted = is(await asked.submitPassword(PASSWORD), "authMethodSelectionRequired");
  const sent = is(await wanted.selectAuthMethod(wanted.methods.find(({ type }) => type === "sms")), "mfaVerificationRequired");
  bad(await sent.submitChallenge(other(await mail("+14255550199"))), "isInvalidChallenge");
  const resent = is(await sent.resendChallenge(), "mfaVerificationRequired");
  is(await resent.submitChallenge(await mail("+14255550199")), "completed");
});

test("version 2: methods registered, by e-mail and by phone", async () => {
  for (const [type, contact] of [["email", "other@contoso.example"], ["phone", "+14255550143"]]) {
    const username = await person({ password: PASSWORD, mfa: "register" });
    const asked = is(await (await application()).signInV2({ username }), "passwordRequired");
    const wanted = is(await asked.submitPassword(PASSWORD), "authMethodRegistrationRequired");
    const sent = is(
      await wanted.selectAuthMethod(wanted.methods.find((one) => one.type === type), contact),
      "authMethodVerificationRequired",
    );
    bad(await sent.submitChallenge(other(await mail(contact))), "isInvalidChallenge");
    const resent = is(await sent.resendChallenge(), "authMethodVerificationRequired");
    const done = await resent.submitChallenge(await mail(contact));
    is(done, "completed");
    await done.data.signOut();
  }
});

test("version 2: sign-up, attributes and password afterwards; a name that is taken signs in", async () => {
  const username = newcomer();
  await order("policy", { required_attributes: ["displayName", { name: "postalCode", regex: "[0-9]{5}" }] });
  try {
    const app = await application();
    const sent = is(await app.signUpV2({ username, attributes: { displayName: "New Comer" } }), "codeRequired");
    bad(await sent.submitCode(other(await mail(username))), "isInvalidCode");
    const asked = is(await sent.submitCode(await mail(username)), "passwordRequired");
    bad(await asked.submitPassword("short1!"), "isInvalidPassword");
    const more = is(await asked.submitPassword("Wrong-Horse-8"), "attributesRequired");
    bad(await more.submitAttributes({ postalCode: "x" }), "isInvalidAttributes");
    const ended = is(await more.submitAttributes({ postalCode: "98052" }), "signInContinuation");
    const done = await ended.signIn();
    is(done, "completed");
    assert.equal(done.data.getClaims().name, "New Comer");
    await done.data.signOut();
    const known = is(await app.signUpV2({ username }), "existingAccountPasswordRequired");
    is(await known.submitPassword("Wrong-Horse-8"), "completed");
  } finally {
    await order("policy", { required_attributes: [] });
  }
});

test("version 2: password reset, then a second factor", async () => {
  const username = await person({ password: PASSWORD, mfa: "required", methods: METHODS });
  const app = await application();
  const sent = is(await app.resetPasswordV2({ username }), "codeRequired");
  const proven = is(await sent.submitCode(await mail(username)), "newPasswordRequired");
  bad(await proven.submitNewPassword("short1!"), "isInvalidPassword");
  const wanted = is(await proven.submitNewPassword("Wrong-Horse-8"), "authMethodSelectionRequired");
  const asked = is(await wanted.selectAuthMethod(wanted.methods[0]), "mfaVerificationRequired");
  const ended = is(await asked.submitChallenge(await mail("second@contoso.example")), "signInContinuation");
  is(await ended.signIn(), "completed");
});

test("version 2: the service wants a browser", async () => {
  const username = await person({ password: PASSWORD });
  const fault = { name: "refuse", error: "invalid_grant", suberror: "web_redirect_required", code: 50076 };
  for (const endpoint of ["authorize_challenge", "native_step"]) {
    await order("faults", { ...fault, endpoint });
    bad(await (await application()).signInV2({ username }), "isBrowserRequired");
  }
});

await runAll();
