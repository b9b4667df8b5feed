// A single-page application: MSAL with its defaults, and what a test calls of it, by name.

const { library, auth } = await (await fetch("/settings.json")).json();
const { PublicClientApplication } = await import(library);
const app = new PublicClientApplication({ auth });
await app.initialize();

function told(result) {
  if (!result) return { nothing: true };
  app.setActiveAccount(result.account);
  const { accessToken, idTokenClaims, scopes, fromCache, state, account } = result;
  return { accessToken, idTokenClaims, scopes, fromCache, state, username: account.username };
}

const refused = ({ name, errorCode, subError, message }) => ({ name, error: errorCode, subError, message });

window.call = async (method, request) => {
  try {
    return told(await app[method](request));
  } catch (error) {
    return refused(error);
  }
};
window.leave = (method, request) => {
  window.returned = null;
  window.call(method, request).then((told) => {
    if (told.error) window.returned = told; // the page was not left
  });
};
window.accounts = () => app.getAllAccounts().map((account) => account.username);
window.returned = await window.call("handleRedirectPromise");
