// npm's oidc-provider as a program of its own: `node oidc_provider.mjs`.
//
// It reads its options from the first line of standard input, says its issuer in one line on standard output, then
// answers one line of JSON for each that it reads (tokens, log, revoke), and ends with standard input. Where its client
// comes back is the recipe of docs/integrating.md. State is in memory.

import { createPrivateKey, generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import { Provider } from 'oidc-provider';

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
console.info = console.warn; // the library's own notices go to standard error

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const ask = JSON.parse((await lines.next()).value);
const server = createServer();
await new Promise((listens) => server.listen(0, '127.0.0.1', listens));
const issuer = `http://127.0.0.1:${server.address().port}`;

// By way of a text: a key made here and exported as it is shares a lock with what made it, and Node 20 waits for itself
// for ever where that is collected meanwhile: seldom in one start, within hundreds of rounds in a loop.
const { privateKey: pem } = generateKeyPairSync('rsa', {
  modulusLength: 2048,
  publicKeyEncoding: { type: 'spki', format: 'pem' },
  privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
});
const privateKey = createPrivateKey(pem);
const configuration = {
  clients: [
    {
      client_id: 'phone',
      application_type: 'native', // a loopback redirect may then have any port
      token_endpoint_auth_method: 'none',
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      redirect_uris: ['http://127.0.0.1/callback'],
    },
  ],
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'one', use: 'sig', alg: 'RS256' }] },
  cookies: { keys: [randomBytes(32).toString('base64url')] },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  scopes: ['openid', 'offline_access'],
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true }, revocation: { enabled: true } },
  ttl: {
    AccessToken: ask.access_token_s,
    RefreshToken: 14 * 86_400,
    Grant: 14 * 86_400,
    IdToken: 3600,
    Interaction: 3600,
    Session: 14 * 86_400,
  },
};
if (ask.rotation === 'always') configuration.rotateRefreshToken = true;
if (ask.rotation === 'never') configuration.rotateRefreshToken = false;

const provider = new Provider(issuer, configuration);
const tokens = new Map(); // by value, which is an opaque token's identifier
const log = [];
provider.on('refresh_token.saved', (token) => {
  if (tokens.has(token.jti)) return; // saved anew when it is consumed
  tokens.set(token.jti, { value: token.jti, family: token.grantId, user: token.accountId, live: true });
});
const ended = (token) => {
  if (tokens.has(token.jti)) tokens.get(token.jti).live = false;
};
provider.on('refresh_token.consumed', ended);
provider.on('refresh_token.destroyed', ended);
const gone = (grantId) => {
  for (const token of tokens.values()) if (token.family === grantId) token.live = false;
};
provider.on('grant.revoked', (ctx, grantId) => {
  gone(grantId);
  log.push('grant revoked');
});
provider.on('grant.success', (ctx) => log.push(`${ctx.oidc.params.grant_type} 200`));
provider.on('grant.error', (ctx, error) => {
  log.push(`${ctx.oidc.params?.grant_type} ${error.statusCode} ${error.error}: ${error.error_detail ?? ''}`);
});
provider.on('server_error', (ctx, error) => log.push(`server error: ${error.stack}`));

const commands = {
  tokens: () => [...tokens.values()],
  log: () => log,
  revoke: async ({ value }) => {
    const { family } = tokens.get(value);
    await provider.RefreshToken.revokeByGrantId(family);
    await provider.AccessToken.revokeByGrantId(family);
    await (await provider.Grant.find(family))?.destroy();
    gone(family);
    return {};
  },
};
server.on('request', provider.callback());
say({ issuer });
for await (const line of lines) {
  const order = JSON.parse(line);
  say(await commands[order.do](order));
}
process.exit(0);
