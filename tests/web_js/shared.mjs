// The older sample: one configuration object that all requests write into. Here to measure what that does.

import express from "express";
import openid from "express-openid-connect";

const { ISSUER, CLIENT_ID, CLIENT_SECRET, SECRET, PORT } = process.env;
const config = {
  issuerBaseURL: ISSUER,
  baseURL: `http://127.0.0.1:${PORT}`,
  clientID: CLIENT_ID,
  clientSecret: CLIENT_SECRET,
  secret: SECRET,
  authRequired: false,
  authorizationParams: { response_type: "code", scope: "openid profile email" },
};

const app = express();
app.use((req, res, next) => {
  const { session_transfer_token } = req.query;
  if (session_transfer_token) {
    config.authorizationParams = { ...config.authorizationParams, session_transfer_token };
  }
  openid.auth(config)(req, res, next);
});
app.get("/", (req, res) => {
  const name = req.oidc.isAuthenticated() ? (req.oidc.user.email ?? req.oidc.user.sub) : "";
  res.type("text").send(name ? `signed in as ${name}\n` : "not signed in: /login\n");
});

const server = app.listen(Number(PORT), "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
