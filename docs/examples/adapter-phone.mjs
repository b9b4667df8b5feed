// A phone's state machine at level plain, without `move`: it does what the rows of docs/spec/protocol.json say.
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const { phone } = JSON.parse(readFileSync(new URL("../spec/protocol.json", import.meta.url)));
const hash = (text) => createHash("sha256").update(text).digest("hex");
const isIn = (names, state) => names.some((name) => name === state || phone.groups[name]?.includes(state));
const rowOf = (state, event) => phone.rows.find((row) => row.events.includes(event) && isIn(row.states, state));
const LIVE = { OFFERED: "offered", ACCEPTED: "offered", RELEASED: "released", DONE: "done",
  CANCELLING: "cancelling", REVOKING: "revoking" }; // as HELLO lists them
const UNKNOWN = { unknown: true };
let me, disk, online, answered, did; // `disk` outlives the power; it is saved before anything is sent

const put = (text) => online && did.push({ send: { text } });
function send(type, body, reply = null) {
  const head = { v: 1, type, pairing_id: disk.pairing_id, from: me.device_id, to: disk.peer_id, seq: ++disk.seq };
  const text = JSON.stringify({ ...head, sent_at: me.now, in_reply_to: reply, body });
  put(text);
  return text;
}
function hello() {
  const told = (id) => ({ handoff_id: id, state: LIVE[disk.handoffs[id]], generation: disk.stored[id] ?? 0 });
  const handoffs = Object.keys(disk.handoffs).filter((id) => disk.handoffs[id] in LIVE).map(told);
  const [challenge, seq_accepted] = [randomBytes(16).toString("hex"), Math.max(0, ...Object.keys(disk.seen))];
  send("HELLO", { challenge, seq_sent: disk.seq + 1, seq_accepted, handoffs });
}
function perform(effect, id, reply, state) {
  const mine = Object.keys(disk.open).filter((key) => key.endsWith(id)), type = effect.slice("SEND_".length);
  const reason = { DONE: "done", CANCELLED: "cancelled" }[state] ?? "gone", body = disk.bodies[type + id];
  if (effect === "SETTLE") mine.forEach((key) => delete disk.open[key]);
  else if (effect === "RESEND") mine.forEach((key) => put(disk.open[key]));
  else if (effect === "OBTAIN_TOKEN") did.push({ obtain: id });
  else if (effect === "SEND_CLOSED") send("CLOSED", { handoff_id: id }, reply);
  else if (effect === "SEND_STATUS") send("REJECT", { handoff_id: id, reason }, reply);
  else if (effect.startsWith("SEND_")) disk.open[`${type} ${id}`] = send(type, body ?? { handoff_id: id });
}
function apply(event, id, reply = null, isRepeated = false) {
  const state = disk.handoffs[id] ?? "NEW", row = rowOf(state, event);
  if (!row || (isRepeated && row.next !== "same")) return; // a repeated message never moves anything
  if (row.next !== "same") disk.handoffs[id] = row.next;
  row.effects.forEach((effect) => perform(effect, id, reply, state));
  const isOld = (other) => other !== id && disk.handoffs[other] === "DONE" && disk.whose[other] === disk.whose[id];
  const replaced = row.next === "DONE" && disk.whose[id] ? Object.keys(disk.handoffs).filter(isOld) : [];
  replaced.forEach((other) => apply("superseded", other));
}
const each = (event) => Object.keys(disk.handoffs).forEach((id) => apply(event, id));

const requests = {
  start(request) {
    disk = { seq: 0, seen: {}, open: {}, handoffs: {}, bodies: {}, stored: {}, whose: {} };
    [me, online, answered] = [request, false, new Set()];
    return { speaks: 1, hash: "sha256" };
  },
  connect() {
    online = true;
    if (disk.state === "active") hello();
    Object.values(disk.open).forEach(put);
  },
  restart() {
    [online, answered] = [false, new Set()];
    for (const [id, state] of Object.entries(disk.handoffs)) if (state === "ACCEPTED") did.push({ obtain: id });
  },
  pair(pairing) {
    if (disk.state) return UNKNOWN; // a second pairing, which retires the first
    disk = { ...disk, ...pairing, state: "pending" };
    disk.open.PAIR3 = send("PAIR3", { transcript_hash: pairing.transcript });
  },
  offer({ do: _, ...wish }) {
    if (wish.strategy === "move") return UNKNOWN;
    if (Object.values(disk.handoffs).some((state) => phone.open.includes(state))) return; // the wish joins that one
    const handoff_id = randomBytes(16).toString("hex");
    disk.bodies["OFFER" + handoff_id] = { handoff_id, ...wish, expires_at: me.now + 86400, renews: null };
    apply("offer", handoff_id);
  },
  obtained({ handoff_id, token }) {
    if (disk.handoffs[handoff_id] !== "ACCEPTED") return; // given up meanwhile: nobody holds it
    const { issuer, client_id, scope } = disk.bodies["OFFER" + handoff_id], { pairing_id, peer_key, keys } = disk;
    if (token.scope !== scope) return UNKNOWN; // which words a provider leaves out is the application's to know
    const ids = { v: 1, pairing_id, handoff_id, phone_key: me.public_key, companion_key: peer_key, issuer, client_id };
    const sealed = Buffer.from(JSON.stringify({ ...ids, ...keys, ...token })).toString("base64url");
    disk.whose[handoff_id] = token.subject && [issuer, client_id, token.subject].join(" ");
    disk.bodies["TOKEN" + handoff_id] = { handoff_id, sealed };
    apply("sealed", handoff_id);
  },
  cancel: () => each("cancel"),
  revoke: () => each("revoke"),
  forget() {
    each("forget"); // sends nothing
    disk.state = disk.pairing_id = null;
  },
  receive({ text }) {
    const { v, type, pairing_id, seq, body } = JSON.parse(text), id = body?.handoff_id, again = disk.seen[seq] === text;
    const event = phone.peer_events.find((name) => name === type.toLowerCase()), isProof = type === "PAIR4";
    if (v !== 1 || pairing_id !== disk.pairing_id || (seq in disk.seen && !again)) return UNKNOWN;
    if (!(event && id) && !(isProof && body.transcript_hash === disk.transcript)) return UNKNOWN; // HELLO, RENEW, …
    const isFirst = type === "ACCEPT" && disk.handoffs[id] === "OFFERED";
    const isDropped = again && (type !== "STORED" || answered.has(seq)); // a request is answered again, once in 2 s
    const isWrong = isFirst && !again && body.offer_hash !== hash(disk.open[`OFFER ${id}`]);
    did.push(isDropped || isWrong ? { refuse: isWrong ? "wrong_offer" : "duplicate" } : { save: true }, { ack: true });
    if (isDropped || isWrong) return;
    if (again) answered.add(seq);
    disk.seen[seq] = text;
    if (isFirst) disk.keys = { one_time_key: body.one_time_key, offer_hash: body.offer_hash, accept_hash: hash(text) };
    if (type === "STORED") disk.stored[id] = 1;
    if (!isProof) return apply(event, id, seq, again);
    disk.state = "active";
    delete disk.open.PAIR3;
    hello();
  },
  state() {
    const { state, handoffs, open } = disk;
    return { state: { pairings: state ? { [disk.pairing_id]: { state, handoffs, open: Object.keys(open) } } : {} } };
  },
};
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line), handle = requests[request.do];
  did = request.do === "receive" ? [] : [{ save: true }];
  const answer = handle ? handle(request) : UNKNOWN;
  console.log(JSON.stringify({ ...answer, did }));
}
