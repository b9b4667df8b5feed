// A single-page application with auth0-spa-js. A test calls what its buttons would call; which version, and the options,
// come from settings.json.
const { sdk, options } = await (await fetch("/settings.json")).json();
const { createAuth0Client, default: createFirst } = await import(sdk);
const auth0 = await (createAuth0Client ?? createFirst)(options);

const told = async (promise) => {
  try {
    return { value: await promise };
  } catch (problem) {
    return { name: problem.constructor.name, error: problem.error ?? problem.message, text: problem.error_description };
  }
};

const query = new URLSearchParams(location.search);
if (query.has("state") && (query.has("code") || query.has("error"))) {
  window.arrived = await told(auth0.handleRedirectCallback());
  history.replaceState({}, "", location.pathname);
}
window.call = (method, ...words) => told(auth0[method](...words));
window.leave = (method, ...words) => void auth0[method](...words); // the page goes away meanwhile
window.ask = async (path) => { // an API that takes the application's tokens, by the SDK's own fetch
  const fetcher = auth0.createFetcher({ baseUrl: options.domain, dpopNonceId: options.useDpop && "api" });
  const answer = await fetcher.fetchWithAuth(path);
  return { status: answer.status, ...(await answer.json()) };
};
