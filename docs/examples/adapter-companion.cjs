// A companion up to its ACCEPT, at level plain: its steps are the rows of docs/spec/protocol.json.
const { createHash } = require("node:crypto");
const { companion } = require("../spec/protocol.json");
let me, disk, did; // `disk` is what the power does not take away; `did` is what one request made the program do
const isIn = (names, state) => names.some((name) => name === state || companion.groups[name]?.includes(state));
function send(type, body, in_reply_to) {
  const head = { v: 1, type, pairing_id: disk.pairing_id, from: me.device_id, to: disk.peer_id, seq: ++disk.seq };
  return did.push({ send: { text: JSON.stringify({ ...head, sent_at: me.now, in_reply_to, body }) } });
}
function receive(text) { // returns nothing for what the program does not know yet
  const { v, type, pairing_id, seq, body } = JSON.parse(text), handoff_id = body.handoff_id, event = type.toLowerCase();
  if (v > 1 || pairing_id !== disk.pairing_id || disk.seen.includes(seq) || body.expires_at) return undefined;
  disk.seen.push(seq);
  if (type === "PAIR3" && body.transcript_hash === disk.transcript) return send("PAIR4", body, seq);
  const state = disk.handoffs[handoff_id] ?? "NONE";
  const isNext = Object.values(disk.handoffs).includes("READY") && ["OFFER", "TOKEN"].includes(type);
  if (isNext || !handoff_id || !companion.peer_events.includes(event)) return undefined;
  const offer_hash = createHash("sha256").update(text).digest("hex");
  disk.accepts[handoff_id] ??= { one_time_key: handoff_id.repeat(2), offer_hash }; // no key, as nothing is sealed
  const revoked = { provider: "unknown", access_token_ends_at: 0 };
  const bodies = { ACCEPT: disk.accepts[handoff_id], REVOKED: revoked, CANCELLED: {}, LOST: {} };
  const row = companion.rows.find((row) => row.events.includes(event) && isIn(row.states, state));
  const answer = companion.answers.find((line) => isIn(line.states, state))?.effect;
  if (row && row.next !== "same") disk.handoffs[handoff_id] = row.next;
  for (const effect of row?.effects ?? []) {
    const said = (effect === "ANSWER_STATUS" ? answer : effect).replace("SEND_", "");
    if (said in bodies) send(said, { handoff_id, ...bodies[said] }, seq);
  }
  return true;
}
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { do: what, ...request } = JSON.parse(line);
  did = [{ save: true }];
  if (what === "start") [me, disk] = [request, { seq: 0, seen: [], handoffs: {}, accepts: {} }];
  const can = { start: true, state: true, connect: disk.seq === 0 }; // a pairing that is active would be greeted
  if (what === "pair" && !disk.pairing_id) can.pair = Object.assign(disk, request);
  if (what === "receive") can.receive = receive(request.text);
  const pairings = { [disk.pairing_id]: { state: disk.seq ? "active" : "pending", handoffs: disk.handoffs } };
  console.log(JSON.stringify(can[what] ? { speaks: 1, hash: "sha256", did, state: { pairings } } : { unknown: true }));
});
