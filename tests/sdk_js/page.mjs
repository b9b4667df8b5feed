// The SDK in a real browser, on a page of another origin than the sandbox: what CORS lets through, a page can use.

const { authority, clientId, password } = await (await fetch("/facts")).json();
const mail = async (address) => (await fetch(`/code/${encodeURIComponent(address)}`)).text();
const found = {};

try {
  const { CustomAuthPublicClientApplication } = await import("@azure/msal-browser/custom-auth");
  const app = await CustomAuthPublicClientApplication.create({
    auth: { clientId, authority: "https://contoso.ciamlogin.com/" },
    cache: { cacheLocation: "sessionStorage" },
    customAuth: {
      authApiProxyUrl: authority,
      challengeTypes: ["password", "oob", "redirect"],
      capabilities: ["mfa_required", "registration_required"],
    },
  });
  const wrong = await app.signIn({ username: "password@contoso.example", password: "wrong" });
  found.failure = wrong.error.errorData.error;
  found.isPasswordIncorrect = wrong.error.isPasswordIncorrect();

  let result = await app.signIn({ username: "password@contoso.example", password });
  found.password = result.isCompleted();
  if (result.isCompleted()) {
    found.refreshed = (await result.data.getAccessToken({ forceRefresh: true })).isCompleted();
    await result.data.signOut();
  }

  result = await app.signIn({ username: "mfa@contoso.example", password });
  if (!result.isFailed()) {
    const method = result.state.getAuthMethods().find((one) => one.challenge_channel === "sms");
    const asked = await result.state.requestChallenge(method.id);
    found.secondFactor = (await asked.state.submitChallenge(await mail("+14255550100"))).isCompleted();
  }
} catch (error) {
  found.problem = String(error.stack ?? error);
}
await fetch("/found", { method: "POST", body: JSON.stringify(found) });
