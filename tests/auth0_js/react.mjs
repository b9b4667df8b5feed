// A React application with auth0-react. React's packages are CommonJS: they are read as they came, one by one.
const FILES = {
  react: "react/cjs/react.production.js",
  scheduler: "scheduler/cjs/scheduler.production.js",
  "react-dom": "react-dom/cjs/react-dom.production.js",
  "react-dom/client": "react-dom/cjs/react-dom-client.production.js",
  "@auth0/auth0-react": "@auth0/auth0-react/dist/auth0-react.cjs.js",
};
const loaded = {};
const require = (name) => loaded[name];
for (const [name, file] of Object.entries(FILES)) {
  const module = { exports: {} };
  const text = await (await fetch(`/node_modules/${file}`)).text();
  new Function("require", "module", "exports", text)(require, module, module.exports);
  loaded[name] = module.exports;
}
const { createElement: h } = require("react");
const { createRoot } = require("react-dom/client");
const { Auth0Provider, useAuth0, withAuthenticationRequired } = require("@auth0/auth0-react");

const { options } = await (await fetch("/settings.json")).json();
const button = (name, onClick) => h("button", { key: name, onClick }, name);

const Profile = () => h("pre", { id: "user" }, JSON.stringify(useAuth0().user));
const Start = () => {
  const { error, getAccessTokenSilently, isAuthenticated, isLoading, loginWithPopup, loginWithRedirect, logout } =
    useAuth0();
  if (isLoading) return "loading";
  return [
    h("p", { key: "error", id: "error" }, error?.error ?? ""),
    isAuthenticated ? h(Profile, { key: "profile" }) : h("p", { key: "nobody", id: "nobody" }, "nobody"),
    button("popup", () => loginWithPopup()),
    button("redirect", () => loginWithRedirect({ appState: { returnTo: location.pathname } })),
    button("sign out", () => logout({ logoutParams: { returnTo: `${location.origin}/react` } })),
    button("token", async () => (window.token = await getAccessTokenSilently({ cacheMode: "off" }))),
  ];
};
const Page = location.pathname === "/private" ? withAuthenticationRequired(Profile) : Start;
const root = document.body.appendChild(document.createElement("main"));
createRoot(root).render(h(Auth0Provider, options, h(Page)));
