// A web application that a browser can enter already signed in, with a session transfer token.
//
//   npm install express express-openid-connect
//   ISSUER=https://example.eu.auth0.com CLIENT_ID=... CLIENT_SECRET=... SECRET=... PORT=3000 node app.mjs
//
// With the sandbox: README.md says which client and which secret.
// At the provider: initiate_login_uri is https://APP/login, allowed_authentication_methods has "query".

import express from "express";
import openid from "express-openid-connect";

const { ISSUER, CLIENT_ID, CLIENT_SECRET, SECRET, BASE_URL, PORT = "3000" } = process.env;
const authorizationParams = Object.freeze({ response_type: "code", scope: "openid profile email" });

const app = express();
app.use((req, res, next) => {
  res.set("Referrer-Policy", "no-referrer");
  next();
});
app.use(
  openid.auth({
    issuerBaseURL: ISSUER,
    baseURL: BASE_URL ?? `http://127.0.0.1:${PORT}`,
    clientID: CLIENT_ID,
    clientSecret: CLIENT_SECRET,
    secret: SECRET,
    authorizationParams,
    authRequired: false,
    routes: { login: false }, // ours below
  }),
);

// The configuration above is one object for all visitors. What belongs to one visitor goes into a copy: written into
// the shared object, that token would be sent along with the next visitor's login.
app.get("/login", (req, res) => {
  const token = req.query.session_transfer_token;
  const params = { ...authorizationParams };
  if (typeof token === "string" && token !== "") params.session_transfer_token = token;
  return res.oidc.login({ returnTo: "/", authorizationParams: params });
});

app.get("/", (req, res) => {
  const name = req.oidc.isAuthenticated() ? (req.oidc.user.email ?? req.oidc.user.sub) : "";
  res.type("text").send(name ? `signed in as ${name}\n` : "not signed in: /login\n");
});

const server = app.listen(Number(PORT), "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
